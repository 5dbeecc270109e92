"""
Redaction: finds secrets in texts and JSON values, in every encoding in which they may occur, and replaces each by a placeholder.

A placeholder names the secret and its encoding, `⟦secret:slack/apn_1/oauth_access_token|base64+1⟧`, so that `restore`
returns the exact text. A secret shorter than `MIN_SECRET_CHARS` would match ordinary output; it is redacted only as the value of a
key with the name of its field. `secret_patterns` recognises secrets whose values are not known.
"""

from __future__ import annotations

import base64
import contextlib
import heapq
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import cast
from urllib.parse import quote, quote_plus

import msgspec
import orjson

from pdkernel.common.encode import LONE_SURROGATE, decode_large, encode_json
from pdkernel.model import JSON

MIN_SECRET_CHARS = 8
"""The number of characters from which a secret is searched for everywhere; shorter secrets would match ordinary words."""
PLACEHOLDER_START = "⟦secret:"
"""The start of every placeholder."""
_MAX_COMPARED_CHARS = 1 << 18
"""How many characters of a chunk are compared with beginnings of secrets that differ in the end."""


class StreamRedactor:
    """
    Redacts a text that arrives in chunks, with the same result as for the whole text.

    A possible start of a secret is held back until the next chunk. All other text is returned at once, so that a log can be read
    while it is written.
    """

    def __init__(self, scanner: PatternScanner) -> None:
        self._scanner = scanner
        self._pending = _ScanState()

    def feed(self, text: str) -> str:
        """Add a chunk; returns the redacted text that can no longer change."""
        if self._scanner.is_empty:
            return text
        self._pending.buffer += text
        return self._scanner.replace_until(self._pending, self._scanner.find_safe_end(self._pending.buffer))

    def take_pending(self) -> str:
        """End the text; returns what was held back, without redaction."""
        pending, self._pending = self._pending.buffer[self._pending.emitted :], _ScanState()
        return pending

    def close(self) -> str:
        """End the text; returns the redacted text that was held back."""
        if not self._pending.buffer:
            return ""
        return self._scanner.replace_until(self._pending, len(self._pending.buffer))


@dataclass(slots=True)
class _ScanState:
    """The state of a scan: *buffer* is returned up to *emitted*; what is before it may overlap a pattern that is not yet complete."""

    buffer: str = ""
    emitted: int = 0


@dataclass(slots=True)
class _Run:
    """Occurrences of one pattern that overlap: they begin at *first*, *first* + *period*, and so on up to *last*."""

    first: int
    last: int
    period: int

    def latest_start(self, position: int) -> int:
        """Return the start of the latest occurrence that begins at *position* or before it, where *first* is not after it."""
        return self.last if position >= self.last else position - (position - self.first) % self.period


class PatternScanner:
    """Searches for many fixed texts at once; *patterns* maps each text to the label of its placeholder."""

    def __init__(self, patterns: Mapping[str, str]) -> None:
        self._labels = dict(patterns)
        ordered = sorted(patterns, key=len, reverse=True)
        self.is_empty = not ordered
        self._longest = len(ordered[0]) if ordered else 0
        self._patterns_by_word: dict[int, list[str]] = {}
        for text in ordered:
            for word in set(_words_of(text)):
                self._patterns_by_word.setdefault(word, []).append(text)
        self._words = frozenset(self._patterns_by_word)
        self._by_prefix: dict[str, list[str]] = {}
        for text in ordered:
            for length in range(1, MIN_SECRET_CHARS + 1):
                self._by_prefix.setdefault(text[:length], []).append(text)
        self._periods: dict[str, int] = {}

    def replace(self, text: str) -> str:
        """Return *text* with a placeholder for each pattern."""
        if self.is_empty or len(text) < MIN_SECRET_CHARS or not self.can_match(text):
            return text
        return self.replace_until(_ScanState(text), len(text))

    def can_match(self, text: str | bytes) -> bool:
        """
        Return whether *text* (text or UTF-8) may contain a pattern. It is a cheap test, because most texts contain none.

        A pattern of eight or more bytes contains a whole aligned word of four bytes, regardless of its offset. So one check of each
        aligned word of the text, in C, is enough for any number of patterns.
        """
        return not self._words.isdisjoint(_aligned_words(text))

    def find_safe_end(self, buffer: str) -> int:
        """
        Return a position in *buffer* before which no pattern has begun that later text completes.

        It is the last such position, unless very many characters are the same as those of a pattern and then differ.
        """
        chars = _MAX_COMPARED_CHARS
        for start in range(max(0, len(buffer) - self._longest + 1), len(buffer)):
            length = len(buffer) - start
            for pattern in self._by_prefix.get(buffer[start : start + MIN_SECRET_CHARS], ()):
                if len(pattern) > length:
                    chars -= length
                    if chars < 0 or pattern.startswith(buffer[start:]):
                        return start
        return len(buffer)

    def replace_until(self, pending: _ScanState, limit: int) -> str:
        """
        Replace the patterns that begin before *limit* in the buffer; return the finished text and remove it from the buffer.

        Where patterns overlap, each placeholder is that of the pattern that reaches furthest, so that there are few of them.
        """
        buffer, position, out = pending.buffer, pending.emitted, list[str]()
        waiting: list[tuple[int, str, _Run]] = []
        runs = {pattern: self._runs(buffer, pattern, limit) for pattern in self._find_candidates(buffer)}
        reached: dict[str, _Run] = {}

        def wait_for_next(pattern: str) -> None:
            if run := next(runs[pattern], None):
                heapq.heappush(waiting, (run.first, pattern, run))

        for pattern in runs:
            wait_for_next(pattern)
        while position < limit:
            while waiting and waiting[0][0] <= position:
                _, pattern, reached[pattern] = heapq.heappop(waiting)
                wait_for_next(pattern)
            end, start, found = position, 0, ""
            for pattern, run in list(reached.items()):
                its_start = run.latest_start(position)
                its_end = its_start + len(pattern)
                if its_end <= position:
                    del reached[pattern]
                elif its_end > end or (its_end == end and its_start < start):
                    end, start, found = its_end, its_start, pattern
            if found:
                rest = f"[{position - start}:]" if start < position else ""
                out.append(f"{PLACEHOLDER_START}{self._labels[found]}{rest}⟧")
            else:
                end = waiting[0][0] if waiting else limit
                out.append(buffer[position:end])
            position = end
        while waiting and waiting[0][0] <= position:  # also if the buffer is finished beyond the limit
            _, pattern, reached[pattern] = heapq.heappop(waiting)
            wait_for_next(pattern)
        starts = ((pattern, run.latest_start(position)) for pattern, run in reached.items())
        overlapping = (start for pattern, start in starts if start + len(pattern) > position)
        done = min([limit, position, *overlapping])
        pending.buffer = buffer[done:]
        pending.emitted = position - done
        return "".join(out)

    def _find_candidates(self, buffer: str) -> set[str]:
        """Return the patterns that *buffer* may contain."""
        return {
            pattern
            for word in self._words.intersection(_aligned_words(buffer))
            for pattern in self._patterns_by_word[word]
        }

    def _runs(self, buffer: str, pattern: str, limit: int) -> Iterator[_Run]:
        """
        Yield the occurrences of *pattern* in *buffer* that begin before *limit*, and perhaps some that begin later.

        The search is in C. Two runs are at least half a pattern apart, so it takes linear time for a periodic text too.
        """
        first = buffer.find(pattern)
        while 0 <= first < limit:
            period, end = self._period(pattern), first + len(pattern)
            if period < len(pattern) and buffer.startswith(pattern[-period:], end):
                for count in (256, 16, 1):
                    unit = pattern[-period:] * max(1, count // period)
                    while buffer.startswith(unit, end):
                        end += len(unit)
            last = end - len(pattern)
            yield _Run(first, last, period)
            first = buffer.find(pattern, last + 1)

    def _period(self, pattern: str) -> int:
        """Return the smallest number of characters after which *pattern* repeats, or its length if that is more than half of it."""
        if pattern not in self._periods:
            # if any shift of up to half of the pattern is a period, the first at which its first half matches is the smallest
            shift = pattern.find(pattern[: (len(pattern) + 1) // 2], 1)
            is_period = 0 < shift <= len(pattern) // 2 and pattern.startswith(pattern[shift:])
            self._periods[pattern] = shift if is_period else len(pattern)
        return self._periods[pattern]


def _aligned_words(text: str | bytes) -> memoryview:
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    return memoryview(data)[: len(data) & ~3].cast("I")


def _words_of(text: str) -> Iterator[int]:
    data = text.encode("utf-8", "surrogatepass")
    for offset in range(4):
        yield int.from_bytes(data[offset : offset + 4], sys.byteorder)


_PLACEHOLDER = re.compile(r"⟦secret:([^⟦⟧\[\]|]*(?:\|[^⟦⟧\[\]|]+)?)(?:\[(\d+):\])?⟧")
_LITERAL_LABEL = "|literal"
_START_BYTES = PLACEHOLDER_START.encode()
_ESCAPED_START_BYTES = f"{PLACEHOLDER_START}{_LITERAL_LABEL}⟧".encode()
_MIN_SECRET_LINE_CHARS = 16
_BASE64_COLUMNS = 76
_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))


@dataclass(frozen=True, slots=True)
class Secret:
    """
    One secret value.

    Attributes:
        ref: Name of the secret in placeholders: `slack/apn_1/oauth_access_token`, `env/NAME`. The part after the last slash
            is the name of the secret's field.
        value: The secret; not part of the repr.
    """

    ref: str
    value: str = field(repr=False)


@lru_cache(maxsize=64)
def get_redactor(*secrets: Secret) -> Redactor:
    """Return the redactor of *secrets*, cached: building one takes time, and many runs have the same secrets."""
    return Redactor(secrets)


def mask_values(text: str, values: Iterable[str]) -> str:
    """Return *text* with `***` in place of each of *values* in any encoding; values of fewer than four characters are not masked."""
    known = [value for value in values if len(value) > 3]
    redacted = _PLACEHOLDER.sub("***", Redactor(Secret("value", value) for value in known).redact_text(text))
    for value in known:
        redacted = redacted.replace(value, "***")
    return redacted


def find_redacted_values(value: JSON, redacted: JSON) -> list[Secret]:
    """
    Return the secrets in *value* that *redacted*, a result of `redact_value` of an equal value, has placeholders for.

    A secret is found in the form in which *value* contains it.
    """
    found: dict[Secret, None] = {}
    pending = [(value, redacted)]
    while pending:
        plain, shown = pending.pop()
        if isinstance(plain, dict) and isinstance(shown, dict):
            pending += [(plain[key], shown[key]) for key in plain.keys() & shown.keys()]
        elif isinstance(plain, list) and isinstance(shown, list):
            pending += zip(plain, shown, strict=False)
        elif isinstance(shown, str) and shown != plain:
            text = plain if isinstance(plain, str) else json.dumps(plain)
            parts = _PLACEHOLDER.split(shown)  # text, ref, offset, text, ...
            hidden = re.fullmatch("(.+?)".join(map(re.escape, parts[::3])), text, re.DOTALL)
            refs = [ref.partition("|")[0] for ref in parts[1::3]]
            found |= dict.fromkeys(map(Secret, refs, hidden.groups() if hidden else ()))
    return [secret for secret in found if secret.ref]  # text that looks like a placeholder has no ref


class Redactor:
    """
    Redacts a set of secrets, and restores them.

    `redact_text` and `open_stream` are for output (logs, URLs, messages). They keep existing placeholders, so redacting
    twice changes nothing. `redact_value` is for exports. It also escapes text that looks like a placeholder, so
    `restore(redact_value(x)) == x` for every x, and a placeholder in an event does not reveal a secret. Therefore, call
    `restore` only on results of `redact_value`, and do not apply `redact_value` twice. Another redactor, with more or fewer
    secrets, may restore the result: so a redactor without secrets escapes such text, too.
    """

    def __init__(self, secrets: Iterable[Secret] = ()) -> None:
        by_label: dict[str, str] = {}
        self._forms: dict[str, list[str]] = {}
        self._short: dict[tuple[str, str], str] = {}
        self._numbers: dict[str, str] = {}
        self._refs: list[str] = []
        known = [secret for secret in secrets if secret.value]
        for secret, ref in zip(known, _refs(known), strict=True):
            by_label[ref] = secret.value
            self._refs.append(ref)
            if _is_number(secret.value):
                by_label[f"{ref}|number"] = secret.value
            if len(secret.value) < MIN_SECRET_CHARS:
                self._short.setdefault((secret.ref.rpartition("/")[2].casefold(), secret.value), ref)
                continue
            if _is_number(secret.value):
                self._numbers.setdefault(secret.value, ref)
            forms = {f"{ref}|{form}" if form else ref: text for form, text in iter_encoded_forms(secret.value)}
            self._forms[secret.ref] = [*self._forms.get(secret.ref, ()), *forms.values()]
            by_label.update(forms)
        self._has_secrets = bool(known)
        self._has_surrogates = any(LONE_SURROGATE.search(text) for text in by_label.values())
        self._plain_types = {bool, type(None)} if self._numbers else {bool, type(None), int, float}
        self._by_label = {**by_label, _LITERAL_LABEL: PLACEHOLDER_START}
        patterns: dict[str, str] = {}
        for label, text in by_label.items():
            if len(text) >= MIN_SECRET_CHARS and not label.endswith("|number"):
                patterns.setdefault(text, label)
        self._text_scanner = PatternScanner(patterns)
        self._value_scanner = PatternScanner({**patterns, PLACEHOLDER_START: _LITERAL_LABEL})
        self._json_scanner = PatternScanner(dict(_iter_json_patterns(patterns)))

    def redact_text(self, text: str) -> str:
        """Return *text* with a placeholder in place of each secret, in any encoding."""
        return self._text_scanner.replace(text)

    def open_stream(self) -> StreamRedactor:
        """Return a redactor for a text that arrives in chunks."""
        return StreamRedactor(self._text_scanner)

    def redact_value(self, value: JSON) -> JSON:
        """
        *value* with a placeholder in place of each secret in its texts, keys and numbers.

        A secret shorter than `MIN_SECRET_CHARS` is redacted where it is the whole value of a key with its field's name.
        Without a secret and text that looks like a placeholder, the result is *value* itself.
        """
        # whether a short secret is redacted depends on its key
        return self._redact(value) if self._short or self._has_surrogates else self._redact_json(value)

    def _redact_json(self, value: JSON) -> JSON:
        """
        Search the JSON of *value*, because visiting each item takes ten times as long.

        Text that looks like a placeholder is escaped there, too, if there is no secret: its start is the same in JSON.
        """
        text = encode_json(value)
        if self._has_secrets and self._json_scanner.can_match(text):
            return self._redact(value)
        if _START_BYTES not in text:
            return value
        try:
            return cast("JSON", decode_large(msgspec.json.decode, text.replace(_START_BYTES, _ESCAPED_START_BYTES)))
        except (msgspec.DecodeError, UnicodeError):  # half of a surrogate pair
            return self._redact(value)

    def _redact(self, value: JSON) -> JSON:
        match value:
            case str():
                return self._value_scanner.replace(value)
            case dict():
                redacted = {}
                for key, item in value.items():
                    redacted[self._value_scanner.replace(key)] = self._short_field(key, item) or self._redact(item)
                return redacted
            case list():
                # millions of numbers are skipped in a fraction of the time
                return [item if type(item) in self._plain_types else self._redact(item) for item in value]
            case int() | float() if self._numbers and not isinstance(value, bool):
                ref = self._numbers.get(json.dumps(value))
                return value if ref is None else f"{PLACEHOLDER_START}{ref}|number⟧"
            case _:
                return value

    def restore(self, value: JSON) -> JSON:
        """Return *value*, a result of `redact_value` of this redactor, with every secret restored. Other placeholders stay."""
        match value:
            case str():
                return self._restore_text(value) if PLACEHOLDER_START in value else value
            case dict():
                restored = {}
                for key, item in value.items():
                    restored[self._restore_placeholders(key)] = self.restore(item)
                return restored
            case list():
                return list(map(self.restore, value))
            case _:
                return value

    @property
    def secret_refs(self) -> list[str]:
        """The refs of all secrets, as in placeholders. Two secrets may have the same value."""
        return list(self._refs)

    def find_secrets(self, text: str) -> list[str]:
        """Return the refs of the secrets of `MIN_SECRET_CHARS` or more characters in *text*, in any encoding."""
        if not self._text_scanner.can_match(text):
            return []
        return [ref for ref, forms in self._forms.items() if any(form in text for form in forms)]

    def find_unknown_refs(self, redacted: JSON) -> list[str]:
        """Return the refs in placeholders of *redacted* that `restore` leaves, because they name no secret of this redactor."""
        labels = {placeholder[1] for placeholder in _PLACEHOLDER.finditer(encode_json(redacted).decode())}
        return sorted({label.partition("|")[0] for label in labels - self._by_label.keys() - {_LITERAL_LABEL}})

    def _short_field(self, key: str, item: JSON) -> str | None:
        """Return the placeholder for *item* if it is a short secret and *key* is the name of its field; otherwise None."""
        if not self._short or isinstance(item, bool) or not isinstance(item, str | int | float):
            return None
        ref = self._short.get((key.casefold(), item if isinstance(item, str) else json.dumps(item)))
        if ref is None:
            return None
        return f"{PLACEHOLDER_START}{ref}⟧" if isinstance(item, str) else f"{PLACEHOLDER_START}{ref}|number⟧"

    def _restore_text(self, text: str) -> JSON:
        whole = _PLACEHOLDER.fullmatch(text)
        if whole and whole[1].endswith("|number") and whole[1] in self._by_label:
            number: int | float = json.loads(self._by_label[whole[1]])
            return number
        return self._restore_placeholders(text)

    def _restore_placeholders(self, text: str) -> str:
        def original(placeholder: re.Match[str]) -> str:
            known = self._by_label.get(placeholder[1])
            return placeholder[0] if known is None else known[int(placeholder[2] or 0) :]

        return _PLACEHOLDER.sub(original, text)


def find_contained_secrets(secrets: Iterable[Secret], value: object) -> tuple[Secret, ...]:
    """Return the *secrets* that `redact_value` hides in the JSON of *value*, in any encoding."""
    known = tuple(secrets)
    redactor, text = get_redactor(*known), encode_json(value)
    found = redactor.find_secrets(text.decode())
    short: set[Secret] = set()
    if any(0 < len(secret.value) < MIN_SECRET_CHARS for secret in known):
        plain = json.loads(text)
        short = set(find_redacted_values(plain, redactor.redact_value(plain)))
    return tuple(secret for secret in known if secret.ref in found or secret in short)


def iter_encoded_forms(value: str) -> Iterator[tuple[str, str]]:
    """Yield (name, encoded text) for every form of *value* to search for; the name of the plain form is empty."""
    yield "", value
    yield from _iter_encodings(value, "")
    trimmed = value.strip()
    if trimmed != value and len(trimmed) >= MIN_SECRET_CHARS:
        yield "trimmed", trimmed
        yield from _iter_encodings(trimmed, "trimmed-")
    lines = value.splitlines()
    if len(lines) > 1:
        # Node.js prints a text of several lines as one literal per line, so each line is a form of its own
        for number, line in enumerate(lines, start=1):
            if len(line) >= _MIN_SECRET_LINE_CHARS and not line.startswith("-----"):
                yield f"line{number}", line


def _iter_encodings(value: str, prefix: str) -> Iterator[tuple[str, str]]:
    data = value.encode("utf-8", "surrogatepass")
    for name, encode in _TEXT_ENCODINGS.items():
        yield prefix + name, encode(value)
    yield f"{prefix}hex", data.hex()
    yield f"{prefix}hex-upper", data.hex().upper()
    for name, alphabet in (("base64", b"+/"), ("base64url", b"-_")):
        for offset in range(3):
            # only the letters that do not depend on the bytes before and after the secret
            letters = base64.b64encode(bytes(offset) + data, alphabet).decode("ascii")
            yield f"{prefix}{name}+{offset}", letters[-(-8 * offset // 6) : 8 * (offset + len(data)) // 6]
    letters = base64.b64encode(data).decode("ascii").rstrip("=")
    rows = [letters[start : start + _BASE64_COLUMNS] for start in range(0, len(letters), _BASE64_COLUMNS)]
    yield f"{prefix}base64-rows", "\n".join(rows)


def _percent(safe: str) -> Callable[[str], str]:
    return lambda value: quote(value, safe=safe, errors="surrogatepass")


def _json(value: str, *, ascii_only: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ascii_only)[1:-1]


_TEXT_ENCODINGS: dict[str, Callable[[str], str]] = {
    "url": _percent(""),
    "url-lower": lambda value: re.sub(r"%..", lambda match: match[0].lower(), _percent("")(value)),
    "url-path": _percent("/"),
    "url-component": _percent("!*'()"),  # encodeURIComponent
    "url-query": _percent("".join(set(_PRINTABLE) - set("\"#<>'"))),  # new URL(`https://...?key=${secret}`)
    "url-form": lambda value: quote_plus(value, errors="surrogatepass"),
    "url-params": lambda value: quote_plus(value, safe="*", errors="surrogatepass").replace("~", "%7E"),
    "json": _json,
    "json-ascii": lambda value: _json(value, ascii_only=True),
    "json-json": lambda value: _json(_json(value)),
    "repr": lambda value: repr(value)[1:-1],
}
"""Functions that encode a text, by the name of the encoding."""


def _iter_json_patterns(patterns: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield *patterns* as they are encoded in JSON."""
    for text, label in patterns.items():
        with contextlib.suppress(
            TypeError
        ):  # JSON of orjson has no lone surrogates and no numbers of more than 64 bits
            yield orjson.dumps(text)[1:-1].decode(), label
            if _is_number(text):  # orjson writes 1.5e+20 as 1.5e20
                yield orjson.dumps(json.loads(text)).decode(), label


def _refs(secrets: list[Secret]) -> Iterator[str]:
    """Yield a unique ref for each secret that is valid in a placeholder and contains no secret."""
    taken: set[str] = set()
    values = [secret.value for secret in secrets if len(secret.value) >= MIN_SECRET_CHARS]
    for number, secret in enumerate(secrets, start=1):
        ref = re.sub(r"[⟦⟧\[\]|]", "_", secret.ref)
        if not ref or any(value in ref for value in values):
            ref = f"#{number}"
        while ref in taken:
            ref = f"{ref}#{number}"
        taken.add(ref)
        yield ref


def _is_number(value: str) -> bool:
    """Return whether *value* is the JSON text of a number."""
    try:
        number = json.loads(value)
        return type(number) in (int, float) and json.dumps(number) == value
    except (ValueError, RecursionError):
        return False

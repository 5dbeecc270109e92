"""
Finds known secrets in what leaves a step, and puts a placeholder where each one stood.

Knows texts, JSON values and the encodings in which a secret usually travels. Knows nothing of accounts, variables
or steps: whoever makes a `Redactor` hands it the values.

A placeholder names the secret and the form it stood in, `⟦secret:slack/apn_1/oauth_access_token|base64+1⟧`, so that
`restore` gives back the exact text. Values shorter than `MIN_LENGTH` would hide half of what people print; they are
hidden only where a key names their own field.
"""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from urllib.parse import quote, quote_plus

from pdkernel.model import JSON

MIN_LENGTH = 8
"""Characters from which on a secret is searched for everywhere (design, decision 8)."""

_OPEN = "⟦secret:"
_PLACEHOLDER = re.compile(r"⟦secret:([^⟦⟧\[\]|]*(?:\|[^⟦⟧\[\]|]+)?)(?:\[(\d+):\])?⟧")
_LITERAL = "|literal"
_MIN_LINE = 16
_BASE64_COLUMNS = 76
_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))


@dataclass(frozen=True, slots=True)
class Secret:
    """
    One value that must not be seen.

    Attributes:
        ref: What it is called in a placeholder: `slack/apn_1/oauth_access_token`, `env/NAME`. The part after the
            last slash is the name of its field.
        value: The secret itself; no repr shows it.
    """

    ref: str
    value: str = field(repr=False)


class Redactor:
    """
    Hides a set of secrets, and restores them.

    `text` and `stream` are for what is only ever read (logs, URLs, messages): they leave an existing placeholder
    alone, so redacting twice changes nothing. `value` is for exports: it also escapes text that merely looks like a
    placeholder, so `restore(value(x)) == x` for every x, and nobody gets a secret by sending its placeholder in an
    event. Hence: `restore` only what `value` made, and do not apply `value` twice.
    """

    def __init__(self, secrets: Iterable[Secret] = ()) -> None:
        by_label: dict[str, str] = {}
        self._forms: dict[str, list[str]] = {}
        self._short: dict[tuple[str, str], str] = {}
        self._numbers: dict[str, str] = {}
        known = [secret for secret in secrets if secret.value]
        for secret, ref in zip(known, _refs(known), strict=True):
            by_label[ref] = secret.value
            if _is_number(secret.value):
                by_label[f"{ref}|number"] = secret.value
            if len(secret.value) < MIN_LENGTH:
                self._short.setdefault((secret.ref.rpartition("/")[2].casefold(), secret.value), ref)
                continue
            if _is_number(secret.value):
                self._numbers.setdefault(secret.value, ref)
            forms = {f"{ref}|{form}" if form else ref: text for form, text in _forms(secret.value)}
            self._forms[secret.ref] = [*self._forms.get(secret.ref, ()), *forms.values()]
            by_label.update(forms)
        self._by_label = {**by_label, _LITERAL: _OPEN} if known else {}
        patterns: dict[str, str] = {}
        for label, text in by_label.items():
            if len(text) >= MIN_LENGTH and not label.endswith("|number"):
                patterns.setdefault(text, label)
        self._texts = _Scanner(patterns)
        self._values = _Scanner({**patterns, _OPEN: _LITERAL} if known else {})

    def text(self, text: str) -> str:
        """*text* with a placeholder for each secret in it, in whatever form it stands."""
        return self._texts.replace(text)

    def stream(self) -> StreamRedactor:
        """A redactor for a text that arrives in pieces."""
        return StreamRedactor(self._texts)

    def value(self, value: JSON) -> JSON:
        """
        *value* with a placeholder for each secret in it: in texts, in keys, and in numbers that are one.

        A secret shorter than `MIN_LENGTH` is hidden where it stands alone under a key named as its field.
        """
        if not self._by_label:
            return value
        match value:
            case str():
                return self._values.replace(value)
            case dict():
                hidden = {}
                for key, item in value.items():
                    hidden[self._values.replace(key)] = self._short_field(key, item) or self.value(item)
                return hidden
            case list():
                return list(map(self.value, value))
            case int() | float() if self._numbers and not isinstance(value, bool):
                ref = self._numbers.get(json.dumps(value))
                return value if ref is None else f"{_OPEN}{ref}|number⟧"
            case _:
                return value

    def restore(self, value: JSON) -> JSON:
        """*value*, made by this redactor's `value`, with every secret back in its place. Foreign placeholders stay."""
        match value:
            case str():
                return self._restore_text(value) if _OPEN in value else value
            case dict():
                shown = {}
                for key, item in value.items():
                    shown[self._restored(key)] = self.restore(item)
                return shown
            case list():
                return list(map(self.restore, value))
            case _:
                return value

    def found_in(self, text: str) -> list[str]:
        """The refs of the secrets of `MIN_LENGTH` characters or more that stand in *text*, in any form."""
        if not self._texts.may_be_in(text):
            return []
        return [ref for ref, forms in self._forms.items() if any(form in text for form in forms)]

    def _short_field(self, key: str, item: JSON) -> str | None:
        """The placeholder for *item* if it is the short secret whose field is called *key*."""
        if not self._short or isinstance(item, bool) or not isinstance(item, str | int | float):
            return None
        ref = self._short.get((key.casefold(), item if isinstance(item, str) else json.dumps(item)))
        if ref is None:
            return None
        return f"{_OPEN}{ref}⟧" if isinstance(item, str) else f"{_OPEN}{ref}|number⟧"

    def _restore_text(self, text: str) -> JSON:
        whole = _PLACEHOLDER.fullmatch(text)
        if whole and whole[1].endswith("|number") and whole[1] in self._by_label:
            number: int | float = json.loads(self._by_label[whole[1]])
            return number
        return self._restored(text)

    def _restored(self, text: str) -> str:
        def original(placeholder: re.Match[str]) -> str:
            known = self._by_label.get(placeholder[1])
            return placeholder[0] if known is None else known[int(placeholder[2] or 0) :]

        return _PLACEHOLDER.sub(original, text)


class StreamRedactor:
    """
    Redacts a text that arrives in pieces, as if it had come at once.

    What could be the beginning of a secret is held back until it is known not to be; everything else is let through
    at once, so that a log can be read while it is written.
    """

    def __init__(self, scanner: _Scanner) -> None:
        self._scanner = scanner
        self._pending = _Pending()

    def feed(self, text: str) -> str:
        """Take the next piece; return what is certain by now."""
        if self._scanner.is_empty:
            return text
        self._pending.buffer += text
        return self._scanner.advance(self._pending, self._scanner.settled(self._pending.buffer))

    def close(self) -> str:
        """The end: return what was still held back."""
        return self._scanner.advance(self._pending, len(self._pending.buffer))


@dataclass(slots=True)
class _Pending:
    """A text in the middle of being scanned: searched up to `searched`, given out up to `given`."""

    buffer: str = ""
    searched: int = 0
    given: int = 0


class _Scanner:
    """Searches for many fixed texts at once; `patterns` maps each text to its label."""

    def __init__(self, patterns: Mapping[str, str]) -> None:
        self._labels = dict(patterns)
        ordered = sorted(patterns, key=len, reverse=True)
        self.is_empty = not ordered
        self._longest = len(ordered[0]) if ordered else 0
        self._any = re.compile(_alternation(ordered, 0)) if ordered else re.compile(r"(?!)")
        self._words = frozenset(word for text in ordered for word in _words_of(text))
        self._by_prefix: dict[str, list[str]] = {}
        for text in ordered:
            for length in (1, 2, 3):
                self._by_prefix.setdefault(text[:length], []).append(text)
        self._overlapping = frozenset(text for text in ordered if self._can_hold_a_start(text))

    def replace(self, text: str) -> str:
        """*text* with a placeholder for each pattern."""
        if self.is_empty or len(text) < MIN_LENGTH:
            return text
        return self.advance(_Pending(text), len(text))

    def may_be_in(self, text: str) -> bool:
        """
        False if no pattern is in *text*; a cheap test, as most texts hold none.

        A text of eight bytes or more covers a whole aligned word of four bytes, wherever it lies. So it is enough
        to look at each aligned word of the text once, in C, whatever the number of patterns.
        """
        data = text.encode("utf-8", "surrogatepass")
        return not self._words.isdisjoint(memoryview(data)[: len(data) & ~3].cast("I"))

    def settled(self, buffer: str) -> int:
        """The position in *buffer* from which on more text could still complete a pattern."""
        for start in range(max(0, len(buffer) - self._longest + 1), len(buffer)):
            for pattern in self._by_prefix.get(buffer[start : start + 3], ()):
                if len(pattern) > len(buffer) - start and pattern.startswith(buffer[start:]):
                    return start
        return len(buffer)

    def advance(self, pending: _Pending, limit: int) -> str:
        """Replace what begins before *limit* in the pending text, and drop what is done."""
        buffer, out = pending.buffer, list[str]()
        for start, found in self._matches(buffer, pending.searched, limit):
            end = start + len(found)
            if start >= pending.given:
                out += [buffer[pending.given : start], f"{_OPEN}{self._labels[found]}⟧"]
            elif end > pending.given:
                # Two secrets overlap: the second one's placeholder stands for the rest of it.
                out.append(f"{_OPEN}{self._labels[found]}[{pending.given - start}:]⟧")
            pending.given = max(pending.given, end)
            pending.searched = self._next_start(start, found)
        if limit > pending.given:
            out.append(buffer[pending.given : limit])
            pending.given = limit
        pending.searched = max(pending.searched, limit)
        done = min(pending.searched, pending.given)
        pending.buffer = buffer[done:]
        pending.searched -= done
        pending.given -= done
        return "".join(out)

    def _matches(self, buffer: str, position: int, limit: int) -> Iterator[tuple[int, str]]:
        if not self.may_be_in(buffer):
            return
        while (match := self._any.search(buffer, position)) is not None and match.start() < limit:
            yield match.start(), match[0]
            position = self._next_start(match.start(), match[0])

    def _next_start(self, start: int, found: str) -> int:
        return start + 1 if found in self._overlapping else start + len(found)

    def _can_hold_a_start(self, text: str) -> bool:
        """Whether another pattern can begin inside *text* and reach its end or beyond."""
        return any(
            pattern is not text and pattern.startswith(text[start:])
            for start in range(1, len(text))
            for pattern in self._by_prefix.get(text[start : start + 3], ())
        )


def _alternation(texts: list[str], depth: int) -> str:
    """A pattern for any of *texts*, earlier ones first where two fit; the first letters are shared."""
    if len(texts) == 1 or depth == 3:
        return "|".join(re.escape(text[depth:]) for text in texts)
    groups = groupby(sorted(texts, key=lambda text: text[depth]), key=lambda text: text[depth])
    return "|".join(f"{re.escape(letter)}(?:{_alternation(list(group), depth + 1)})" for letter, group in groups)


def _words_of(text: str) -> Iterator[int]:
    data = text.encode("utf-8", "surrogatepass")
    for offset in range(4):
        yield int.from_bytes(data[offset : offset + 4], sys.byteorder)


def _refs(secrets: list[Secret]) -> Iterator[str]:
    """A name for each secret that no other has, that fits a placeholder and gives no secret away."""
    taken: set[str] = set()
    values = [secret.value for secret in secrets if len(secret.value) >= MIN_LENGTH]
    for number, secret in enumerate(secrets, start=1):
        ref = re.sub(r"[⟦⟧\[\]|]", "_", secret.ref)
        if not ref or any(value in ref for value in values):
            ref = f"#{number}"
        elif ref in taken:
            ref = f"{ref}#{number}"
        taken.add(ref)
        yield ref


def _is_number(value: str) -> bool:
    """Whether a JSON number is written exactly as *value*."""
    try:
        number = json.loads(value)
        return type(number) in (int, float) and json.dumps(number) == value
    except ValueError:
        return False


def _forms(value: str) -> Iterator[tuple[str, str]]:
    """Every form of *value* to search for, each with its name; the plain one has the empty name."""
    yield "", value
    yield from _encoded(value, "")
    trimmed = value.strip()
    if trimmed != value and len(trimmed) >= MIN_LENGTH:
        yield "trimmed", trimmed
        yield from _encoded(trimmed, "trimmed-")
    lines = value.splitlines()
    if len(lines) > 1:
        # Node.js prints a text of several lines as one literal per line; a key's lines are secret one by one.
        for number, line in enumerate(lines, start=1):
            if len(line) >= _MIN_LINE and not line.startswith("-----"):
                yield f"line{number}", line


def _encoded(value: str, prefix: str) -> Iterator[tuple[str, str]]:
    data = value.encode("utf-8", "surrogatepass")
    for name, encode in _TEXT_ENCODINGS.items():
        yield prefix + name, encode(value)
    yield f"{prefix}hex", data.hex()
    yield f"{prefix}hex-upper", data.hex().upper()
    for name, alphabet in (("base64", b"+/"), ("base64url", b"-_")):
        for offset in range(3):
            # The letters that depend on the secret alone, whatever stands before and after it.
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
"""The ways in which programs write a text into another: each gives the text as it then stands."""

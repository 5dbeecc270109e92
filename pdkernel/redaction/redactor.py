"""
Secrets and their placeholders, in texts and in JSON values.

Knows what is hidden where, and how to restore it. Finding is `scanner`'s, encoding is `encodings`'.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import orjson

from pdkernel.model import JSON
from pdkernel.redaction.encodings import iter_encoded_forms
from pdkernel.redaction.scanner import MIN_SECRET_CHARS, PLACEHOLDER_START, PatternScanner, StreamRedactor

_PLACEHOLDER = re.compile(r"⟦secret:([^⟦⟧\[\]|]*(?:\|[^⟦⟧\[\]|]+)?)(?:\[(\d+):\])?⟧")
_LITERAL_LABEL = "|literal"


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


@lru_cache(maxsize=64)
def get_redactor(*secrets: Secret) -> Redactor:
    """The redactor of *secrets*; runs of the same people with the same variables share one, which takes a while to make."""
    return Redactor(secrets)


def mask_values(text: str, values: Iterable[str]) -> str:
    """*text*, a sentence for a person, with stars for each of *values* of four letters or more, in whatever form it stands there."""
    known = [value for value in values if len(value) > 3]
    hidden = _PLACEHOLDER.sub("***", Redactor(Secret("value", value) for value in known).redact_text(text))
    for value in known:
        hidden = hidden.replace(value, "***")
    return hidden


class Redactor:
    """
    Hides a set of secrets, and restores them.

    `redact_text` and `open_stream` are for what is only ever read (logs, URLs, messages): they leave an existing placeholder
    alone, so redacting twice changes nothing. `redact_value` is for exports: it also escapes text that merely looks like a
    placeholder, so `restore(value(x)) == x` for every x, and nobody gets a secret by sending its placeholder in an
    event. Hence: `restore` only what `redact_value` made, and do not apply `redact_value` twice.
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
        self._by_label = {**by_label, _LITERAL_LABEL: PLACEHOLDER_START} if known else {}
        patterns: dict[str, str] = {}
        for label, text in by_label.items():
            if len(text) >= MIN_SECRET_CHARS and not label.endswith("|number"):
                patterns.setdefault(text, label)
        self._text_scanner = PatternScanner(patterns)
        in_values = {**patterns, PLACEHOLDER_START: _LITERAL_LABEL} if known else {}
        self._value_scanner = PatternScanner(in_values)
        self._json_scanner = PatternScanner(dict(_iter_json_patterns(in_values)))

    def redact_text(self, text: str) -> str:
        """*text* with a placeholder for each secret in it, in whatever form it stands."""
        return self._text_scanner.replace(text)

    def open_stream(self) -> StreamRedactor:
        """A redactor for a text that arrives in pieces."""
        return StreamRedactor(self._text_scanner)

    def redact_value(self, value: JSON) -> JSON:
        """
        *value* with a placeholder for each secret in it: in texts, in keys, and in numbers that are one.

        A secret shorter than `MIN_LENGTH` is hidden where it stands alone under a key named as its field. Where there
        is nothing to hide, it is *value* itself.
        """
        return value if self._is_clean(value) else self._hidden(value)

    def _is_clean(self, value: JSON) -> bool:
        """Whether nothing in *value* is to be hidden, by a look at its JSON: a walk takes ten times as long."""
        if not self._by_label:
            return True
        if self._short:  # whether one is hidden depends on its key
            return False
        try:
            return not self._json_scanner.can_match(orjson.dumps(value))
        except TypeError:  # it has half a surrogate pair, or a number of more than 64 bits
            return False

    def _hidden(self, value: JSON) -> JSON:
        match value:
            case str():
                return self._value_scanner.replace(value)
            case dict():
                hidden = {}
                for key, item in value.items():
                    hidden[self._value_scanner.replace(key)] = self._short_field(key, item) or self._hidden(item)
                return hidden
            case list():
                return list(map(self._hidden, value))
            case int() | float() if self._numbers and not isinstance(value, bool):
                ref = self._numbers.get(json.dumps(value))
                return value if ref is None else f"{PLACEHOLDER_START}{ref}|number⟧"
            case _:
                return value

    def restore(self, value: JSON) -> JSON:
        """*value*, made by this redactor's `value`, with every secret back in its place. Foreign placeholders stay."""
        match value:
            case str():
                return self._restore_text(value) if PLACEHOLDER_START in value else value
            case dict():
                shown = {}
                for key, item in value.items():
                    shown[self._restore_placeholders(key)] = self.restore(item)
                return shown
            case list():
                return list(map(self.restore, value))
            case _:
                return value

    @property
    def secret_refs(self) -> list[str]:
        """The names that this redactor's placeholders call secrets by; a value may have several."""
        return list(self._refs)

    def find_secrets(self, text: str) -> list[str]:
        """The refs of the secrets of `MIN_LENGTH` characters or more that stand in *text*, in any form."""
        if not self._text_scanner.can_match(text):
            return []
        return [ref for ref, forms in self._forms.items() if any(form in text for form in forms)]

    def _short_field(self, key: str, item: JSON) -> str | None:
        """The placeholder for *item* if it is the short secret whose field is called *key*."""
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


def _iter_json_patterns(patterns: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """*patterns* as they stand in the JSON of a value that holds them."""
    for text, label in patterns.items():
        with contextlib.suppress(TypeError):  # half a surrogate pair, and more than 64 bits, are in no such JSON
            yield orjson.dumps(text)[1:-1].decode(), label
            if _is_number(text):  # 1.5e+20 stands there as 1.5e20
                yield orjson.dumps(json.loads(text)).decode(), label


def _refs(secrets: list[Secret]) -> Iterator[str]:
    """A name for each secret that no other has, that fits a placeholder and gives no secret away."""
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
    """Whether a JSON number is written exactly as *value*."""
    try:
        number = json.loads(value)
        return type(number) in (int, float) and json.dumps(number) == value
    except ValueError:
        return False

"""The encodings in which a secret may occur in output: escaped, percent-encoded, hex, Base64, line by line."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from urllib.parse import quote, quote_plus

from pdkernel.redaction.scanner import MIN_SECRET_CHARS

_MIN_SECRET_LINE_CHARS = 16
_BASE64_COLUMNS = 76
_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))


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
        # Node.js prints a text of several lines as one literal per line, so each line of a key is searched for.
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
            # the letters that depend on the secret alone, not on the bytes before and after it
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
"""Text encodings by name: each function returns the encoded text."""

"""
Parses URL-encoded fields: queries, and bodies of `application/x-www-form-urlencoded`.

The result is that of `urllib.parse.parse_qsl` with `keep_blank_values`, which takes half a microsecond for each `%` and has no limit of
fields. A long text is parsed in slices, so that a request does not stop the event loop.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator
from typing import Any

MAX_FIELDS = 10_000
"""Limit of fields of a query or a form."""
_SLICE_BYTES = 32 * 1024
_SLICE_FIELDS = 500
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_BYTES = {b"%02x" % code: bytes([code]) for code in range(256)}


class TooManyFieldsError(Exception):
    """A query or a form has more than `MAX_FIELDS` fields."""

    def __init__(self) -> None:
        super().__init__(f"The request has more than {MAX_FIELDS:,} fields.")


def parse_query(query: str) -> dict[str, Any]:
    """
    The fields of *query*, which the server limits to 64 KB.

    Raises:
        TooManyFieldsError: The query has too many fields.
    """
    return collect_fields(
        (_decode([_unescape(name)]), _decode([_unescape(value)])) for name, value in _split(query.encode())
    )


async def parse_form(text: str) -> dict[str, Any]:
    """
    The fields of the form *text*. Other tasks run in between.

    Raises:
        TooManyFieldsError: The form has too many fields.
    """
    pairs: list[tuple[str, str]] = []
    for name, value in _split(text.encode()):
        if len(pairs) % _SLICE_FIELDS == _SLICE_FIELDS - 1:
            await asyncio.sleep(0)
        pairs.append((await _unescape_in_slices(name), await _unescape_in_slices(value)))
    return collect_fields(pairs)


def collect_fields(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Collect names and values into an object. The value of a repeated name is a list."""
    found: dict[str, list[Any]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


def _split(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the escaped name and value of each field."""
    # `&` alone is not a field, but takes time too
    parts = data.split(b"&", MAX_FIELDS)
    if len(parts) > MAX_FIELDS:
        raise TooManyFieldsError
    for part in parts:
        if part:
            name, _, value = part.partition(b"=")
            yield name, value


async def _unescape_in_slices(data: bytes) -> str:
    pieces = []
    start = 0
    while len(data) - start > _SLICE_BYTES:
        end = start + _SLICE_BYTES
        escape = data.find(b"%", end - 2, end)  # an escape that begins there may be cut
        end = end if escape < 0 else escape
        pieces.append(_unescape(data[start:end]))
        start = end
        await asyncio.sleep(0)
    return _decode([*pieces, _unescape(data[start:])])


def _unescape(data: bytes) -> bytes:
    data = data.replace(b"+", b" ")
    if b"%" not in data:
        return data
    parts = _ESCAPE.split(data)
    parts[1::2] = [_BYTES[digits.lower()] for digits in parts[1::2]]
    return b"".join(parts)


def _decode(pieces: Iterable[bytes]) -> str:
    return b"".join(pieces).decode(errors="replace")

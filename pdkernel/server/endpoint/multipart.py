"""
A form with files, `multipart/form-data`.

Knows how much of one may be held in memory: fields and the heads of parts count as the body does, files go to disk as they
come, and there are not so many of them that they take the process's open files.
"""

from __future__ import annotations

import codecs
from collections.abc import AsyncIterator

from starlette.datastructures import FormData, Headers
from starlette.formparsers import MultiPartException, MultiPartParser

MAX_FILES = 100
_MAX_FIELDS = 10_000
_REJECTED_CODECS = frozenset(
    {"idna", "punycode", "raw-unicode-escape", "raw_unicode_escape", "undefined", "unicode-escape", "unicode_escape"}
)
"""Of Python alone; nobody writes text in them, and the time that some take grows with the square of its length."""


class FormTooLargeError(Exception):
    """Fields and heads are over the limit."""


class FormError(Exception):
    """It is no form; the message says why."""


def resolve_charset(name: str) -> str | None:
    """The codec of text that a `charset` means, or None if there is none."""
    try:
        found = codecs.lookup(name).name
        "".encode(found)  # some change bytes only
    except (LookupError, ValueError):
        return None
    return None if found in _REJECTED_CODECS else found


async def parse_multipart(headers: Headers, stream: AsyncIterator[bytes], max_bytes: int) -> FormData:
    """
    The form's fields and files, to be closed by the caller.

    Args:
        headers: Of the request.
        stream: Its body.
        max_bytes: Bytes that fields and heads may have together.

    Raises:
        FormTooLargeError: They have more.
        FormError: It cannot be read.
    """
    parser = _LimitedMultiPartParser(
        headers,
        stream,  # type: ignore[arg-type]  # any asynchronous iterator does
        max_files=MAX_FILES,
        max_fields=_MAX_FIELDS,
        max_part_size=max_bytes + 1,
    )
    parser.left = max_bytes
    try:
        return await parser.parse()
    except MultiPartException as wrong:
        raise FormError(f"The form cannot be read: {wrong.message}") from None
    except (KeyError, ValueError, LookupError):
        raise FormError("The form cannot be read: its parts have no boundary.") from None


class _LimitedMultiPartParser(MultiPartParser):
    """Starlette's, which bounds each part, and not all of them together."""

    spool_max_size = 64 * 1024
    left = 0

    def on_part_begin(self) -> None:
        super().on_part_begin()
        self._charset = resolve_charset(self._charset) or "latin-1"

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._current_part.file is None:
            self._count(end - start)
        super().on_part_data(data, start, end)

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        super().on_header_field(data, start, end)

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        super().on_header_value(data, start, end)

    def _count(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise FormTooLargeError

"""
Parses forms with files, `multipart/form-data`.

Fields and part headers count towards the limit of the body. Files are streamed to disk; their number is limited, because each
file takes a file descriptor.
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
"""Codecs that only Python has. They are unusual for text, and some take quadratic time."""


class FormTooLargeError(Exception):
    """Fields and part headers exceed the limit."""


class FormError(Exception):
    """The body is not a valid form; the message has the reason."""


def resolve_charset(name: str) -> str | None:
    """The text codec for a `charset`, or None if unknown."""
    try:
        found = codecs.lookup(name).name
        "".encode(found)  # some codecs do not encode text
    except (LookupError, ValueError):
        return None
    return None if found in _REJECTED_CODECS else found


async def parse_multipart(headers: Headers, stream: AsyncIterator[bytes], max_bytes: int) -> FormData:
    """
    Parse the fields and files of a form. The caller closes the form.

    Args:
        headers: Headers of the request.
        stream: Chunks of the body.
        max_bytes: Maximum bytes of all fields and part headers.

    Raises:
        FormTooLargeError: Fields and part headers exceed *max_bytes*.
        FormError: The form is invalid.
    """
    parser = _LimitedMultiPartParser(
        headers,
        stream,  # type: ignore[arg-type]  # any asynchronous iterator does
        max_files=MAX_FILES,
        max_fields=_MAX_FIELDS,
        max_part_size=max_bytes + 1,
    )
    parser.remaining_bytes = max_bytes
    try:
        return await parser.parse()
    except MultiPartException as error:
        raise FormError(f"The form is invalid: {error.message}") from None
    except (KeyError, ValueError, LookupError):
        raise FormError("The form is invalid: the boundary is missing.") from None


class _LimitedMultiPartParser(MultiPartParser):
    """Starlette's parser with a limit for all parts together."""

    spool_max_size = 64 * 1024
    remaining_bytes = 0

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
        self.remaining_bytes -= size
        if self.remaining_bytes < 0:
            raise FormTooLargeError

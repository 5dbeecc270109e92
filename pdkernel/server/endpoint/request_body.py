"""
Parses the query and the body of a request into values of `steps.trigger.event`.

A body with a JSON content type may be a form (Python SDKs). Large bodies and files are streamed to `uploads`: they are never
in memory as a whole.

URL-encoded fields are parsed as by `urllib.parse.parse_qsl` with `keep_blank_values`, which takes half a microsecond for each `%` and
has no limit of fields. A long text is parsed in slices, so that a request does not stop the event loop.
"""

from __future__ import annotations

import asyncio
import codecs
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from contextlib import suppress
from itertools import accumulate
from typing import Any

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from pdkernel.common.safe_files import BYTE_ORDER_MARK
from pdkernel.engine.limits import MAX_EXPORT_DEPTH
from pdkernel.event import decode_strict_json
from pdkernel.model import JSON
from pdkernel.server.uploads import UploadFolder

MAX_FIELDS = 10_000
"""Limit of fields of a query or a form."""
_SLICE_BYTES = 32 * 1024
_SLICE_FIELDS = 500
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_BYTES = {b"%02x" % code: bytes([code]) for code in range(256)}


class BodyError(Exception):
    """The query or the body is invalid; the message has the reason."""


def parse_query(query: str) -> dict[str, Any]:
    """
    Parse the fields of *query*, which the server limits to 64 KB.

    Raises:
        BodyError: The query has too many fields.
    """
    return collect_fields(
        (_decode([_unescape(name)]), _decode([_unescape(value)])) for name, value in _split(query.encode())
    )


async def parse_form(text: str) -> dict[str, Any]:
    """
    Parse the fields of the form *text*. Other tasks run in between.

    Raises:
        BodyError: The form has too many fields.
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
        raise BodyError(f"The request has more than {MAX_FIELDS:,} fields.")
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


MAX_BODY_BYTES = 512 * 1024
"""The platform's limit of a body; files of a form do not count (its limits page)."""
MAX_UPLOAD_BYTES = 5 * 1024**3
"""Limit of a body that is stored on disk."""
MAX_FILES = 100
"""Limit of files in a form: each file takes a file descriptor."""
_MAX_PART_HEADER_BYTES = 4 * 1024
"""Limit of a header of a form's part, and of the media type of a form: their parser takes milliseconds for a kilobyte."""
_READ_BYTES = 16 * 1024
"""Bytes of a form after which other tasks run."""
_REJECTED_CODECS = frozenset(
    {
        "idna",
        "punycode",
        "raw-unicode-escape",
        "raw_unicode_escape",
        "undefined",
        "unicode-escape",
        "unicode_escape",
        "utf-7",
    }
)
"""Codecs that only Python has, and UTF-7, which the web does not use. Some take quadratic time, or microseconds for a byte."""
_MAX_DISCARDED_BYTES, _DISCARD_TIMEOUT_S = 16 * 1024**2, 10.0
_FORM = re.compile(r"[^\s={}\[\]\"&]+=[^\s{}\[\]\"]*\Z")
_JSON_TEXT = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"')
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_NESTING = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")  # one level more, or (as a signed byte) one level less

NO_BODY = object()
"""The value for a request without a body."""


class BodyTooLargeError(Exception):
    """The body exceeds the limit."""


async def read_body(request: Request, uploads: UploadFolder, *, store_whole: bool) -> Any:
    """
    Return the parsed body of *request*, or `NO_BODY`.

    Args:
        request: The request, with its body unread.
        uploads: Stores files.
        store_whole: Whether to store the whole body as a file; the value is then `{"raw_body_url": ...}`.

    Raises:
        BodyTooLargeError: The body exceeds the limit.
        BodyError: A form is invalid, values are nested too deeply, or files cannot be written.
        ClientDisconnect: The client disconnected.
    """
    try:
        return await _parse_body(request, uploads, store_whole=store_whole)
    except OSError as fault:  # not 5xx: SDKs would repeat the request
        raise BodyError(
            f"A file of the request could not be stored: {fault.strerror or type(fault).__name__}. No step has run."
        ) from None


async def _parse_body(request: Request, uploads: UploadFolder, *, store_whole: bool) -> Any:
    kind, _, parameters = request.headers.get("content-type", "").partition(";")
    kind = kind.strip().lower()
    if store_whole:
        stored = await uploads.store_stream(
            _limited(request.stream(), MAX_UPLOAD_BYTES), mimetype=kind or "application/octet-stream"
        )
        return {"raw_body_url": stored.url}
    if kind == "multipart/form-data":
        return await _parse_form(request, uploads)
    raw = await _read_bytes(request)
    if not raw:
        return "" if request.method in ("POST", "PUT", "PATCH") else NO_BODY
    return await _parse_text(raw, kind, parameters)


async def discard_body(request: Request) -> None:
    """
    Read and discard the rest of a rejected body.

    Otherwise a client that is still sending would get a broken connection instead of the response. Very large bodies are not read.
    """
    declared = request.headers.get("content-length", "")
    if "expect" in request.headers or (declared.isdecimal() and int(declared) > _MAX_DISCARDED_BYTES):
        return
    # RuntimeError: Starlette has already returned the whole body
    with suppress(ClientDisconnect, TimeoutError, BodyTooLargeError, RuntimeError):
        async with asyncio.timeout(_DISCARD_TIMEOUT_S):
            async for _ in _limited(request.stream(), _MAX_DISCARDED_BYTES):
                pass


async def read_body_and_text(request: Request) -> tuple[JSON, str | None]:
    """
    Return the body for a source: the parsed value, and the raw text for signature checks; (None, None) without a body.

    Raises:
        BodyTooLargeError: The body exceeds the limit.
        BodyError: Values are nested too deeply.
        ClientDisconnect: The client disconnected.
    """
    kind, _, parameters = request.headers.get("content-type", "").partition(";")
    raw = await _read_bytes(request)
    if not raw:
        return None, None
    return await _parse_text(raw, kind.strip().lower(), parameters), _decode_text(raw, parameters)


async def _read_bytes(request: Request) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > MAX_BODY_BYTES:
        raise BodyTooLargeError
    return b"".join([chunk async for chunk in _limited(request.stream(), MAX_BODY_BYTES)])


async def _parse_text(raw: bytes, kind: str, parameters: str) -> JSON:
    text = _decode_text(raw, parameters)
    is_form = kind == "application/x-www-form-urlencoded"
    if kind == "application/json" or kind.endswith("+json"):
        try:
            value = decode_strict_json(text.removeprefix(BYTE_ORDER_MARK))
        except (ValueError, RecursionError):
            # a form with a JSON content type: Python SDKs send it if their caller sets the header
            is_form = _FORM.match(text) is not None
        else:
            _check_depth(text)
            return value
    if not is_form:
        return text
    return await parse_form(text)


def _decode_text(raw: bytes, parameters: str) -> str:
    """Decode *raw* with the charset of the content type's *parameters*; an unknown charset counts as UTF-8."""
    for part in parameters.split(";"):
        name, _, value = part.partition("=")
        codec = _resolve_charset(value.strip().strip('"')) if name.strip().lower() == "charset" else None
        if codec is not None:
            return raw.decode(codec, errors="replace")
    return raw.decode(errors="replace")


def _check_depth(text: str) -> None:
    """Refuse JSON that is nested too deeply. The text is searched, because visiting 260,000 lists takes ten times as long."""
    if text.count("[") + text.count("{") <= MAX_EXPORT_DEPTH:
        return
    outside = _JSON_TEXT.sub("", text) if '"' in text else text
    steps = outside.encode().translate(_NESTING, _NOT_BRACKETS)
    if max(accumulate(memoryview(steps).cast("b")), default=0) > MAX_EXPORT_DEPTH:
        raise BodyError(f"The body is nested more than {MAX_EXPORT_DEPTH} levels deep.")


async def _limited(stream: AsyncIterator[bytes], max_bytes: int) -> AsyncGenerator[bytes, None]:
    """Yield the chunks of *stream*; raise `BodyTooLargeError` after *max_bytes*."""
    size = 0
    async for chunk in stream:
        size += len(chunk)
        if size > max_bytes:
            raise BodyTooLargeError
        yield chunk


async def _sliced(stream: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Yield *stream* in slices; other tasks run in between."""
    async for chunk in stream:
        for start in range(0, len(chunk), _READ_BYTES):
            yield chunk[start : start + _READ_BYTES]
            await asyncio.sleep(0)


def _resolve_charset(name: str) -> str | None:
    """Return the codec of a `charset`, or None if the charset is unknown."""
    try:
        found = codecs.lookup(name).name
        "".encode(found)  # some codecs do not encode text
    except (LookupError, ValueError):
        return None
    return None if found in _REJECTED_CODECS else found


async def _parse_form(request: Request, uploads: UploadFolder) -> JSON:
    """
    Parse a form with files, `multipart/form-data`. Fields and part headers count towards the limit of the body.

    Raises:
        BodyTooLargeError: Fields and part headers exceed the limit.
        BodyError: The form is invalid.
    """
    if len(request.headers["content-type"]) > _MAX_PART_HEADER_BYTES:
        raise BodyError(f"The form is invalid: its content type is larger than {_MAX_PART_HEADER_BYTES // 1024} KB.")
    parser = _LimitedMultiPartParser(
        request.headers,
        _sliced(uploads.watch_room(_limited(request.stream(), MAX_UPLOAD_BYTES))),
        max_files=MAX_FILES,
        max_fields=MAX_FIELDS,
        max_part_size=MAX_BODY_BYTES + 1,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise BodyError(f"The form is invalid: {error.message}") from None
    except (KeyError, ValueError, LookupError):
        raise BodyError("The form is invalid: the boundary is missing.") from None
    try:
        pairs: list[tuple[str, Any]] = []
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                stored = await uploads.store_copy(
                    value.file, filename=value.filename or "", mimetype=value.content_type or "application/octet-stream"
                )
                pairs.append((name, {"filename": stored.filename, "mimetype": stored.mimetype, "url": stored.url}))
            else:
                pairs.append((name, value))
        return collect_fields(pairs)
    finally:
        await form.close()


class _LimitedMultiPartParser(MultiPartParser):
    """Starlette's parser with a limit for all parts together."""

    spool_max_size = 64 * 1024
    _remaining_bytes = MAX_BODY_BYTES

    def on_part_begin(self) -> None:
        super().on_part_begin()
        self._charset = _resolve_charset(self._charset) or "latin-1"

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._current_part.file is None:
            self._count(end - start)
        super().on_part_data(data, start, end)

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        super().on_header_field(data, start, end)
        self._check_header()

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        super().on_header_value(data, start, end)
        self._check_header()

    def _check_header(self) -> None:
        if len(self._current_partial_header_name) + len(self._current_partial_header_value) > _MAX_PART_HEADER_BYTES:
            raise MultiPartException(f"the header of a part is larger than {_MAX_PART_HEADER_BYTES // 1024} KB.")

    def _count(self, size: int) -> None:
        self._remaining_bytes -= size
        if self._remaining_bytes < 0:
            raise BodyTooLargeError

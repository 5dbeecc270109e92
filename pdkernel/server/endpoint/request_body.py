"""
Parses the body of a request into the value of `steps.trigger.event.body`.

A body with a JSON content type may be a form (Python SDKs). Large bodies and files are streamed to `uploads`: they are never
in memory as a whole.
"""

from __future__ import annotations

import asyncio
import codecs
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from pdkernel.engine.limits import MAX_EXPORT_DEPTH, exceeds_depth
from pdkernel.errors import EventError
from pdkernel.event import parse_json
from pdkernel.model import JSON
from pdkernel.server.uploads import UploadFolder

MAX_BODY_BYTES = 512 * 1024
"""The platform's limit of a body; files of a form do not count (its limits page)."""
MAX_UPLOAD_BYTES = 5 * 1024**3
"""Limit of a body that is stored on disk."""
MAX_FILES = 100
"""Limit of files in a form: each file takes a file descriptor."""
_MAX_FIELDS = 10_000
_REJECTED_CODECS = frozenset(
    {"idna", "punycode", "raw-unicode-escape", "raw_unicode_escape", "undefined", "unicode-escape", "unicode_escape"}
)
"""Codecs that only Python has. They are unusual for text, and some take quadratic time."""
_MAX_DISCARDED_BYTES, _DISCARD_TIMEOUT_S = 16 * 1024**2, 10.0
_FORM = re.compile(r"[^\s={}\[\]\"&]+=[^\s{}\[\]\"]*\Z")

NO_BODY = object()
"""The value for a request without a body."""


class BodyTooLargeError(Exception):
    """The body exceeds the limit."""


class BodyError(Exception):
    """The body is invalid; the message has the reason."""


async def read_body(request: Request, uploads: UploadFolder, *, store_whole: bool) -> Any:
    """
    The parsed body of *request*, or `NO_BODY`.

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
    return _parse_text(raw, kind, parameters)


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
    The body for a source: the parsed value, and the raw text for signature checks; (None, None) without a body.

    Raises:
        BodyTooLargeError: The body exceeds the limit.
        BodyError: Values are nested too deeply.
        ClientDisconnect: The client disconnected.
    """
    kind, _, parameters = request.headers.get("content-type", "").partition(";")
    raw = await _read_bytes(request)
    if not raw:
        return None, None
    return _parse_text(raw, kind.strip().lower(), parameters), _decode(raw, parameters)


def collect_fields(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Collect names and values into an object. The value of a repeated name is a list."""
    found: dict[str, list[Any]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


async def _read_bytes(request: Request) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > MAX_BODY_BYTES:
        raise BodyTooLargeError
    return b"".join([chunk async for chunk in _limited(request.stream(), MAX_BODY_BYTES)])


def _parse_text(raw: bytes, kind: str, parameters: str) -> JSON:
    text = _decode(raw, parameters)
    if kind == "application/json" or kind.endswith("+json"):
        try:
            value = parse_json(text)
        except EventError:
            # a form with a JSON content type: Python SDKs send it if their caller sets the header
            return collect_fields(parse_qsl(text, keep_blank_values=True)) if _FORM.match(text) else text
        _check_depth(value, text)
        return value
    if kind == "application/x-www-form-urlencoded":
        return collect_fields(parse_qsl(text, keep_blank_values=True))
    return text


def _decode(raw: bytes, parameters: str) -> str:
    """Decode *raw* with the charset of the content type's *parameters*; an unknown charset counts as UTF-8."""
    for part in parameters.split(";"):
        name, _, value = part.partition("=")
        codec = _resolve_charset(value.strip().strip('"')) if name.strip().lower() == "charset" else None
        if codec is not None:
            return raw.decode(codec, errors="replace")
    return raw.decode(errors="replace")


def _check_depth(value: JSON, text: str) -> None:
    if text.count("[") + text.count("{") > MAX_EXPORT_DEPTH and exceeds_depth(value):
        raise BodyError(f"The body is nested more than {MAX_EXPORT_DEPTH} levels deep.")


async def _limited(stream: AsyncIterator[bytes], max_bytes: int) -> AsyncGenerator[bytes, None]:
    """Yield the chunks of *stream*; raise `BodyTooLargeError` after *max_bytes*."""
    size = 0
    async for chunk in stream:
        size += len(chunk)
        if size > max_bytes:
            raise BodyTooLargeError
        yield chunk


def _resolve_charset(name: str) -> str | None:
    """The codec of a `charset`, or None if the charset is unknown."""
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
    parser = _LimitedMultiPartParser(
        request.headers,
        _limited(request.stream(), MAX_UPLOAD_BYTES),
        max_files=MAX_FILES,
        max_fields=_MAX_FIELDS,
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

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        super().on_header_value(data, start, end)

    def _count(self, size: int) -> None:
        self._remaining_bytes -= size
        if self._remaining_bytes < 0:
            raise BodyTooLargeError

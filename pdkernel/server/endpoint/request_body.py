"""
Reads the body of a request into the value of `steps.trigger.event.body`.

A body may be labelled as JSON and contain a form (Python SDKs). Large bodies and files are streamed to `uploads`, never loaded into
memory as a whole.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl

from starlette.datastructures import Headers, UploadFile
from starlette.requests import ClientDisconnect, Request

from pdkernel.engine.limits import MAX_EXPORT_DEPTH
from pdkernel.errors import EventError
from pdkernel.event import parse_json
from pdkernel.model import JSON
from pdkernel.server.endpoint.multipart import FormError, FormTooLargeError, parse_multipart, resolve_charset
from pdkernel.server.endpoint.uploads import UploadFolder

MAX_BODY_BYTES = 512 * 1024
"""The platform's limit of a body; files of a form do not count (its limits page)."""
MAX_UPLOAD_BYTES = 5 * 1024**3
"""Limit of a body that is stored on disk."""
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
        store_whole: Whether to store the whole body as a file; the value is then `{"raw_body_url": ...}` then.

    Raises:
        BodyTooLargeError: The body exceeds the limit.
        BodyError: A form is invalid, values are nested too deeply, or files cannot be written.
        ClientDisconnect: The client disconnected.
    """
    try:
        return await _read(request, uploads, upload=store_whole)
    except OSError as fault:  # not 5xx: SDKs would repeat the request
        raise BodyError(
            f"A file of the request could not be stored: {fault.strerror or type(fault).__name__}. No step has run."
        ) from None


async def _read(request: Request, uploads: UploadFolder, *, upload: bool) -> Any:
    headers = request.headers
    kind, _, more = headers.get("content-type", "").partition(";")
    kind = kind.strip().lower()
    if upload:
        stored = await uploads.store_stream(
            _limited(request.stream(), MAX_UPLOAD_BYTES), mimetype=kind or "application/octet-stream"
        )
        return {"raw_body_url": stored.url}
    if kind == "multipart/form-data":
        return await _multipart(headers, request, uploads)
    raw = await _bytes(request)
    if not raw:
        return "" if request.method in ("POST", "PUT", "PATCH") else NO_BODY
    return _parsed(raw, kind, more)


async def discard_body(request: Request) -> None:
    """
    Read and discard the rest of a rejected body.

    Otherwise a client that is still sending would see a broken connection instead of the response. Very large bodies are not read.
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
    kind, _, more = request.headers.get("content-type", "").partition(";")
    raw = await _bytes(request)
    if not raw:
        return None, None
    return _parsed(raw, kind.strip().lower(), more), _decoded(raw, more)


def collect_fields(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Collect names and values into an object; a repeated name gets a list."""
    found: dict[str, Any] = {}
    several: set[str] = set()
    for name, value in pairs:
        if name not in found:
            found[name] = value
        elif name in several:
            found[name].append(value)
        else:
            found[name] = [found[name], value]
            several.add(name)
    return found


async def _bytes(request: Request) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > MAX_BODY_BYTES:
        raise BodyTooLargeError
    return b"".join([chunk async for chunk in _limited(request.stream(), MAX_BODY_BYTES)])


def _parsed(raw: bytes, kind: str, more: str) -> JSON:
    text = _decoded(raw, more)
    if kind == "application/json" or kind.endswith("+json"):
        try:
            value = parse_json(text)
        except EventError:
            # a form labelled as JSON: Python SDKs send it if the caller sets the header
            return collect_fields(parse_qsl(text, keep_blank_values=True)) if _FORM.match(text) else text
        _check_depth(value, text)
        return value
    if kind == "application/x-www-form-urlencoded":
        return collect_fields(parse_qsl(text, keep_blank_values=True))
    return text


def _decoded(raw: bytes, more: str) -> str:
    for part in more.split(";"):
        name, _, value = part.partition("=")
        codec = resolve_charset(value.strip().strip('"')) if name.strip().lower() == "charset" else None
        if codec is not None:
            return raw.decode(codec, errors="replace")
    return raw.decode(errors="replace")


def _check_depth(value: JSON, text: str) -> None:
    if text.count("[") + text.count("{") <= MAX_EXPORT_DEPTH:
        return
    level: list[Any] = [value]
    for _ in range(MAX_EXPORT_DEPTH):
        level = [
            item
            for held in level
            if isinstance(held, dict | list)
            for item in (held.values() if isinstance(held, dict) else held)
        ]
        if not level:
            return
    raise BodyError(f"The body is nested more than {MAX_EXPORT_DEPTH} levels deep.")


async def _limited(stream: AsyncIterator[bytes], max_bytes: int) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in stream:
        size += len(chunk)
        if size > max_bytes:
            raise BodyTooLargeError
        yield chunk


async def _multipart(headers: Headers, request: Request, uploads: UploadFolder) -> JSON:
    try:
        form = await parse_multipart(headers, _limited(request.stream(), MAX_UPLOAD_BYTES), MAX_BODY_BYTES)
    except FormTooLargeError:
        raise BodyTooLargeError from None
    except FormError as error:
        raise BodyError(str(error)) from None
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

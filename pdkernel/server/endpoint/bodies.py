"""
The body of a request, as `steps.trigger.event.body` holds it.

Knows media types, the platform's size limit, and that a body may say it is JSON and be a form (Python SDKs). Large bodies and
files go to `uploads` as they come, never into memory as a whole.
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

from pdkernel.engine.limits import MAX_DEPTH
from pdkernel.errors import EventError
from pdkernel.event import parse_json
from pdkernel.model import JSON
from pdkernel.server.endpoint.forms import FormError, FormTooLargeError, read_form, text_codec
from pdkernel.server.endpoint.uploads import Uploads

BODY_BYTES = 512 * 1024
"""The platform's limit of a body; files of a form do not count (its limits page)."""
UPLOAD_BYTES = 5 * 1024**3
"""Of a body that goes to disk."""
_DRAINED_BYTES, _DRAINED_S = 16 * 1024**2, 10.0
_FORM = re.compile(r"[^\s={}\[\]\"&]+=[^\s{}\[\]\"]*\Z")

ABSENT = object()
"""There is no body."""


class BodyTooLargeError(Exception):
    """The body is over the limit."""


class BodyError(Exception):
    """The body cannot be read; the message says why."""


async def read_body(request: Request, uploads: Uploads, *, upload: bool) -> Any:
    """
    The body of *request*, or `ABSENT`.

    Args:
        request: Not yet read.
        uploads: Where files go.
        upload: The whole body is to be stored; the value is `{"raw_body_url": ...}` then.

    Raises:
        BodyTooLargeError: It is over the limit.
        BodyError: A form with files that is none, values that are nested too deeply, or files that cannot be written.
        ClientDisconnect: The client went away.
    """
    try:
        return await _read(request, uploads, upload=upload)
    except OSError as fault:  # not 5xx: it would be sent again, and again
        raise BodyError(
            f"A file of the request cannot be kept here: {fault.strerror or type(fault).__name__}. No step has run."
        ) from None


async def _read(request: Request, uploads: Uploads, *, upload: bool) -> Any:
    headers = request.headers
    kind, _, more = headers.get("content-type", "").partition(";")
    kind = kind.strip().lower()
    if upload:
        stored = await uploads.store(
            _limited(request.stream(), UPLOAD_BYTES), mimetype=kind or "application/octet-stream"
        )
        return {"raw_body_url": stored.url}
    if kind == "multipart/form-data":
        return await _multipart(headers, request, uploads)
    raw = await _bytes(request)
    if not raw:
        return "" if request.method in ("POST", "PUT", "PATCH") else ABSENT
    return _parsed(raw, kind, more)


async def drain(request: Request) -> None:
    """
    Read on, and forget, what is left of a body that is refused.

    A client that is still sending would hear of a broken connection instead of the answer. What is far too large is not read.
    """
    declared = request.headers.get("content-length", "")
    if "expect" in request.headers or (declared.isdecimal() and int(declared) > _DRAINED_BYTES):
        return
    # RuntimeError: Starlette has given all of it out
    with suppress(ClientDisconnect, TimeoutError, BodyTooLargeError, RuntimeError):
        async with asyncio.timeout(_DRAINED_S):
            async for _ in _limited(request.stream(), _DRAINED_BYTES):
                pass


async def read_text(request: Request) -> tuple[JSON, str | None]:
    """
    The body as a source is handed it: its value, and the text that a signature is made over; None twice if there is none.

    Raises:
        BodyTooLargeError: It is over the limit.
        BodyError: Its values are nested too deeply.
        ClientDisconnect: The client went away.
    """
    kind, _, more = request.headers.get("content-type", "").partition(";")
    raw = await _bytes(request)
    if not raw:
        return None, None
    return _parsed(raw, kind.strip().lower(), more), _decoded(raw, more)


def fields_of(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Names and values as an object; a name that stands several times has a list."""
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
    if declared.isdecimal() and int(declared) > BODY_BYTES:
        raise BodyTooLargeError
    return b"".join([chunk async for chunk in _limited(request.stream(), BODY_BYTES)])


def _parsed(raw: bytes, kind: str, more: str) -> JSON:
    text = _decoded(raw, more)
    if kind == "application/json" or kind.endswith("+json"):
        try:
            value = parse_json(text)
        except EventError:
            # a form under the name of JSON: what Python SDKs send when the caller sets the header
            return fields_of(parse_qsl(text, keep_blank_values=True)) if _FORM.match(text) else text
        _check_depth(value, text)
        return value
    if kind == "application/x-www-form-urlencoded":
        return fields_of(parse_qsl(text, keep_blank_values=True))
    return text


def _decoded(raw: bytes, more: str) -> str:
    for part in more.split(";"):
        name, _, value = part.partition("=")
        codec = text_codec(value.strip().strip('"')) if name.strip().lower() == "charset" else None
        if codec is not None:
            return raw.decode(codec, errors="replace")
    return raw.decode(errors="replace")


def _check_depth(value: JSON, text: str) -> None:
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for held in level
            if isinstance(held, dict | list)
            for item in (held.values() if isinstance(held, dict) else held)
        ]
        if not level:
            return
    raise BodyError(f"The body is nested more than {MAX_DEPTH} levels deep.")


async def _limited(stream: AsyncIterator[bytes], most: int) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in stream:
        size += len(chunk)
        if size > most:
            raise BodyTooLargeError
        yield chunk


async def _multipart(headers: Headers, request: Request, uploads: Uploads) -> JSON:
    try:
        form = await read_form(headers, _limited(request.stream(), UPLOAD_BYTES), BODY_BYTES)
    except FormTooLargeError:
        raise BodyTooLargeError from None
    except FormError as wrong:
        raise BodyError(str(wrong)) from None
    try:
        pairs: list[tuple[str, Any]] = []
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                stored = await uploads.keep(
                    value.file, filename=value.filename or "", mimetype=value.content_type or "application/octet-stream"
                )
                pairs.append((name, {"filename": stored.filename, "mimetype": stored.mimetype, "url": stored.url}))
            else:
                pairs.append((name, value))
        return fields_of(pairs)
    finally:
        await form.close()

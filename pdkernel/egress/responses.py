"""Responses on their way to a step: complete or streamed, with the call recorded before the last byte is passed on."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import IO

from pdkernel.egress.message import (
    MAX_MEMORY_BYTES,
    Headers,
    Request,
    Response,
    close_stream,
    end_to_end_headers,
    get_header,
    is_bodyless,
)
from pdkernel.egress.pending_call import CallResult, PendingCall
from pdkernel.egress.recording import MAX_RECORDED_BODY_BYTES, LargeBody
from pdkernel.egress.send_once import StoredResponse, doubt
from pdkernel.egress.upstream import UpstreamError

ResponseRecorder = Callable[[Response, bytes | LargeBody], None]
"""Records a complete response."""


@dataclass(frozen=True, eq=False)
class UpstreamResult:
    """A response, and the result of its call for the record."""

    response: Response
    call_result: CallResult


async def stream_response(
    call: PendingCall,
    upstream_result: UpstreamResult,
    body: AsyncIterator[bytes],
    recorder: ResponseRecorder | None,
    *,
    has_no_body: bool,
    max_recorded_bytes: int = MAX_RECORDED_BODY_BYTES,
) -> AsyncIterator[bytes]:
    """
    Stream *body*; the call is recorded when the last byte has arrived, before that byte is passed on.

    Of a body longer than *max_recorded_bytes*, only the length and the hash are recorded.
    """
    length = get_header(upstream_result.response.headers, b"content-length")
    left = int(length) if length is not None and length.isdigit() and not has_no_body else None
    copy = _BodyCopy(max_recorded_bytes) if recorder is not None else None
    size = 0
    finished = False

    def done() -> None:
        nonlocal finished
        if not finished and recorder is not None and copy is not None:
            recorder(upstream_result.response, copy.content())
        finished = True
        call.finish(replace(upstream_result.call_result, body_bytes=size))

    try:
        async for chunk in body:
            size += len(chunk)
            if copy is not None:
                copy.add(chunk)
            if left is not None:
                left -= len(chunk)
                if left == 0:
                    done()
            yield chunk
        done()
    except UpstreamError as error:
        call.fail(str(error), status=upstream_result.call_result.status)
        raise
    finally:
        if copy is not None:
            copy.close()
        # the call was made, even if the client leaves early
        call.finish(replace(upstream_result.call_result, body_bytes=size))
        with contextlib.suppress(UpstreamError):
            await close_stream(body)


class _BodyCopy:
    """A copy of a body: in a file above 1 MB; of a body longer than *limit* bytes, only the length and the hash."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._digest = hashlib.sha256()
        self._byte_count = 0
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=MAX_MEMORY_BYTES)  # noqa: SIM115  # closed by close()

    def add(self, chunk: bytes) -> None:
        """Append *chunk*."""
        self._byte_count += len(chunk)
        self._digest.update(chunk)
        if self._byte_count <= self._limit:
            self._file.write(chunk)
        else:
            self._file.close()

    def content(self) -> bytes | LargeBody:
        """Return the complete body."""
        if self._byte_count > self._limit:
            return LargeBody(self._byte_count, self._digest.hexdigest())
        self._file.seek(0)
        return self._file.read()

    def close(self) -> None:
        """Remove the file."""
        self._file.close()


def repeat_response(call: PendingCall, recorded: StoredResponse, recorder: ResponseRecorder | None) -> Response:
    """
    Return the stored response to an equal request of an earlier run, with the row written.

    Raises:
        UpstreamError: The earlier request got no response, so its outcome is unknown, or its response was too large to store.
    """
    note = doubt(recorded)
    if recorded.status == 0 or not recorded.has_body:
        assert note is not None, "the response cannot be repeated"
        call.finish(CallResult("not_sent", recorded_at=recorded.at, note=f"not sent again: {note}"))
        call.context.on_failed(f"{call.method} {call.url} was not sent again: {note}")
        raise UpstreamError(f"{call.method} {call.url} was not sent again: {note}")
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in recorded.headers]
    reason, bodyless = recorded.reason.encode("latin-1"), is_bodyless(call.method, recorded.status)
    response = build_response(recorded.status, reason, headers, recorded.body, has_no_body=bodyless)
    if recorder is not None:
        recorder(response, recorded.body)
    note = " ".join(filter(None, (recorded.note, note))) or None
    call.finish(
        CallResult("not_sent", recorded.status, recorded_at=recorded.at, body_bytes=len(recorded.body), note=note)
    )
    return response


def outgoing_headers(request: Request) -> Headers:
    """Return the headers to send, with the framing of the request's body."""
    headers = [(name, value) for name, value in end_to_end_headers(request.headers) if name.lower() != b"expect"]
    if get_header(request.headers, b"transfer-encoding") is not None:
        headers.append((b"transfer-encoding", b"chunked"))
    return headers


def build_response(status: int, reason: bytes, headers: Headers, body: bytes, *, has_no_body: bool = False) -> Response:
    """Return a response of known length; with *has_no_body*, its own `content-length` is kept and the body is empty."""
    if has_no_body:
        return Response(status, reason, headers, b"")
    rest = [(name, value) for name, value in headers if name.lower() != b"content-length"]
    return Response(status, reason, [*rest, (b"content-length", str(len(body)).encode())], body)


async def read_up_to(body: bytes | AsyncIterator[bytes], limit: int) -> tuple[bytes, AsyncIterator[bytes] | None]:
    """Return the whole *body* and None; of a stream of more than *limit* bytes, its start and the rest."""
    if isinstance(body, bytes):
        return body, None
    parts: list[bytes] = []
    size = 0
    async for chunk in body:
        parts.append(chunk)
        size += len(chunk)
        if size > limit:
            return b"".join(parts), body
    return b"".join(parts), None


async def join_streams(start: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield *start*, then *rest*."""
    try:
        yield start
        del start
        async for chunk in rest:
            yield chunk
    finally:
        await close_stream(rest)


async def close_unread(body: AsyncIterator[bytes]) -> None:
    """Close *body*, which no client reads."""
    with contextlib.suppress(UpstreamError):
        await anext(body, None)  # a generator that has not begun does not close its connection
        await close_stream(body)

"""Responses on their way to a step: complete or streamed, with the ledger's row written before the last byte."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace

from pdkernel.egress.message import Headers, Request, Response, close_stream, end_to_end_headers, get_header
from pdkernel.egress.pending_call import CallResult, PendingCall
from pdkernel.egress.upstream import UpstreamError

ResponseRecorder = Callable[[Response, bytes | None], None]
"""Records a complete response; the body is None if it was too long to store."""


@dataclass(frozen=True, eq=False)
class UpstreamResult:
    """A response, and its result for the ledger."""

    response: Response
    call_result: CallResult


async def stream_response(
    call: PendingCall,
    upstream_result: UpstreamResult,
    body: AsyncIterator[bytes],
    recorder: ResponseRecorder | None,
    *,
    has_no_body: bool,
    max_recorded_bytes: int | None = None,
) -> AsyncIterator[bytes]:
    """
    Stream *body*; the call's row is written when the last byte has arrived, before the byte is passed on.

    A body longer than *max_recorded_bytes* is not recorded: it may never end.
    """
    length = get_header(upstream_result.response.headers, b"content-length")
    left = int(length) if length is not None and length.isdigit() and not has_no_body else None
    copy: list[bytes] = []
    size = 0
    finished = False

    def too_long() -> bool:
        return max_recorded_bytes is not None and size > max_recorded_bytes

    def done() -> None:
        nonlocal finished
        if not finished and recorder is not None:
            recorder(upstream_result.response, None if too_long() else b"".join(copy))
        finished = True
        call.finish(replace(upstream_result.call_result, body_bytes=size))

    try:
        async for chunk in body:
            size += len(chunk)
            if recorder is not None:
                copy.append(chunk)
                if too_long():
                    copy.clear()
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
        # the call was made, even if the client leaves early
        call.finish(replace(upstream_result.call_result, body_bytes=size))
        with contextlib.suppress(UpstreamError):
            await close_stream(body)


def outgoing_headers(request: Request) -> Headers:
    """The headers to send, with the framing of the request's body."""
    headers = [(name, value) for name, value in end_to_end_headers(request.headers) if name.lower() != b"expect"]
    if get_header(request.headers, b"transfer-encoding") is not None:
        headers.append((b"transfer-encoding", b"chunked"))
    return headers


def build_response(status: int, reason: bytes, headers: Headers, body: bytes, *, has_no_body: bool = False) -> Response:
    """A response of known length; *has_no_body* keeps its `content-length`."""
    if has_no_body:
        return Response(status, reason, headers, b"")
    rest = [(name, value) for name, value in headers if name.lower() != b"content-length"]
    return Response(status, reason, [*rest, (b"content-length", str(len(body)).encode())], body)


def is_bodyless(method: str, status: int) -> bool:
    """Whether a response has no body, whatever its `content-length`."""
    return method == "HEAD" or status in (204, 304)

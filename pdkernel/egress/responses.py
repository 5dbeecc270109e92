"""Responses on their way to a step: complete or streamed, with the call recorded before the last byte is passed on."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace

from pdkernel.egress.message import Headers, Request, Response, close_stream, end_to_end_headers, get_header
from pdkernel.egress.pending_call import CallResult, PendingCall
from pdkernel.egress.send_once import StoredResponse, doubt
from pdkernel.egress.upstream import UpstreamError

ResponseRecorder = Callable[[Response, bytes | None], None]
"""Records a complete response; the body is None if it was too long to store."""


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
    max_recorded_bytes: int | None = None,
) -> AsyncIterator[bytes]:
    """
    Stream *body*; the call is recorded when the last byte has arrived, before that byte is passed on.

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


def repeat_response(call: PendingCall, recorded: StoredResponse, recorder: ResponseRecorder | None) -> Response:
    """
    The stored response to an equal request of an earlier run, with the row written.

    Raises:
        UpstreamError: The earlier request got no response, so its outcome is unknown.
    """
    note = doubt(recorded)
    if recorded.status == 0:
        assert note is not None, "the outcome is unknown"
        call.finish(CallResult("not_sent", recorded_at=recorded.at, note=f"not sent again: {note}"))
        call.context.on_failed(f"{call.method} {call.url} was not sent again: {note}")
        raise UpstreamError(f"{call.method} {call.url} was not sent again: {note}")
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in recorded.headers]
    reason, bodyless = recorded.reason.encode("latin-1"), is_bodyless(call.method, recorded.status)
    response = build_response(recorded.status, reason, headers, recorded.body, has_no_body=bodyless)
    if recorder is not None:
        recorder(response, recorded.body)
    call.finish(
        CallResult("not_sent", recorded.status, recorded_at=recorded.at, body_bytes=len(recorded.body), note=note)
    )
    return response


def outgoing_headers(request: Request) -> Headers:
    """The headers to send, with the framing of the request's body."""
    headers = [(name, value) for name, value in end_to_end_headers(request.headers) if name.lower() != b"expect"]
    if get_header(request.headers, b"transfer-encoding") is not None:
        headers.append((b"transfer-encoding", b"chunked"))
    return headers


def build_response(status: int, reason: bytes, headers: Headers, body: bytes, *, has_no_body: bool = False) -> Response:
    """A response of known length; with *has_no_body*, its own `content-length` is kept and the body is empty."""
    if has_no_body:
        return Response(status, reason, headers, b"")
    rest = [(name, value) for name, value in headers if name.lower() != b"content-length"]
    return Response(status, reason, [*rest, (b"content-length", str(len(body)).encode())], body)


def is_bodyless(method: str, status: int) -> bool:
    """Whether a response to *method* with *status* has no body; its `content-length` may still be above 0."""
    return method == "HEAD" or status in (204, 304)

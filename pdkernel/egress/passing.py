"""
Answers on their way to a step: whole, or as they come with someone watching for the end.

Knows when an answer is at its end and that the ledger's row comes before its last byte. Knows nothing of modes.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace

from pdkernel.egress.call import Call, Result
from pdkernel.egress.message import Answer, Headers, Request, close_stream, end_to_end, header
from pdkernel.egress.upstream import UpstreamError

Keep = Callable[[Answer, bytes | None], None]
"""Takes a whole answer; without a body where that was too long to be kept."""


@dataclass(frozen=True, eq=False)
class Reached:
    """An answer that someone gave, and how the ledger calls that."""

    answer: Answer
    result: Result


async def watch(
    call: Call,
    reached: Reached,
    body: AsyncIterator[bytes],
    keep: Keep | None,
    *,
    bodyless: bool,
    most: int | None = None,
) -> AsyncIterator[bytes]:
    """
    Pass *body* on; write the call's row as soon as its last byte is here, before that byte is passed on.

    Of a body longer than *most* bytes nothing is kept: it may never end.
    """
    length = header(reached.answer.headers, b"content-length")
    left = int(length) if length is not None and length.isdigit() and not bodyless else None
    copy: list[bytes] = []
    size = 0
    finished = False

    def too_long() -> bool:
        return most is not None and size > most

    def done() -> None:
        nonlocal finished
        if not finished and keep is not None:
            keep(reached.answer, None if too_long() else b"".join(copy))
        finished = True
        call.finish(replace(reached.result, size=size))

    try:
        async for chunk in body:
            size += len(chunk)
            if keep is not None:
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
        call.fail(str(error), status=reached.result.status)
        raise
    finally:
        # A client that leaves early has still made the call.
        call.finish(replace(reached.result, size=size))
        with contextlib.suppress(UpstreamError):
            await close_stream(body)


def outgoing(request: Request) -> Headers:
    """The headers that go out, with the framing that the body came in."""
    headers = [(name, value) for name, value in end_to_end(request.headers) if name.lower() != b"expect"]
    if header(request.headers, b"transfer-encoding") is not None:
        headers.append((b"transfer-encoding", b"chunked"))
    return headers


def whole(status: int, reason: bytes, headers: Headers, body: bytes, *, bodyless: bool = False) -> Answer:
    """An answer of known length; *bodyless* leaves the length that it tells as it is."""
    if bodyless:
        return Answer(status, reason, headers, b"")
    rest = [(name, value) for name, value in headers if name.lower() != b"content-length"]
    return Answer(status, reason, [*rest, (b"content-length", str(len(body)).encode())], body)


def has_no_body(method: str, status: int) -> bool:
    """Whether an answer has no body, whatever length it tells."""
    return method == "HEAD" or status in (204, 304)

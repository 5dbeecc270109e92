"""
Server-sent events: the changes of the list of runs, and of one run.

A stream reads the journal once a second, so it also shows runs of other processes. It ends with the session and with the server.
A browser that connects again receives everything anew, and skips what it shows already.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

from starlette.responses import Response, StreamingResponse

from pdkernel.common.blocking import run_blocking
from pdkernel.common.encode import encode_json
from pdkernel.journal import JournalReader, open_journal_reader
from pdkernel.server.app_context import AppContext
from pdkernel.server.console import pages
from pdkernel.server.console.access import Visit

POLL_INTERVAL_S = 1.0
_SILENCE_S = 15.0
"""Seconds without an event after which a comment shows proxies that the connection is in use."""


@dataclass(frozen=True, slots=True)
class LiveEvent:
    """
    An event for the script of a page.

    Attributes:
        name: `row` is a row of the list, `run` the content of a run's page, `end` the last event of a stream.
        data: Values for the script; sent as JSON.
    """

    name: Literal["row", "run", "end"]
    data: dict[str, str]

    def encode(self) -> bytes:
        """Return the event as the browser receives it."""
        return b"event: %b\ndata: %b\n\n" % (self.name.encode(), encode_json(self.data))


Changes = Callable[[JournalReader], Awaitable[Sequence[LiveEvent]]]
"""Returns the events since the last call."""


@asynccontextmanager
async def journal_reader(context: AppContext) -> AsyncIterator[JournalReader]:
    """Open a connection of its own, so that pages do not delay the reads of runs."""
    reader = await run_blocking(open_journal_reader, context.project)
    try:
        yield reader
    finally:
        await run_blocking(reader.close)


def stream_response(visit: Visit, changes: Changes) -> Response:
    """Return the response that sends the events of *changes*, which is called whenever the journal has changed."""
    headers = {**pages.HEADERS, "x-accel-buffering": "no"}
    return StreamingResponse(_stream(visit, changes), media_type="text/event-stream", headers=headers)


async def _stream(visit: Visit, changes: Changes) -> AsyncIterator[bytes]:
    version, silence_s = None, _SILENCE_S
    async with journal_reader(visit.state.context) as reader:
        while not visit.state.is_stopping and await _is_open(visit):
            current = await reader.version()
            events = await changes(reader) if current != version else ()
            version = current
            if events or silence_s >= _SILENCE_S:
                yield b"".join(event.encode() for event in events) or b":\n\n"
                silence_s = 0.0
            if events and events[-1].name == "end":
                return
            await visit.state.context.clock.sleep(POLL_INTERVAL_S)
            silence_s += POLL_INTERVAL_S


async def _is_open(visit: Visit) -> bool:
    return visit.session is None or await run_blocking(visit.state.console.is_open, visit.session)

"""The listening socket of one process, beside other processes that accept connections on it."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from typing import Any, TypeVarTuple

import pytest

from pdkernel.server.shared_listener import (
    FULL_PAUSE_S,
    MAX_YIELDS,
    YIELD_S,
    SharedListener,
    share_connections,
)

Ts = TypeVarTuple("Ts")


class Loop(asyncio.SelectorEventLoop):
    """An event loop that does not wait, and that records for how long it should."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Call *callback* in the next iteration."""
        self.waits.append(delay)
        return super().call_later(0, callback, *args, context=context)


class BusySocket(socket.socket):
    """A listening socket whose next `accept` calls fail with *faults*."""

    faults: list[int]

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection, or fail."""
        if self.faults:
            raise OSError(self.faults.pop(0), "refused")
        return super().accept()


class Process:
    """
    One of two processes, which accept connections on the same socket.

    Attributes:
        accepted: The connections that this process has accepted.
        share: The connections of this process.
        other: The connections of the other process.
        listening: The socket.
        handshake: Ends when the handshakes of accepted connections end; None for connections that are open at once.
    """

    def __init__(self, loop: Loop, listening: BusySocket) -> None:
        self.loop = loop
        self.accepted: list[socket.socket] = []
        self.clients: list[socket.socket] = []
        self.share, self.other = share_connections(2)
        self.handshake: asyncio.Future[None] | None = None
        self.listening = listening
        self._count = 0

    def listen(self, count: int) -> SharedListener:
        """Begin to listen with *count* open connections."""
        self._count = count
        return SharedListener(self.listening, self.share, self._connect, lambda: self._count)

    def dial(self) -> None:
        """Connect a client."""
        self.clients.append(socket.create_connection(self.listening.getsockname()))

    async def wait_for(self, count: int) -> None:
        """Wait until this process has accepted *count* connections."""
        while len(self.accepted) < count:
            await asyncio.sleep(0)

    async def turns(self) -> None:
        """Let the loop run as often as a connection that is left to others takes, and more."""
        for _ in range(4 * MAX_YIELDS):
            await asyncio.sleep(0)

    async def _connect(self, connection: socket.socket) -> None:
        self.accepted.append(connection)
        if self.handshake is not None:
            await self.handshake


@contextmanager
def process() -> Iterator[Process]:
    """A process with its loop; all sockets are closed at the end."""
    loop = Loop()
    with BusySocket() as listening:
        listening.faults = []
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.setblocking(False)
        made = Process(loop, listening)
        try:
            yield made
        finally:
            for each in (*made.accepted, *made.clients):
                each.close()
            loop.close()


def test_a_process_with_more_connections_yields_each_time() -> None:
    """A process leaves each connection five times to one that has fewer, and then accepts it: the other may be busy."""
    with process() as here:

        async def run() -> list[int]:
            here.other.publish(0)
            listener, found = here.listen(1), []
            for number in (1, 2):
                here.dial()
                await here.wait_for(number)
                found.append(here.loop.waits.count(YIELD_S))
            listener.close()
            return found

        assert here.loop.run_until_complete(run()) == [MAX_YIELDS, 2 * MAX_YIELDS]


@pytest.mark.parametrize("other", [1, 2, -1])
def test_a_process_without_more_connections_accepts_at_once(other: int) -> None:
    """A process that has no more connections than another one, or the only one that accepts connections, does not wait."""
    with process() as here:

        async def run() -> None:
            here.other.publish(other)
            listener = here.listen(1)
            here.dial()
            await here.wait_for(1)
            listener.close()

        here.loop.run_until_complete(run())

        assert here.loop.waits == []


def test_a_process_that_stops_accepts_nothing_more() -> None:
    """A process that stops while it leaves a connection to others does not listen again, and no longer counts for them."""
    with process() as here:

        async def run() -> None:
            here.other.publish(0)
            listener = here.listen(1)
            on_change = listener.update
            here.dial()
            while not here.loop.waits:
                await asyncio.sleep(0)
            listener.close()
            await here.turns()
            on_change()  # a connection ends after the stop

        here.loop.run_until_complete(run())

        assert here.accepted == []
        assert here.share.counts[here.share.index] == -1
        assert not here.other.is_largest


@pytest.mark.parametrize(
    ("fault", "waits"), [(errno.EMFILE, [FULL_PAUSE_S]), (errno.EAGAIN, []), (errno.ECONNABORTED, [])]
)
def test_a_connection_that_cannot_be_accepted(fault: int, waits: list[float]) -> None:
    """A process with too many open files tries again after a pause; one whose connection is gone does not wait."""
    with process() as here:

        async def run() -> None:
            here.listening.faults = [fault]
            listener = here.listen(0)
            here.dial()
            await here.wait_for(1)
            listener.close()

        here.loop.run_until_complete(run())

        assert (here.loop.waits, len(here.accepted)) == (waits, 1)


def test_a_handshake_counts_as_a_connection() -> None:
    """A connection counts from its acceptance on; a handshake that fails ends it."""
    with process() as here:

        async def run() -> list[int]:
            here.handshake = here.loop.create_future()
            listener, counts = here.listen(3), here.share.counts
            here.dial()
            await here.wait_for(1)
            found = [counts[here.share.index]]
            here.handshake.set_exception(ConnectionResetError())
            await here.turns()
            found.append(counts[here.share.index])
            listener.close()
            return found

        assert here.loop.run_until_complete(run()) == [4, 3]

"""
Accepts connections on a socket on which other processes accept too.

The system gives most connections to the process that wakes first. A client keeps its connection, so that process would do
most of the work. Here, a process leaves a connection to the others while one of them has fewer.
"""

from __future__ import annotations

import asyncio
import mmap
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

YIELD_S = 0.002
"""Seconds for which a process leaves a connection to the others."""
MAX_YIELDS = 5
"""After so many times, the process accepts the connection: the other processes may be busy."""
FULL_PAUSE_S = 1.0
"""Seconds until the next try if the process may not open more files."""
_NOT_ACCEPTING = -1


@dataclass(frozen=True)
class ConnectionShare:
    """
    The connections of one process, beside those of the others, in memory that all of them share.

    Attributes:
        counts: The number of open connections of each process, or -1 for a process that accepts none.
        index: The number of the process.
    """

    counts: memoryview[int]
    index: int

    def publish(self, count: int) -> None:
        """Set the number of connections of this process, which accepts more."""
        self.counts[self.index] = count

    def leave(self) -> None:
        """This process accepts no more connections."""
        self.counts[self.index] = _NOT_ACCEPTING

    @property
    def is_largest(self) -> bool:
        """Whether another process that accepts connections has fewer."""
        own = self.counts[self.index]
        return any(_NOT_ACCEPTING < count < own for count in self.counts)


def share_connections(processes: int) -> list[ConnectionShare]:
    """The shares of *processes* that this process forks; none of them accepts connections yet."""
    counts = memoryview(mmap.mmap(-1, processes * 4)).cast("i")
    shares = [ConnectionShare(counts, index) for index in range(processes)]
    for share in shares:
        share.leave()
    return shares


class SharedListener:
    """
    The listening socket in one of the processes. Belongs to one event loop.

    Args:
        listening: The socket, which does not block.
        share: The connections of the processes.
        connect: Serves an accepted connection; ends when the connection is open.
        count_open: Returns the number of open connections of this process.
    """

    def __init__(
        self,
        listening: socket.socket,
        share: ConnectionShare,
        connect: Callable[[socket.socket], Coroutine[Any, Any, object]],
        count_open: Callable[[], int],
    ) -> None:
        self._listening = listening
        self._share = share
        self._connect = connect
        self._count_open = count_open
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[object]] = set()
        self._yields = 0
        self._is_closed = False
        self._pause: asyncio.TimerHandle | None = None
        self.update()
        self._listen()

    def update(self) -> None:
        """Publish the number of connections: one was opened or closed. After `close`, this process counts no more."""
        if not self._is_closed:
            self._share.publish(self._count_open() + len(self._opening))

    def close(self) -> None:
        """Accept no more connections."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listening)
        self._is_closed = True
        self._share.leave()

    def _listen(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listening, self._accept)

    def _wait(self, seconds: float) -> None:
        self._loop.remove_reader(self._listening)
        self._pause = self._loop.call_later(seconds, self._listen)

    def _accept(self) -> None:
        """Accept one connection, or leave it to another process."""
        if self._share.is_largest and self._yields < MAX_YIELDS:
            self._yields += 1
            self._wait(YIELD_S)
            return
        self._yields = 0
        try:
            connection, _ = self._listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):  # another process was faster
            return
        except OSError:  # too many open files
            self._wait(FULL_PAUSE_S)
            return
        connection.setblocking(False)
        task = self._loop.create_task(self._connect(connection))
        self._opening.add(task)
        task.add_done_callback(self._opened)
        self.update()

    def _opened(self, task: asyncio.Task[object]) -> None:
        self._opening.discard(task)
        if not task.cancelled():
            task.exception()  # a handshake that failed; the connection is closed
        self.update()

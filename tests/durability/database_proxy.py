"""A proxy between a server and its PostgreSQL database: it cuts, delays or holds connections, or loses the reply to a commit."""

from __future__ import annotations

import contextlib
import shutil
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote


class CommitWatch:
    """
    Finds the commits in what a PostgreSQL server sends on one connection.

    A server sends the tag `COMMIT`, and the end of a statement outside of a transaction block, after it has committed. The commits
    of a connection that listens are not counted, because those are only extensions of a lease.
    """

    def __init__(self) -> None:
        self._data = b""
        self._is_listening = self._is_in_block = self._has_written = False

    def feed(self, data: bytes) -> int:
        """Take the next bytes of the server; return how many commits they report."""
        self._data += data
        commits = 0
        # a byte for the kind of the message, and four for the length, which includes these four
        while len(self._data) >= 5 and len(self._data) > (length := struct.unpack("!xI", self._data[:5])[0]):
            kind, body = self._data[:1], self._data[5 : length + 1]
            self._data = self._data[length + 1 :]
            if kind == b"C":
                commits += self._end_statement(body.rstrip(b"\0").partition(b" ")[0])
            elif kind == b"Z" and self._has_written and not self._is_in_block:
                self._has_written = False
                commits += 1
        return 0 if self._is_listening else commits

    def _end_statement(self, tag: bytes) -> int:
        if tag in (b"BEGIN", b"COMMIT", b"ROLLBACK"):
            self._is_in_block, self._has_written = tag == b"BEGIN", False
        self._is_listening |= tag == b"LISTEN"
        self._has_written |= tag in (b"INSERT", b"UPDATE", b"DELETE")
        return int(tag == b"COMMIT")


class DatabaseProxy:
    """
    A Unix socket in *folder* in front of the one in *target*.

    Attributes:
        url: The URL of *database* through the proxy.
        commits: The number of commits that the server has reported.
        on_commit: Called with the number of each commit, from 1, before its report is passed on. If the result is true, the report
            is lost, because the connection is closed.
        delay_s: The seconds by which each piece of data is late.
        is_held: Whether data is kept back, in both directions.
    """

    def __init__(self, folder: Path, target: Path, database: str) -> None:
        self.url = f"postgresql://postgres@/{database}?host={quote(str(folder), safe='/')}"
        self.delay_s = 0.0
        self.is_held = self._is_cut = False
        self.commits = 0
        self.on_commit: Callable[[int], bool] = lambda _: False
        self._counting = threading.Lock()
        self._target = str(target / ".s.PGSQL.5432")
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(folder / ".s.PGSQL.5432"))
        self._listening.listen(64)
        accepting = threading.Thread(target=self._accept)
        self._threads.append(accepting)
        accepting.start()

    @contextmanager
    def losing(self, chosen: Callable[[int], bool], then: Callable[[], object] = lambda: None) -> Iterator[list[int]]:
        """
        Lose the replies to the *chosen* commits of the block, whose numbers begin with 1, and call *then* after each.

        Yields a list that gets the numbers.
        """
        first, lost = self.commits, list[int]()

        def loses(commit: int) -> bool:
            if is_chosen := chosen(commit - first):
                lost.append(commit - first)
                then()
            return is_chosen

        self.on_commit = loses
        try:
            yield lost
        finally:
            self.on_commit = lambda _: False

    def cut(self) -> None:
        """Close all connections, and refuse new ones."""
        self._is_cut = True
        for end in (*self._sockets,):
            _shut_down(end)

    def heal(self) -> None:
        """Pass everything on again."""
        self.delay_s = 0.0
        self.is_held = self._is_cut = False

    def close(self) -> None:
        """Stop."""
        _shut_down(self._listening)
        self.cut()
        for thread in self._threads:
            thread.join()
        self._listening.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                if self._is_cut:
                    client.close()
                    continue
                server = socket.socket(socket.AF_UNIX)
                try:
                    server.connect(self._target)
                except OSError:  # the database starts again
                    client.close()
                    server.close()
                    continue
                serving = threading.Thread(target=self._serve, args=(client, server))
                self._threads = [each for each in self._threads if each.is_alive()] + [serving]
                serving.start()

    def _serve(self, client: socket.socket, server: socket.socket) -> None:
        self._sockets += [client, server]
        if self._is_cut:  # meanwhile
            _shut_down(client)
        requests = threading.Thread(target=self._pass_on, args=(client, server))
        requests.start()
        self._pass_on(server, client, CommitWatch())
        requests.join()
        for end in (client, server):
            self._sockets.remove(end)
            end.close()

    def _loses_reply(self, commits: int) -> bool:
        with self._counting:
            numbers = range(self.commits + 1, self.commits + commits + 1)
            self.commits += commits
            return any(self.on_commit(number) for number in numbers)

    def _pass_on(self, source: socket.socket, target: socket.socket, watch: CommitWatch | None = None) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if watch is not None and self._loses_reply(watch.feed(data)):
                    break
                time.sleep(self.delay_s)
                while self.is_held and not self._is_cut:
                    time.sleep(0.01)
                if self._is_cut:
                    break
                target.sendall(data)
        _shut_down(source)
        _shut_down(target)


def each_or_nth(number: int, nth: int | None) -> Callable[[int], bool]:
    """Choose the commit *number* for `losing`; or, of *nth* commits each, the one at that place."""
    return lambda commit: commit == number if nth is None else commit % nth == number


def _shut_down(end: socket.socket) -> None:
    """End the connection, or the listening; the socket is closed when no thread uses it."""
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


@contextmanager
def proxy_of(sockets: Path, database: str) -> Iterator[DatabaseProxy]:
    """A proxy in front of the database on the server whose socket is in the folder *sockets*."""
    folder = Path(tempfile.mkdtemp(prefix="pdk"))  # the path of a Unix socket is short
    proxy = DatabaseProxy(folder, sockets, database)
    try:
        yield proxy
    finally:
        proxy.close()
        shutil.rmtree(folder)

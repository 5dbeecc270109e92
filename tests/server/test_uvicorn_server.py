"""Start and stop of the server."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from pathlib import Path
from typing import Any, TypeVarTuple

import httpx
import pytest
from starlette.applications import Starlette

from pdkernel.accounts import LocalDirectory
from pdkernel.egress import parse_policy
from pdkernel.engine.run_request import RunRequest
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.errors import InternalError
from pdkernel.server import create_app
from pdkernel.server.uvicorn_server import (
    FULL_PAUSE_S,
    MAX_YIELDS,
    YIELD_S,
    Server,
    SharedListener,
    UvicornServer,
    listen,
    local_url,
    share_connections,
)
from pdkernel.storage import Project
from tests.builders import Gate, a_workflow, an_event, python_step
from tests.server.served import served
from tests.server.site import site_of


async def test_start_returns_when_the_server_accepts_requests() -> None:
    """A request right after `start` is answered; the task ends after `stop`."""
    opened = listen("127.0.0.1", 0)
    server = UvicornServer(Starlette())
    serving = await server.start(opened)
    async with httpx.AsyncClient(timeout=60) as http:
        answer = await http.get(local_url(opened, "127.0.0.1", tls=False))
    server.stop()
    await asyncio.wait_for(serving, 60)

    assert answer.status_code == 404


def test_a_client_ends_an_idle_connection_first() -> None:
    """The server keeps an idle connection longer than clients and proxies do: it does not close one that a request uses."""
    assert UvicornServer(Starlette()).config.timeout_keep_alive > 60 > (httpx.Limits().keepalive_expiry or 0)


async def test_a_server_that_cannot_start_raises_the_reason() -> None:
    """If uvicorn cannot serve the socket, `start` raises the system's error instead of waiting."""
    opened = listen("127.0.0.1", 0)
    opened.close()

    with pytest.raises(InternalError, match=r"The server did not start: .*Bad file descriptor"):
        await asyncio.wait_for(UvicornServer(Starlette()).start(opened), 60)


async def test_stop_lets_runs_end(tmp_path: Path) -> None:
    """A caller that waits gets the response after the server was stopped."""
    gate = Gate(tmp_path)
    workflow = a_workflow(python_step("slow", f"{gate.code}\npd.respond(status=200, body='made')"), response="custom")
    async with site_of(tmp_path, workflow) as site:
        request = asyncio.ensure_future(site.http.post(site.path()))
        await gate.wait_until_reached()
        site.server.stop()
        gate.open()
        answer = await request

    assert answer.text == "made"


async def test_a_stopped_server_leaves_the_shared_socket(tmp_path: Path) -> None:
    """A process that shares its socket with others counts for them while it serves, and no more after its stop."""
    share, _ = share_connections(2)
    opened = listen("127.0.0.1", 0)
    url = local_url(opened, "127.0.0.1", tls=False)
    async with served(tmp_path) as site, httpx.AsyncClient(timeout=60) as http:
        server = Server(create_app(site.context), share=share)
        serving = await server.start(opened)
        answer = await http.get(f"{url}/-/live")
        during = share.counts[share.index]
        server.stop()
        await asyncio.wait_for(serving, 60)

    assert (answer.status_code, during) == (200, 1)
    assert share.counts[share.index] == -1


async def test_a_stopping_server_refuses_events(tmp_path: Path) -> None:
    """An event on a connection that is open when the server stops gets status 503 and starts no run."""
    gate = Gate(tmp_path)
    async with site_of(tmp_path, a_workflow(python_step("slow", gate.code))) as site:
        accepted = await site.http.post(site.path())
        await gate.wait_until_reached()
        site.server.stop()
        refused = await site.http.post(site.path())
        gate.open()
        runs = await site.runs()

    assert (accepted.status_code, refused.status_code) == (200, 503)
    # the client sends the request again on another connection, to the next process
    assert (refused.headers["retry-after"], refused.headers["connection"]) == ("5", "close")
    assert [run.status for run in runs] == ["success"]


async def test_a_forced_stop_leaves_runs_to_the_next_process(tmp_path: Path) -> None:
    """A forced stop ends the steps in progress; the next process repeats them as attempt 2."""
    workflow = a_workflow(python_step("slow", "import time; time.sleep(60)"))
    async with site_of(tmp_path, workflow) as site:
        await site.http.post(site.path())
        site.server.force_exit = True
        site.server.stop()
        for _ in range(3000):
            (run,) = await site.context.engine.journal.list_executions()
            if run.status != "executing":
                break
            await asyncio.sleep(0.02)

    assert (run.status, run.attempt) == ("resumed", 2)


async def test_a_second_signal_ends_the_grace_period(tmp_path: Path) -> None:
    """A server that waits for its runs leaves them to the next process as soon as its stop is forced."""
    gate = Gate(tmp_path)
    async with site_of(tmp_path, a_workflow(python_step("slow", gate.code))) as site:
        await site.http.post(site.path())
        await gate.wait_until_reached()
        site.server.grace_s = 1000
        site.server.stop()
        while not any("RunRegistry.close" in repr(task) for task in asyncio.all_tasks()):
            await asyncio.sleep(0.01)
        site.server.force_exit = True
        async with asyncio.timeout(60):
            while (await site.context.engine.journal.list_executions())[0].status == "executing":
                await asyncio.sleep(0.02)
        (run,) = await site.context.engine.journal.list_executions()

    assert (run.status, run.attempt) == ("resumed", 2)


async def test_a_server_removes_runs_whose_retention_is_over(tmp_path: Path) -> None:
    """At its start, a server removes runs that ended before their retention, and keeps the others."""
    workflow = a_workflow(python_step(), retention=7)
    with Project.open(tmp_path / ".pdkernel") as project:
        request = RunRequest(workflow, an_event(), parse_policy("deny"), folder=tmp_path)
        async with await WorkflowEngine.start(project, LocalDirectory(project)) as engine:
            old, new = await engine.run(request), await engine.run(request)
        with project.sqlalchemy_engine.begin() as connection:
            connection.exec_driver_sql(
                "update runs set created = created - 700000, ended = ended - 700000 where id = ?", (old.id,)
            )
    async with site_of(tmp_path, workflow) as site:
        journal = site.context.engine.journal
        for _ in range(3000):
            if await journal.get_execution(old.id) is None:
                break
            await asyncio.sleep(0.02)
        left = [each.id for each in await journal.list_executions()]

    assert left == [new.id]


@pytest.mark.parametrize(
    ("host", "tls", "url"),
    [
        ("127.0.0.1", False, "http://127.0.0.1:PORT"),
        ("0.0.0.0", True, "https://127.0.0.1:PORT"),
        ("::", False, "http://[::1]:PORT"),
        ("::1", True, "https://[::1]:PORT"),
        ("box.lan", False, "http://box.lan:PORT"),
    ],
)
def test_the_url_for_clients_on_this_machine(host: str, tls: bool, url: str) -> None:
    """The URL has the port that the system has chosen, and an address that clients can call."""
    with listen("127.0.0.1", 0) as opened:
        assert local_url(opened, host, tls=tls) == url.replace("PORT", str(opened.getsockname()[1]))


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

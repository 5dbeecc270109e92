"""Start and stop of the server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette

from pdkernel.accounts import LocalDirectory
from pdkernel.egress import parse_policy
from pdkernel.engine.run_request import RunRequest
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.errors import InternalError
from pdkernel.server import create_app
from pdkernel.server.shared_listener import share_connections
from pdkernel.server.uvicorn_server import Server, UvicornServer, listen, local_url
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

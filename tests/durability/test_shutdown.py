"""A server that ends by a signal, a second server, and the start after a server's death."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from pdkernel.journal.postgres import LEASE_S
from pdkernel.server.uvicorn_server import SHUTDOWN_GRACE_S
from tests.cli.fork_server import ForkServer
from tests.durability.server_process import (
    ENDED,
    ServerProcess,
    count_outcomes,
    logging_step,
    new_project,
    server_of,
)
from tests.ports import free_port
from tests.waiting import LIMIT_S

FLOW = "%%pdworkflow\nname: Flow\n"


def held(server: ServerProcess, name: str) -> str:
    """A step that takes a minute at its first attempt."""
    return logging_step(name, server.log, "if attempt == 1: time.sleep(60)\nreturn attempt")


def listens(server: ServerProcess) -> bool:
    """Whether the server accepts connections."""
    try:
        socket.create_connection(("127.0.0.1", server.port), timeout=LIMIT_S).close()
    except (ConnectionRefusedError, ConnectionResetError):  # the socket may close while it is asked
        return False
    return True


@pytest.mark.parametrize(
    "waits", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["at once", "after the grace"]
)
def test_steps_in_flight_at_a_sigterm_run_again(fork_server: ForkServer, tmp_path: Path, waits: bool) -> None:
    """The server ends within its grace, or at once after a second signal; the next one runs the slow steps again."""
    with server_of(fork_server, tmp_path / "project") as server:
        call = logging_step("call", server.log, "return [attempt, pd.flow.trigger('child', {})]")
        new_project(server.folder, [FLOW, logging_step("one", server.log), call], child=[held(server, "slow")])
        server.more = ("child.ipynb",)
        assert server.start()
        runs = [server.accept() for _ in range(2)]
        server.wait_until_begun(2, "slow")

        server.send_signal(signal.SIGTERM)
        server.wait_until(lambda: not listens(server))  # two signals that arrive together would be one
        if not waits:
            server.send_signal(signal.SIGTERM)
        seconds = server.wait_until_ended()
        statuses = {status for (status,) in server.rows("select status from runs")}
        server.restart()
        server.wait_for(ENDED)

        assert seconds < (LIMIT_S if waits else SHUTDOWN_GRACE_S)
        assert statuses == {"ready"}
        count_outcomes(server, runs).check(f"SIGTERM, ended after {seconds:.1f} s")
        returned = [
            json.loads(data)["exports"]["$return_value"]
            for (data,) in server.rows("select data from steps where name = 'call'")
        ]
        assert returned == [[2, 2]] * 2


def test_events_accepted_during_a_shutdown_are_not_lost(fork_server: ForkServer, tmp_path: Path) -> None:
    """An event on a connection that is still open when the server ends is refused, or finishes with the next server."""
    with server_of(fork_server, tmp_path / "project") as server:
        new_project(server.folder, [FLOW, logging_step("one", server.log), logging_step("two", server.log)])
        assert server.start()
        accepted: list[str] = []
        path = "/" + server.endpoint.rpartition("/")[2]

        def send() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
            try:
                while True:
                    connection.request("POST", path, "{}", {"content-type": "application/json"})
                    answer = connection.getresponse()
                    text = answer.read()
                    if answer.status == 200:
                        accepted.append(json.loads(text)["event_id"])
            except (OSError, http.client.HTTPException):
                connection.close()

        clients = [threading.Thread(target=send) for _ in range(4)]
        for client in clients:
            client.start()
        time.sleep(0.5)
        server.wait_until(lambda: len(accepted) >= 8)
        server.send_signal(signal.SIGTERM)
        server.wait_until_ended()
        for client in clients:
            client.join()
        server.restart()
        server.wait_for(ENDED)

        count_outcomes(server, accepted).check("SIGTERM under load")
        assert {status for (status,) in server.rows("select distinct status from runs")} == {"success"}


def test_a_second_server_is_refused(fork_server: ForkServer, tmp_path: Path) -> None:
    """While a server runs, another one of the same project is refused; after its kill -9 the next one starts at once."""
    with server_of(fork_server, tmp_path / "project") as server:
        new_project(server.folder, [FLOW, held(server, "slow"), logging_step("last", server.log)])
        assert server.start()
        run = server.accept()
        server.wait_until_begun(step="slow")
        second = ServerProcess(fork_server, server.folder, server.log, free_port())
        was_started, refusal = second.start(), second.said
        status = server.rows("select status, attempt from runs")

        server.kill()
        server.restart()
        server.wait_for("select 1 from runs where ended is not null")

        assert not was_started
        assert "Another `pdkernel serve` serves the project" in refusal
        assert status == [("running", 1)]
        count_outcomes(server, [run]).check("a second server")
        assert [seconds < LEASE_S for seconds in server.take_overs] == [True]  # it waits for no lease
        assert [(each.step, each.attempt) for each in server.begun()] == [("slow", 1), ("slow", 2), ("last", 1)]

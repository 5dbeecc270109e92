"""A host that accepts connections and never answers delays only the messages to itself."""

from __future__ import annotations

import json
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.cli.fork_server import ForkServer
from tests.durability.server_process import ServerProcess, logging_step, new_project, server_of
from tests.http_servers import AnsweringServer, serve
from tests.ports import free_port

LIMIT_S = 30
SEND = "for each in body['urls']:\n    pd.send.http(method='POST', url=each, data=body['urls'].index(each))"


@pytest.fixture
def hanging() -> Iterator[str]:
    """The URL of a host that hangs."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"


@pytest.fixture
def sender(fork_server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server of a workflow that sends to each URL of its event."""
    folder = tmp_path_factory.mktemp("hanging") / "project"
    with server_of(fork_server, folder) as server:
        new_project(folder, [logging_step("tell", server.log, SEND)])
        server.start()
        yield server


def test_messages_of_one_run_wait_for_their_own_host_only(
    sender: ServerProcess, hanging: str, receiver: AnsweringServer
) -> None:
    """The last message of a step arrives although twelve messages before it hang."""
    sender.post(sender.endpoint, {"urls": [*(f"{hanging}{n}" for n in range(12)), receiver.url]})

    sender.wait_until(lambda: receiver.requests, LIMIT_S)


def test_further_tries_wait_for_their_own_host_only(sender: ServerProcess, hanging: str) -> None:
    """A message whose host was away for a moment is tried again in time although twelve messages before it hang."""
    for number in range(12):
        sender.post(sender.endpoint, {"urls": [f"{hanging}{number}"]})
    port = free_port()
    sender.post(sender.endpoint, {"urls": [f"http://127.0.0.1:{port}/"]})
    sender.wait_for("select 1 where (select count(*) from outbox where tries = 1) = 13")
    with serve(AnsweringServer(lambda _: (204, b""), port=port)) as receiver:
        with closing(sqlite3.connect(sender.database, timeout=20)) as connection, connection:
            connection.execute("update outbox set due = case when shown like ? then 2 else 1 end", (f"%:{port}/%",))

        sender.wait_until(lambda: receiver.requests, LIMIT_S)


def test_new_runs_start_while_many_messages_hang(
    sender: ServerProcess, hanging: str, receiver: AnsweringServer
) -> None:
    """Runs whose messages hang do not keep the room of other runs: what they cannot send soon is sent later."""
    for number in range(60):
        assert sender.post(sender.endpoint, {"urls": [f"{hanging}{number}"]}).is_accepted
    sender.wait_for("select 1 where (select count(*) from outbox where tries > 0) > 10")
    left = sender.rows("select count(*) from outbox where tries = 0 and due <= ?", time.time())

    sender.post(sender.endpoint, {"urls": [receiver.url]})

    sender.wait_until(lambda: receiver.requests, LIMIT_S)
    assert left[0][0] > 0
    stored = sender.rows("select distinct lane from outbox")
    assert len(stored) == 2
    assert "127.0.0.1" not in json.dumps(stored)

"""A server that is killed between the first byte of a step's call and its answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cli.fork_server import ForkServer
from tests.durability.hosts import hosts_of
from tests.durability.server_process import ENDED, ServerProcess, count_outcomes, logging_step, new_project, server_of
from tests.http_servers import Answer, AnsweringServer, SentRequest, serve

TOKEN = "sk-live-0123456789abcdef"
UNSEEN, AGAIN = "unknown: sent, answer not seen.", "sent again: an earlier attempt sent it, answer not seen."


class PaymentHost:
    """A host whose second request has *arrived*, and gets no answer until the test sets *go_on*; the *paths* are those of all requests."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.arrived, self.go_on = threading.Event(), threading.Event()

    def answer(self, request: SentRequest) -> Answer:
        """The answer to a request."""
        self.paths.append(request.path)
        if len(self.paths) == 2:
            self.arrived.set()
            self.go_on.wait(60)
        return 200, b"{}"

    @contextmanager
    def open(self) -> Iterator[tuple[str, str]]:
        """Listen; yields the options of `serve` with which calls reach this host."""
        with serve(AnsweringServer(self.answer)) as server:
            try:
                yield "--egress", f"stand-in=http://127.0.0.1:{server.server_port}"
            finally:
                self.go_on.set()


def paying_cells(log: Path, first: str = "'first'", *, headers: str = "{}", options: str = "") -> list[str]:
    """The cells of a workflow whose step sends two POST requests, to the path of the expression *first* and to `second`."""
    body = (
        "import urllib.request\n"
        f"for path in ({first}, 'second'):\n"
        f"    request = urllib.request.Request('https://pay.example.com/' + path, b'{{}}', headers={headers})\n"
        "    urllib.request.urlopen(request)\n"
    )
    return ["%%pdworkflow\nname: Flow\n", logging_step("pay", log, body, options=options)]


def calls_of(server: ServerProcess) -> list[tuple[str, int | None, str]]:
    """Outcome, attempt and the first sentence of the note of each call in the record of the step."""
    ((data,),) = server.rows("select data from steps where name = 'pay'")
    calls: list[dict[str, Any]] = json.loads(data)["requests"]
    return [(call["outcome"], call.get("attempt"), call["note"].partition(".")[0] + ".") for call in calls]


@pytest.mark.parametrize("has_key", [False, True], ids=["no key", "key"])
def test_a_kill_between_first_byte_and_answer(fork_server: ForkServer, tmp_path: Path, has_key: bool) -> None:
    """The next server sends the calls again; the record has those of both attempts, and marks what is sent again without a key."""
    host = PaymentHost()
    headers = "{'Idempotency-Key': pd.steps['trigger']['context']['id'] + path}" if has_key else "{}"
    token = "pd.inputs['slack']['$auth']['oauth_access_token']"
    with host.open() as options, server_of(fork_server, tmp_path / "project") as server:
        cells = paying_cells(server.log, token, headers=headers, options="--app slack")
        new_project(server.folder, cells, token=TOKEN)
        server.more = options
        assert server.start(), server.said + server.errors
        run = server.accept(x_pd_external_user_id="ada")
        assert host.arrived.wait(60), server.errors

        server.kill()
        in_flight = server.rows("select run_id, path, attempt from calls_in_flight order by number")
        leaks = server.files_with(TOKEN)
        host.go_on.set()
        server.restart()
        server.wait_for(ENDED)

        count_outcomes(server, [run]).check("killed within a call")
        calls, left = calls_of(server), server.rows("select 1 from calls_in_flight")

    assert (in_flight, leaks, left) == ([(run, "pay", 1)] * 2, [], [])
    assert host.paths == [f"/{TOKEN}", "/second"] * 2
    assert calls[:2] == [("failed", 1, UNSEEN)] * 2
    assert [(outcome, attempt) for outcome, attempt, _ in calls[2:]] == [("stand_in", None)] * 2
    assert [note == AGAIN for _, _, note in calls[2:]] == [not has_key] * 2


def test_another_host_continues_a_run_with_calls(fork_server: ForkServer, tmp_path: Path, postgres_url: str) -> None:
    """On PostgreSQL another host takes over the run of a killed one, with the calls that it had sent."""
    host = PaymentHost()
    cells = paying_cells(tmp_path / "steps.log")
    with host.open() as options, hosts_of(fork_server, tmp_path, [postgres_url] * 2, cells, options=options) as hosts:
        killed, other = hosts.servers
        killed.accept(x_pd_external_user_id="ada")
        assert host.arrived.wait(60), killed.errors

        killed.kill()
        host.go_on.set()
        other.wait_for(ENDED)

        calls, left = calls_of(other), other.rows("select 1 from calls_in_flight")

    assert host.paths == ["/first", "/second"] * 2
    assert calls == [("failed", 1, UNSEEN)] * 2 + [("stand_in", None, AGAIN)] * 2
    assert left == []

"""A server on a full disk: it accepts no event that it cannot record, and the runs that it has accepted wait for room."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.cli.fork_server import ForkServer
from tests.durability.faults import LIMIT_DATABASE
from tests.durability.server_process import ENDED, ServerProcess, count_outcomes, logging_step, new_project, server_of
from tests.http_servers import AnsweringServer

LARGE = "'x' * 100_000"


class Gate:
    """Two files by which a test holds a step of another process."""

    def __init__(self, folder: Path, name: str) -> None:
        self._reached, self._opened = folder / f"{name}.reached", folder / f"{name}.opened"
        self.code = f"open({str(self._reached)!r}, 'w').close()\nwhile not os.path.exists({str(self._opened)!r}): time.sleep(0.01)\n"

    def wait_until_reached(self, server: ServerProcess) -> None:
        """Wait until the step waits at the gate."""
        server.wait_until(self._reached.exists)

    def open(self) -> None:
        """Let the step continue."""
        self._opened.touch()


@pytest.mark.parametrize("response", ["default", pytest.param("custom", marks=pytest.mark.slow)])
def test_a_full_disk_delays_runs_and_loses_none(
    fork_server: ForkServer, tmp_path: Path, receiver: AnsweringServer, response: str
) -> None:
    """
    Without room no event gets a 2xx response, a run stops after the step that cannot be recorded, and no message leaves.

    As soon as there is room, the run goes on in the same process, and no step is repeated.
    """
    with server_of(fork_server, tmp_path / "project") as server:
        full = tmp_path / "full"
        held, paused = Gate(tmp_path, "held"), Gate(tmp_path, "paused")
        send = f"pd.send.http(method='POST', url='http://127.0.0.1:{receiver.server_port}/', data={{'n': 1}})\n"
        respond = "pd.respond(status=200, body={'event_id': trigger['context']['id']}, immediate=True)\n"
        new_project(
            server.folder,
            [
                f"%%pdworkflow\nname: Flow\ntrigger: {{type: http, auth: none, response: {response}}}\n",
                logging_step("held", server.log, respond + held.code + f"return {LARGE}"),
                logging_step("after", server.log),
                logging_step("paused", server.log, paused.code + send + f"pd.flow.delay(1)\nreturn {LARGE}"),
                logging_step("last", server.log, f"return {LARGE}"),
            ],
        )
        assert server.start(LIMIT_DATABASE, str(full)), server.said
        run = server.accept()

        held.wait_until_reached(server)
        full.touch()
        refused = [server.post(server.endpoint, {"large": "x" * 50_000}) for _ in range(3)]
        held.open()
        time.sleep(0.7)
        stopped_at = [each.step for each in server.begun()]
        full.unlink()
        paused.wait_until_reached(server)
        full.touch()
        paused.open()
        time.sleep(0.7)
        sent_without_room = len(receiver.requests)
        full.unlink()
        server.wait_for("select 1 from runs where id = ? and ended is not null", run)
        server.wait_for("select 1 from outbox where run_id = ? and due is null", run)

        assert [(answer.status, answer.retry_after) for answer in refused] == [(503, "5")] * 3
        assert stopped_at == ["held"]
        assert sent_without_room == 0
        assert len(receiver.requests) == 1
        assert server.rows("select id, status, attempt from runs") == [(run, "success", 1)]
        steps = ("held", "after", "paused", "last")
        assert [(each.step, each.attempt) for each in server.begun()] == [(step, 1) for step in steps]
        count_outcomes(server, [run]).check("a full disk")


def test_an_event_is_refused_at_once_although_every_place_is_taken(fork_server: ForkServer, tmp_path: Path) -> None:
    """Runs that wait for room keep their places, but an event that cannot be recorded does not wait for a place."""
    with server_of(fork_server, tmp_path / "project") as server:
        full, held = tmp_path / "full", Gate(tmp_path, "held")
        step = logging_step("held", server.log, held.code + f"return {LARGE}")
        new_project(server.folder, ["%%pdworkflow\nname: Flow\n", step, logging_step("last", server.log)])
        server.more = ("--max-active-runs", "1")
        assert server.start(LIMIT_DATABASE, str(full)), server.said
        run = server.accept()
        held.wait_until_reached(server)
        full.touch()
        held.open()
        refused = server.post(server.endpoint, {"large": "x" * 50_000})
        full.unlink()
        server.wait_for(ENDED)

        assert (refused.status, refused.retry_after) == (503, "5")
        assert server.rows("select id, status from runs") == [(run, "success")]


def test_a_server_that_starts_on_a_full_disk_continues_runs_later(fork_server: ForkServer, tmp_path: Path) -> None:
    """If the disk is full when a server starts, the runs of a dead server go on as soon as there is room."""
    with server_of(fork_server, tmp_path / "project") as server:
        full = tmp_path / "full"
        step = logging_step("slow", server.log, f"if attempt == 1: time.sleep(60)\nreturn {LARGE}")
        new_project(server.folder, ["%%pdworkflow\nname: Flow\n", step, logging_step("last", server.log)])
        assert server.start()
        run = server.accept()
        server.wait_until_begun()
        server.kill()
        full.touch()
        assert server.start(LIMIT_DATABASE, str(full)), server.said
        time.sleep(1)
        full.unlink()
        server.wait_for("select 1 from runs where ended is not null")

        assert [(each.step, each.attempt) for each in server.begun()] == [("slow", 1), ("slow", 2), ("last", 1)]
        count_outcomes(server, [run]).check("a start on a full disk")

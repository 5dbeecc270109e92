"""A server that is killed each second under load finishes every event that it has accepted."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from pdkernel.engine.journal import MAX_DEATHS_ALONE
from tests.cli.fork_server import ForkServer
from tests.durability.server_process import ServerProcess, count_outcomes, logging_step, new_project, server_of

KILL_INTERVAL_S = 1.0
CLIENTS = 4
OFTEN_INTERRUPTED = (
    "select 1 from runs join interruptions on run_id = id where ended is null and alone group by id having count(*) > ?"
)
"""Runs that kills have interrupted so often while they were alone; the server gives up a run that is interrupted too often."""


def has_repeated_steps(server: ServerProcess) -> bool:
    """Whether a step has begun twice."""
    return max(Counter((each.run, each.step) for each in server.begun()).values(), default=0) > 1


@pytest.mark.timeout(900)
@pytest.mark.parametrize("events", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_events_accepted_under_load_survive_kills(fork_server: ForkServer, tmp_path: Path, events: int) -> None:
    """No accepted event is lost, no step begins after its commit, and a step in flight at a kill runs again as a later attempt."""
    with server_of(fork_server, tmp_path / "project") as server:
        # the last step is long enough to be in flight when the server is killed
        steps = [logging_step("one", server.log), logging_step("two", server.log, "time.sleep(0.1)")]
        new_project(server.folder, ["%%pdworkflow\nname: Load\n", *steps, logging_step("three", server.log)])
        assert server.start()
        accepted: dict[int, str] = {}
        numbers, stopped = itertools.count(), threading.Event()

        def send() -> None:
            while not stopped.is_set():
                number = next(numbers)
                answer = server.post(server.endpoint, {"n": number})
                if answer.is_accepted:
                    accepted[number] = json.loads(answer.text)["event_id"]
                else:  # the server is starting again, or has too many runs
                    time.sleep(0.02)

        clients = [threading.Thread(target=send) for _ in range(CLIENTS)]
        for client in clients:
            client.start()
        kills = 0
        while len(accepted) < events or not has_repeated_steps(server):
            time.sleep(KILL_INTERVAL_S)
            while server.rows(OFTEN_INTERRUPTED, MAX_DEATHS_ALONE // 2):  # a busy machine needs longer for a step
                time.sleep(0.05)
            server.kill()
            kills += 1
            server.restart()
        stopped.set()
        for client in clients:
            client.join()
        server.wait_for("select 1 where not exists (select 1 from runs where ended is null)")

        begun = server.begun()
        counts = count_outcomes(server, list(accepted.values()))
        counts.check(f"{kills} kills")
        attempts = defaultdict[tuple[str, str], list[int]](list)
        for each in begun:
            attempts[each.run, each.step].append(each.attempt)
        assert attempts.keys() >= {(run, step) for run in accepted.values() for step in ("one", "two", "three")}
        # a step that was interrupted runs again, and reads the number of the attempt; a kill before it begins uses a number, too
        repeated = [each for each in attempts.values() if len(each) > 1]
        assert repeated
        assert all(each == sorted({*each}) for each in repeated)

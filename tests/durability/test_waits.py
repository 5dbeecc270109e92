"""Calls of resume and cancel URLs over HTTP, raced against each other and against the end of the pause."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cli.fork_server import ForkServer
from tests.durability.server_process import (
    ServerProcess,
    count_outcomes,
    logging_step,
    new_project,
    server_of,
)

FLOW = "%%pdworkflow\nname: Flow\n"
PAUSE_MS = 1000
"""The pause of the first run of a batch; each other run pauses a little longer than the one before."""


def urls_of(server: ServerProcess, run: str) -> dict[str, str]:
    """The URLs of the step `ask` of a run, which waits."""
    ((data,),) = server.wait_for("select data from waits where run_id = ? and path = 'ask' and data <> ''", run)
    urls: dict[str, str] = json.loads(data)["exports"]["$return_value"]
    return urls


def race(server: ServerProcess, run: str) -> str:
    """Resume and cancel a run at the end of its pause; return which call won, or `timeout`."""
    urls = urls_of(server, run)
    ((wakes,),) = server.rows("select wake_at from waits where run_id = ?", run)
    verbs = random.sample(["resume", "cancel", "resume"], 3)  # two that resume: an approver who clicks twice
    together = threading.Barrier(
        3, action=lambda: time.sleep(max(0.0, wakes + random.uniform(-0.1, 0.2) - time.time()))
    )

    def call(verb: str) -> int:
        together.wait()
        return server.post(urls[f"{verb}_url"], {}).status

    with ThreadPoolExecutor(3) as threads:
        statuses = list(threads.map(call, verbs))
    winners = [verb for verb, status in zip(verbs, statuses, strict=True) if status == 200]
    assert set(statuses) <= {200, 409}, statuses
    assert len(winners) <= 1, statuses
    ((status, output),) = server.wait_for("select status, output from runs where id = ? and ended is not null", run)
    winner = winners[0] if winners else "timeout"
    assert status == ("success" if winner == "resume" else "cancelled"), (statuses, status)
    assert ("wait_expired" in output) == (winner == "timeout")
    return winner


@pytest.mark.timeout(900)
@pytest.mark.parametrize("runs", [16, pytest.param(200, marks=pytest.mark.slow)])
def test_one_of_resume_cancel_and_timeout_wins(fork_server: ForkServer, tmp_path: Path, runs: int) -> None:
    """One call wins or the pause ends, the others get 409, and the run's status is the winner's."""
    with server_of(fork_server, tmp_path / "project") as server:
        ask = logging_step("ask", server.log, f"return pd.flow.suspend({PAUSE_MS} + 250 * body['n'])")
        new_project(server.folder, [FLOW, ask, logging_step("last", server.log)])
        assert server.start()
        winners = Counter[str]()
        resumed: list[str] = []
        accepted: list[str] = []
        for _ in range(0, runs, 8):
            batch = [server.accept({"n": number}) for number in range(8)]
            accepted += batch
            for run in batch:
                winners[winner := race(server, run)] += 1
                resumed += [f"{run}/ask"] if winner == "resume" else []

        counts = count_outcomes(server, accepted, resumed)
        counts.check(f"races won: {dict(winners)}")
        assert sum(each.step == "last" for each in server.begun()) == winners["resume"]


def test_urls_of_a_run(fork_server: ForkServer, tmp_path: Path) -> None:
    """A resume before the pause counts; a resume works after the server has started again."""
    with server_of(fork_server, tmp_path / "project") as server:
        gate = server.log.with_name("opened")
        hold = f"while not os.path.exists({str(gate)!r}): time.sleep(0.01)"
        early = logging_step(
            "ask",
            server.log,
            f"urls = pd.flow.suspend(600000)\nopen({str(server.log)!r} + '.urls', 'w').write(json.dumps(urls))\n"
            f"{hold}\nreturn urls",
        )
        last = logging_step("last", server.log, "return pd.steps['ask'].get('$resume_data')")
        new_project(server.folder, [FLOW, early, last])
        assert server.start()
        first = server.accept()
        written = server.log.with_name(server.log.name + ".urls")
        server.wait_until(lambda: written.exists() and written.read_text())
        urls = json.loads(written.read_text())
        was_early = server.post(urls["resume_url"], {"n": "early"})
        was_late = server.post(urls["resume_url"], {"n": "late"})
        gate.touch()
        server.wait_for("select 1 from runs where id = ? and status = 'success'", first)

        second = server.accept()
        urls = urls_of(server, second)
        server.kill()
        while_down = server.post(urls["resume_url"], {"n": "down"})
        server.restart()
        after = server.post(urls["resume_url"], {"n": "up"})
        server.wait_for("select 1 from runs where id = ? and status = 'success'", second)

        assert (was_early.status, was_late.status) == (200, 409)
        assert (while_down.status, after.status) == (0, 200)
        returned = {
            run: json.loads(data)["exports"]["$return_value"]
            for run, data in server.rows("select run_id, data from steps where name = 'last'")
        }
        assert returned == {first: {"n": "early"}, second: {"n": "up"}}
        count_outcomes(server, [first, second]).check("URLs")

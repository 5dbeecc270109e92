"""Runs that wait for a place, beside runs that a server's death interrupts: only a run that ends its server alone is given up."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from pdkernel.journal import MAX_DEATHS_ALONE, MAX_INTERRUPTIONS
from pdkernel.operations.triggers import enable_triggers
from pdkernel.storage import Project
from tests.cli.fork_server import ForkServer
from tests.durability.server_process import ENDED, ServerProcess, count_outcomes, logging_step, new_project, server_of

FLOW = "%%pdworkflow\nname: Flow\nsettings: {lambda_timeout: 300}"
FAILED = "select 1 from runs where id = ? and status = 'error'"
LISTENS = "%%pdworkflow\nname: Ears\ntrigger: {type: errors}"


def kill_and_restart(server: ServerProcess) -> None:
    """Kill the server, start it again, and wait until a step has begun."""
    server.kill()
    begun = len(server.begun())
    server.restart()
    server.wait_until_begun(begun + 1)


@pytest.mark.timeout(300)
def test_runs_that_wait_for_a_place_are_not_interrupted(fork_server: ForkServer, tmp_path: Path) -> None:
    """However often a server is killed, a kill interrupts only runs that have a place or just get one, and every run finishes."""
    open_gate, places, events, kills = tmp_path / "open", 2, 5, 4
    with server_of(fork_server, tmp_path / "project") as server:
        held = f"while not os.path.exists({str(open_gate)!r}): time.sleep(0.05)\nreturn attempt"
        new_project(server.folder, [FLOW, logging_step("held", server.log, held)])
        server.more = ("--max-active-runs", str(places))
        assert server.start()
        runs = [server.accept({"n": number}) for number in range(events)]
        server.wait_until_begun(1)
        for _ in range(kills):
            kill_and_restart(server)
        waiting = server.rows("select attempt from runs where ended is null")
        interrupted = sum(attempt - 1 for (attempt,) in waiting)
        open_gate.touch()
        server.wait_for(ENDED)

        assert 0 < interrupted <= 2 * kills * places
        count_outcomes(server, runs).check(f"{kills} kills, {places} places")
        assert server.rows("select id, attempt, output from runs where status <> 'success'") == []


def poison_step(server: ServerProcess, name: str = "ends") -> str:
    """A step that ends the server if the event's number is negative; otherwise it waits until the server is killed once."""
    body = """if body.get("n", 0) < 0:
    open({poison!r}, "a").close()
    time.sleep(60)
while body.get("n", 0) == 0 and attempt == 1: time.sleep(0.05)
return attempt"""
    return logging_step(name, server.log, body.format(poison=str(server.folder.parent / "poison")))


@pytest.mark.timeout(300)
def test_a_run_that_ends_servers_is_given_up_and_the_runs_beside_it_finish(
    fork_server: ForkServer, tmp_path: Path
) -> None:
    """After some deaths beside others it runs alone; after more it ends with that reason, and is reported like any failed run."""
    poison = tmp_path / "poison"
    with server_of(fork_server, tmp_path / "project") as server:
        new_project(server.folder, [FLOW, poison_step(server)], ears=[LISTENS, logging_step("heard", server.log)])
        with Project.open(server.folder / ".pdkernel") as project:
            enable_triggers(project, "Ears", server.folder)
        server.more = ("ears.ipynb",)
        assert server.start()
        beside = [server.accept({"n": 0}) for _ in range(3)]
        ending = server.accept({"n": -1})
        deaths, late = 0, ""
        while True:
            server.wait_until(poison.exists)
            if deaths == MAX_INTERRUPTIONS:
                late = server.accept({"n": 1})
                time.sleep(0.5)  # in which it would begin if the other run were not alone
                assert late not in {each.run for each in server.begun()}
            server.kill()
            poison.unlink()
            deaths += 1
            server.restart()
            server.wait_until(lambda: poison.exists() or server.rows(FAILED, ending))
            if not poison.exists():
                break
        server.wait_for(ENDED)
        server.wait_for("select 1 from runs where workflow = 'Ears' and status = 'success'")

        (output,) = server.rows("select output from runs where id = ?", ending)
        error = json.loads(output[0])["error"]
        assert deaths == MAX_INTERRUPTIONS + MAX_DEATHS_ALONE
        assert f"it ran alone {MAX_DEATHS_ALONE} times, and the server ended each time" in error["message"]
        assert error["code"] == "interrupted"
        counts = count_outcomes(server, [*beside, ending, late])
        counts.check(f"{deaths} deaths")
        assert server.rows("select distinct status from runs where id in (?, ?, ?, ?)", *beside, late) == [("success",)]
        # the runs beside it were not alone with it
        assert max(each.attempt for each in server.begun() if each.run in beside) <= MAX_INTERRUPTIONS + 1


@pytest.mark.timeout(300)
def test_orderly_restarts_give_up_no_run(fork_server: ForkServer, tmp_path: Path) -> None:
    """However often a server is stopped in order, and then killed once, no run was interrupted more than once."""
    open_gate, restarts = tmp_path / "open", 2
    with server_of(fork_server, tmp_path / "project") as server:
        held = f"while not os.path.exists({str(open_gate)!r}): time.sleep(0.05)\nreturn attempt"
        new_project(server.folder, [FLOW, logging_step("held", server.log, held)])
        server.more = ("--max-active-runs", "2")
        assert server.start()
        runs = [server.accept({"n": number}) for number in range(6)]
        server.wait_until_begun(1)
        for _ in range(restarts):
            for _ in range(2):  # the second one does not wait for the steps
                server.send_signal(signal.SIGTERM)
                time.sleep(0.5)
            server.wait_until_ended()
            begun = len(server.begun())
            server.restart()
            server.wait_until_begun(begun + 1)
        kill_and_restart(server)
        interrupted = server.rows("select run_id, count(*) from interruptions group by run_id")
        open_gate.touch()
        server.wait_for(ENDED)

        assert {count for _, count in interrupted} == {1}
        count_outcomes(server, runs).check(f"{restarts} restarts")
        assert server.rows("select distinct status from runs") == [("success",)]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_child_run_that_ends_servers_is_given_up_and_its_parent_goes_on(
    fork_server: ForkServer, tmp_path: Path
) -> None:
    """A run that waits for a child run is not blamed for it: the child run is given up, and the step gets its error."""
    poison = tmp_path / "poison"
    with server_of(fork_server, tmp_path / "project") as server:
        call = (
            "try:\n    pd.flow.trigger('child', {'body': {'n': -1}})\nexcept Exception as error:\n    return str(error)"
        )
        new_project(server.folder, [FLOW, logging_step("call", server.log, call)], child=[poison_step(server)])
        server.more = ("child.ipynb",)
        assert server.start()
        parent = server.accept({"n": 1})
        deaths = 0
        while not server.rows("select 1 from runs where id = ? and ended is not null", parent):
            if poison.exists():
                server.kill()
                poison.unlink()
                deaths += 1
                server.restart()
            time.sleep(0.02)

        assert deaths == MAX_INTERRUPTIONS + MAX_DEATHS_ALONE
        runs = dict(server.rows("select workflow, status from runs"))
        assert runs == {"Flow": "success", "child": "error"}
        ((data,),) = server.rows("select data from steps where name = 'call'")
        assert "it ran alone" in json.loads(data)["exports"]["$return_value"]

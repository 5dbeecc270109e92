"""The engine of a notebook's session, in its own thread."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path
from traceback import walk_stack

import pytest

from pdkernel.common.clock import RANDOM_IDS, SYSTEM_CLOCK
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.errors import PdkernelError, RequestError
from pdkernel.execution import Execution
from pdkernel.kit.session import Session
from pdkernel.kit.session.engine_thread import EngineThread, LazyProject
from tests.builders import an_event

CELL = ContextVar("CELL", default="no cell")
"""As ipykernel keeps the cell that the output of a thread belongs to."""


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[EngineThread]:
    """The engine of a project whose place `project` is free at first."""
    environ = {"PDKERNEL_PROJECT": str(tmp_path / "project")}
    local = LazyProject(tmp_path, project=None, environ=environ, clock=SYSTEM_CLOCK, ids=RANDOM_IDS)
    engine = EngineThread(local, clock=SYSTEM_CLOCK, ids=RANDOM_IDS)
    yield engine
    engine.close()
    local.close()


async def find_cell(_: WorkflowEngine) -> str:
    """The cell that an operation runs for."""
    return CELL.get()


def test_a_run_that_cannot_start_leaves_the_next_one_free(engine: EngineThread, tmp_path: Path) -> None:
    """If the engine cannot start, each run raises the reason, until the reason is gone."""
    (tmp_path / "project").write_text("not a folder")
    for _ in range(2):
        with pytest.raises(PdkernelError) as refused:
            engine.start(find_cell).result()
        assert not isinstance(refused.value, RequestError), refused.value  # "A run is already in progress"

    (tmp_path / "project").unlink()

    assert engine.start(find_cell).result() == "no cell"


def test_a_followed_run_belongs_to_no_cell(engine: EngineThread) -> None:
    """What goes on in the background is not in the context of the cell that started it, other than a run."""
    token = CELL.set("cell 1")
    try:
        found = [engine.start(find_cell).result(), engine.follow(find_cell).result()]
    finally:
        CELL.reset(token)

    assert found == ["cell 1", "no cell"]


Make = Callable[..., Session]

WAIT = "%%pdstep wait\ndef handler(pd):\n    pd.flow.suspend(3600_000)\n    return 1\n"
AFTER = "%%pdstep after\ndef handler(pd):\n    return pd.steps['wait'].get('$resume_data')\n"


def pause(session: Session) -> Execution:
    """A run of *session* that is paused for an hour."""
    for name, source in (("wait", WAIT), ("after", AFTER)):
        session.record_cell(source, cell_id=name)
    session.choose_event(an_event())
    paused = session.run()
    assert paused.status == "paused"
    return paused


def test_a_pause_ends_with_its_data(session: Session) -> None:
    """A followed run goes on with the data, its end is reported before the task ends, and its results are those of the cells."""
    paused, runs = pause(session), session.paused_runs
    seen: list[str] = []
    stopped: Future[Execution | None] = Future()
    task = runs.follow(paused, on_change=lambda each: seen.append(each.status), on_stop=stopped.set_result)
    before = (runs.is_followed(paused.id), runs.newest)

    runs.end_pause(paused.id, {"ok": True})
    ended = task.result()

    assert before == (True, paused.id)
    assert ended.status == "success"
    assert ended.step("after").return_value == {"ok": True}
    assert stopped.result() == ended
    assert seen[-1] == "success"
    assert (runs.is_followed(paused.id), runs.newest) == (False, None)
    assert session.last_execution == ended
    assert session.get_exports()["after"] == {"$return_value": {"ok": True}}


def is_in_wait(name: str) -> bool:
    """Whether the thread *name* waits for a result."""
    frames = sys._current_frames()
    stacks = [
        walk_stack(frames[each.ident]) for each in threading.enumerate() if each.name == name and each.ident in frames
    ]
    return any(frame.f_code is Future.result.__code__ for stack in stacks for frame, _ in stack)


def test_a_wait_returns_the_end(session: Session) -> None:
    """A wait for a followed run ends with the run; a run that is not followed has nothing to wait for."""
    paused, runs = pause(session), session.paused_runs
    assert runs.wait(paused.id) is None
    task = runs.follow(paused)
    with ThreadPoolExecutor(thread_name_prefix="waits") as threads:
        waiting = threads.submit(runs.wait, paused.id)
        while not is_in_wait("waits_0"):
            time.sleep(0.01)
        runs.end_pause(paused.id)

        assert waiting.result() == task.result()


def test_a_run_is_cancelled_once(session: Session) -> None:
    """A cancelled run has its record, and neither goes on nor is cancelled again."""
    paused, runs = pause(session), session.paused_runs
    task = runs.follow(paused)

    assert runs.cancel(paused.id).status == "cancelled"
    assert task.result().status == "cancelled"
    with pytest.raises(RequestError, match="has ended already"):
        runs.cancel(paused.id)
    with pytest.raises(RequestError, match="has ended already"):
        runs.end_pause(paused.id)


def test_the_run_that_was_followed_last_is_the_newest(session: Session) -> None:
    """Of two followed runs the later one is meant by default; a run that is followed is not left."""
    first, second = pause(session), session.run()
    runs = session.paused_runs
    left = [each.id for each in runs.list_left(session.workflow.name)]

    runs.follow(first)
    assert runs.newest == first.id
    runs.follow(second)
    assert runs.newest == second.id

    assert left == [second.id, first.id]
    assert list(runs.list_left(session.workflow.name)) == []


def test_a_later_kernel_finds_the_runs_that_were_left(make_session: Make) -> None:
    """The end of a kernel leaves its paused runs; the next kernel lists those of its own workflow, paused or resumed."""
    before = make_session()
    paused = pause(before)
    before.paused_runs.follow(paused)
    before.call_engine(lambda engine: engine.journal.get_execution(paused.id))  # after this, the run is being followed
    before.close()

    after = make_session()
    for name, source in (("wait", WAIT), ("after", AFTER)):
        after.record_cell(source, cell_id=name)
    found = [each.id for each in after.paused_runs.list_left(after.workflow.name)]
    other = make_session("other.ipynb")
    others = list(other.paused_runs.list_left(other.workflow.name))
    after.paused_runs.end_pause(paused.id, "now")
    resumed = [(each.id, each.status) for each in after.paused_runs.list_left(after.workflow.name)]
    ended = after.paused_runs.follow(paused).result()

    assert found == [paused.id]
    assert resumed == [(paused.id, "resumed")]
    assert ended.step("after").return_value == "now"
    assert others == []


def test_a_run_of_a_terminal_is_not_left_to_the_notebook(session: Session) -> None:
    """A paused run of another program is not one that this notebook could continue."""
    paused = pause(session)
    assert session.project.sqlite_path is not None
    with session.project.sqlalchemy_engine.begin() as connection:
        connection.exec_driver_sql("update runs set origin = 'terminal'")

    assert paused.id not in [each.id for each in session.paused_runs.list_left(session.workflow.name)]


def test_a_later_run_keeps_the_results_of_the_cells(session: Session) -> None:
    """A run that goes on after a later run does not replace the results of the later one."""
    paused = pause(session)
    task = session.paused_runs.follow(paused)
    session.record_cell("%%pdstep wait\ndef handler(pd):\n    return 'later'\n", cell_id="wait")
    later = session.run()

    session.paused_runs.end_pause(paused.id)
    task.result()

    assert session.get_exports()["wait"] == {"$return_value": "later"}
    assert later.status == "success"


def test_a_run_for_another_user_keeps_the_results_of_the_cells(session: Session) -> None:
    """A paused run for another user than the chosen one does not change the results of the cells when it goes on."""
    pause(session)
    before = session.get_exports()
    paused = session.run(external_user_id="grace")
    task = session.paused_runs.follow(paused)

    session.paused_runs.end_pause(paused.id, "for grace")

    assert task.result().step("after").return_value == "for grace"
    assert session.get_exports() == before
    assert "after" not in before

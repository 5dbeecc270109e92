"""A run whose record cannot be written."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from pdkernel.engine.deliveries import NOTIFICATION_STEP
from pdkernel.engine.record_writes import WRITE_RETRY_S
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.journal import Journal
from pdkernel.model import Trigger
from pdkernel.storage import Project
from tests.builders import Gate, a_block, a_workflow, python_step
from tests.engine.conftest import Run, error_of


@pytest.fixture
async def full(runtime: WorkflowEngine) -> WorkflowEngine:
    """An engine with a database that cannot grow."""
    journal = runtime.journal
    assert isinstance(journal, Journal)
    await journal._writer.write(lambda connection: connection.execute("pragma max_page_count = 1").fetchone())
    return runtime


@pytest.mark.usefixtures("full")
async def test_execution_has_the_steps_before_the_full_disk(run: Run) -> None:
    """The run stops before the next step; its execution has the finished steps and the error of the disk."""
    execution = await run(python_step("one", "return 'x' * 400_000"), python_step("two", "return 2"))
    assert execution.status == "error"
    assert execution.error is not None
    assert execution.error.code == "project"
    assert "the disk is full" in execution.error.message
    assert execution.step("one").return_value == "x" * 400_000
    assert execution.step("two").status == "not_run"


@pytest.mark.usefixtures("full")
async def test_run_with_an_unwritten_end_is_an_error(run: Run) -> None:
    """A run whose last step cannot be written does not have the status success."""
    execution = await run(python_step("one", "return 'x' * 400_000"))
    assert execution.status == "error"
    assert execution.step("one").status == "success"


@pytest.mark.usefixtures("full")
async def test_error_of_a_step_is_not_replaced(run: Run) -> None:
    """A run that has failed before the disk was full keeps the error of its step."""
    error = error_of(await run(python_step("one", "print('x' * 400_000)\nraise ValueError('own')")))

    assert (error.step, error.message) == ("one", "own")


@pytest.mark.usefixtures("full")
async def test_a_cancelled_run_does_not_wait_for_room(run: Run, tmp_path: Path) -> None:
    """A served run, which waits for room on the disk, ends at once if it is cancelled: its process may end."""
    gate = Gate(tmp_path)
    held = python_step("one", f"pd.export('x', 'x' * 400_000)\n{gate.code}")
    running = asyncio.ensure_future(run(held, python_step("two"), interface="http", pause_mode="park"))
    await gate.wait_until_reached()

    running.cancel()
    async with asyncio.timeout(30):
        execution = await running

    assert (execution.status, execution.step("two").status) == ("cancelled", "skipped")


async def test_a_pause_waits_for_the_steps_of_other_branches(run: Run, full: WorkflowEngine) -> None:
    """On a full disk, a run is not paused in one branch before the step of another branch is recorded, which would run again."""
    block = a_block("%%pdparallel both\nwaits: always\nworks: always")
    waits = python_step("wait", "pd.flow.suspend(60_000)", options="--in both.waits")
    works = python_step("work", "return 'x' * 400_000", options="--in both.works")
    running = asyncio.ensure_future(run(a_workflow(block, waits, works), interface="http", pause_mode="park"))
    journal = full.journal
    assert isinstance(journal, Journal)
    await asyncio.sleep(3 * WRITE_RETRY_S)
    was_done = running.done()

    await journal._writer.write(lambda connection: connection.execute("pragma max_page_count = 1000000").fetchone())
    async with asyncio.timeout(30):
        execution = await running

    recorded = await journal.load_run(execution.id)
    assert (was_done, execution.status) == (False, "paused")
    assert recorded is not None
    assert [step.name for step in recorded[1].steps if step.name == "work"] == ["work"]


async def test_a_served_run_waits_for_room(run: Run, full: WorkflowEngine, caplog: pytest.LogCaptureFixture) -> None:
    """On a full disk a served run answers its caller and waits, with one warning; with room on the disk, it loses no step."""
    answered = asyncio.get_running_loop().create_future()
    steps = python_step("one", "return 'x' * 400_000"), python_step("two", "return 2"), python_step("three", "return 3")
    workflow = replace(a_workflow(*steps), triggers=(Trigger("http", response="custom"),))
    running = asyncio.ensure_future(run(workflow, interface="http", pause_mode="park", on_respond=answered.set_result))
    async with asyncio.timeout(20):
        response = await answered
    waits = [] if running.done() else ["waits"]

    journal = full.journal
    assert isinstance(journal, Journal)
    await journal._writer.write(lambda connection: connection.execute("pragma max_page_count = 100000").fetchone())
    execution = await running
    kept = await journal.get_execution(execution.id)

    assert kept is not None
    assert [step.return_value for step in kept.steps] == ["x" * 400_000, 2, 3]
    assert (kept.status, execution.status, response.status, waits) == ("success", "success", 400, ["waits"])
    assert len(caplog.messages) == 1
    assert "waits, because it cannot be recorded" in caplog.messages[0]


@pytest.mark.parametrize("table", ["turns", "starts"])
async def test_a_served_run_waits_for_the_record_of_its_start(
    run: Run, runtime: WorkflowEngine, caplog: pytest.LogCaptureFixture, table: str
) -> None:
    """A served run of a workflow with limits waits while neither its turn nor its start can be written."""
    journal = runtime.journal
    assert isinstance(journal, Journal)
    refuse = f"create trigger refuses before {{}} on {table} begin select raise(abort, 'disk full'); end"
    change = refuse.format("update" if table == "turns" else "insert")
    await journal._writer.write(lambda connection: connection.execute(change).fetchone())
    workflow = a_workflow(python_step("one", "return 1"), throttle={"limit": 1, "interval": 60})
    running = asyncio.ensure_future(run(workflow, interface="http", pause_mode="park"))
    async with asyncio.timeout(30):
        while not caplog.messages and not running.done():
            await asyncio.sleep(0.01)

    await journal._writer.write(lambda connection: connection.execute("drop trigger refuses").fetchone())
    execution = await running

    assert (execution.status, execution.step("one").return_value) == ("success", 1)
    assert "waits, because it cannot be recorded" in caplog.text


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_a_failed_run_waits_until_its_failure_can_be_reported(
    run: Run, project: Project, caplog: pytest.LogCaptureFixture, is_cancelled: bool
) -> None:
    """A served run that fails while the address for failures cannot be read loses no message, unless its process ends."""
    project.settings.set("error_notification", "http://127.0.0.1:9/failed")
    with project.sqlalchemy_engine.begin() as connection:
        connection.exec_driver_sql("alter table settings rename to away")
    failing = python_step("one", "raise ValueError('own')")
    running = asyncio.ensure_future(run(failing, interface="http", pause_mode="park"))
    async with asyncio.timeout(30):
        while "waits" not in caplog.text and not running.done():
            await asyncio.sleep(0.01)
        has_waited = not running.done()
        if is_cancelled:
            running.cancel()
            await asyncio.wait([running])
        with project.sqlalchemy_engine.begin() as connection:
            connection.exec_driver_sql("alter table away rename to settings")
        execution = await running

    assert has_waited
    assert (execution.status, execution.error and execution.error.message) == ("error", "own")
    assert [each.step for each in execution.sends] == ([] if is_cancelled else [NOTIFICATION_STEP])


async def test_missing_temporary_folder_is_an_error(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the temporary folder does not exist, the error names the fix."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    error = error_of(await run(python_step("one")))
    assert error.code == "internal"
    assert "TMPDIR" in error.message

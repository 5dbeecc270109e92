"""A run whose claim is lost: the journal refuses its writes, and the run stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pdkernel.accounts import LocalDirectory
from pdkernel.common.clock import ManualClock
from pdkernel.engine.record_writes import WRITE_RETRY_S, RunLostError, retry_unreachable
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.errors import DatabaseUnreachableError, ProjectError
from pdkernel.execution import Execution
from pdkernel.journal import Journal, SqliteBackend
from pdkernel.storage import Project
from tests.builders import Gate, python_step
from tests.engine.conftest import Run, error_of
from tests.http_servers import AnsweringServer, serve


class NobodyElse:
    """`ExecutorLiveness` for which every other executor is dead."""

    def hold(self, executor_id: str) -> None:
        """The executor lives."""

    def release(self, executor_id: str) -> None:
        """The executor ends."""

    def is_alive(self, executor_id: str) -> bool:
        """No other executor lives."""
        return False


@pytest.fixture
async def runtime(project: Project, directory: LocalDirectory) -> AsyncIterator[WorkflowEngine]:
    """The engine of a server."""
    async with await WorkflowEngine.start(project, directory, origin="serve") as started:
        yield started


@pytest.fixture
async def other(project: Project) -> AsyncIterator[Journal]:
    """The journal of another server's process, which takes all others for dead."""
    assert project.sqlite_path is not None
    journal = Journal.open(SqliteBackend(project.sqlite_path, liveness=NobodyElse()), origin="serve")
    yield journal
    await journal.close()


async def run_until_gate(run: Run, gate: Gate, after: Path) -> tuple[asyncio.Task[Execution], str]:
    """Start a run whose first step waits at *gate* and whose second step creates the file *after*."""
    steps = python_step("held", f"{gate.code}\nreturn 1"), python_step("next", f"open({str(after)!r}, 'w')\nreturn 2")
    task = asyncio.ensure_future(run(*steps, run_ids=("the-run", "the-trace")))
    await gate.wait_until_reached()
    return task, "the-run"


@pytest.mark.parametrize("lost", ["cancelled", "taken over"])
async def test_a_lost_run_starts_no_further_step(
    run: Run, runtime: WorkflowEngine, other: Journal, tmp_path: Path, lost: str
) -> None:
    """
    If another process cancels or takes over a run during a step, the next step does not start.

    The run ends with the error `run_lost`, or with the journal's record of the cancellation.
    """
    gate, after = Gate(tmp_path), tmp_path / "after"
    task, run_id = await run_until_gate(run, gate, after)

    if lost == "cancelled":
        assert await other.cancel(run_id)
    else:
        assert await other.reap_dead() == 1
        assert await other.claim(run_id) is not None
    gate.open()
    execution = await task

    assert execution.error is not None
    ended = ("cancelled", "cancelled") if lost == "cancelled" else ("error", "run_lost")
    assert (execution.status, execution.error.code) == ended
    assert (execution.step("next").status, after.exists()) == ("not_run", False)
    kept = await other.get_execution(run_id)
    assert kept is not None
    assert kept.status == ("cancelled" if lost == "cancelled" else "executing")
    assert [step.status for step in kept.steps] == ["not_run", "not_run"]
    assert await runtime.journal.get_execution(run_id) == kept


async def test_a_run_of_a_dead_executor_is_not_acknowledged(run: Run, other: Journal, tmp_path: Path) -> None:
    """An executor that was taken for dead accepts no run: `on_recorded` is not called, and no step starts."""
    recorded: list[bool] = []
    after = tmp_path / "after"
    await other.reap_dead()

    error = error_of(
        await run(python_step("one", f"open({str(after)!r}, 'w')\nreturn 1"), on_recorded=lambda: recorded.append(True))
    )

    assert error.code == "executor_lost"
    assert (recorded, after.exists()) == ([], False)


async def test_a_pause_of_a_lost_run_is_not_recorded(run: Run, other: Journal, tmp_path: Path) -> None:
    """A run that is cancelled elsewhere and then pauses stays cancelled: no pause and no step of it is recorded."""
    gate = Gate(tmp_path)
    step = python_step("held", f"{gate.code}\npd.flow.delay(60000)\nreturn 1")
    task = asyncio.ensure_future(run(step, run_ids=("the-run", "the-trace"), pause_mode="park"))
    await gate.wait_until_reached()

    await other.cancel("the-run")
    gate.open()
    error = error_of(await task)

    kept = await other.get_execution("the-run")
    assert error.code == "cancelled"
    assert kept is not None
    assert (kept.status, kept.steps[0].status) == ("cancelled", "not_run")


async def test_a_lost_run_sends_nothing(run: Run, other: Journal, tmp_path: Path) -> None:
    """The process that continues a run sends its messages, and the one that lost the run does not."""
    gate = Gate(tmp_path)
    with serve(AnsweringServer(lambda _: (204, b""))) as server:
        step = python_step("held", f"pd.send.http('POST', {server.url!r}, data='x')\n{gate.code}\nreturn 1")
        task = asyncio.ensure_future(run(step, run_ids=("the-run", "the-trace"), interface="http", pause_mode="park"))
        await gate.wait_until_reached()
        assert await other.reap_dead() == 1
        gate.open()
        execution = await task

    assert execution.error is not None
    assert (execution.error.code, server.requests) == ("run_lost", [])


async def test_a_read_waits_for_a_database_that_does_not_answer() -> None:
    """What needs the database is tried again until the database answers, or until the check raises; other errors end it."""
    clock, checks = ManualClock(), 0
    faults: list[ProjectError] = [DatabaseUnreachableError("gone")] * 2

    async def read() -> str:
        if faults:
            raise faults.pop()
        return "read"

    async def check() -> None:
        nonlocal checks
        checks += 1
        if checks == 3:
            raise RunLostError

    done = await retry_unreachable(read, clock, check)
    faults += [DatabaseUnreachableError("gone")] * 2
    with pytest.raises(RunLostError):
        await retry_unreachable(read, clock, check)
    faults[:] = [ProjectError("damaged")]
    with pytest.raises(ProjectError, match="damaged"):
        await retry_unreachable(read, clock, check)

    assert done == "read"
    assert checks == 3
    assert clock.monotonic() == 3 * WRITE_RETRY_S

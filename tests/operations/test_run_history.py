"""Recorded runs of a project: listed, shown, cancelled, resumed, removed, and as a table."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace as replace_struct

from pdkernel.accounts import LocalDirectory
from pdkernel.common.clock import ManualClock
from pdkernel.egress import parse_policy
from pdkernel.engine.run_request import RunRequest
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.errors import ProjectError, RequestError
from pdkernel.execution import Execution
from pdkernel.journal import ExecutionQuery, Journal, NewDecision
from pdkernel.operations.run_history import (
    REMOVAL_BATCH,
    build_query,
    build_runs_frame,
    build_selection,
    cancel_run,
    describe_resumed,
    find_run_ids,
    get_run,
    list_runs,
    open_journal,
    parse_moment,
    remove_expired,
    remove_runs,
    resume_run,
)
from pdkernel.storage import Project
from tests.builders import Gate, a_workflow, an_event, python_step
from tests.engine.conftest import Run

NOW = datetime(2026, 11, 27, 12, 30, 15, tzinfo=UTC)  # a Friday


def parsed(text: str) -> datetime:
    """The moment of *text* at `NOW`."""
    return parse_moment(text, option="--since", clock=ManualClock(NOW))


@pytest.mark.parametrize(
    ("text", "before"),
    [("90s", timedelta(seconds=90)), ("5m", timedelta(minutes=5)), ("2h", timedelta(hours=2)), ("3 d", timedelta(days=3)), ("1w", timedelta(weeks=1)),
     ("2 hours ago", timedelta(hours=2)), ("10 minutes ago", timedelta(minutes=10)), ("now", timedelta())],
)  # fmt: skip
def test_a_span_ends_now(text: str, before: timedelta) -> None:
    """A span is so long before now, to the second."""
    assert parsed(text) == NOW - before


@pytest.mark.parametrize(
    ("text", "day"),
    [("yesterday", 26), ("today", 27), ("last tuesday", 24), ("Tuesday", 24), ("2026-11-20", 20), ("20 nov 2026", 20)],
)
def test_a_day_is_its_beginning(text: str, day: int) -> None:
    """A day without a time is its beginning in the local time zone; the day of a week is the last one."""
    found = parsed(text)

    assert (found.year, found.month, found.day, found.time()) == (2026, 11, day, datetime.min.time())
    assert found.utcoffset() == found.replace(tzinfo=None).astimezone().utcoffset()


@pytest.mark.parametrize(
    ("text", "hour", "minute"),
    [
        ("yesterday at 10:30", 10, 30),
        ("yesterday at 3 pm", 15, 0),
        ("yesterday 3am", 3, 0),
        ("yesterday at noon", 12, 0),
    ],
)
def test_a_day_with_a_time_is_that_time(text: str, hour: int, minute: int) -> None:
    """Words that have a time are not the beginning of their day."""
    found = parsed(text)

    assert (found.day, found.hour, found.minute) == (26, hour, minute)


def test_a_time_without_a_zone_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dates, times and words are those of the machine's time zone."""
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        found = [parsed(text) for text in ("2026-11-20", "2026-11-20T10:00", "yesterday")]
    finally:
        monkeypatch.undo()
        time.tzset()

    hours = [(20, 5), (20, 15), (26, 5)]
    assert found == [datetime(2026, 11, day, hour, tzinfo=UTC) for day, hour in hours]


def test_a_time_with_a_zone_keeps_it() -> None:
    """An ISO time with a zone is that moment."""
    assert parsed("2026-11-24T10:00:00+02:00") == datetime(2026, 11, 24, 8, 0, tzinfo=UTC)


@pytest.mark.parametrize("text", ["blah", "", "2026-13-40", "99x", "9999999999w"])
def test_another_text_is_refused(text: str) -> None:
    """A text that is not a time names the option and the forms."""
    with pytest.raises(RequestError, match=r"--since .* is not a time") as refused:
        parsed(text)

    assert "last tuesday" in refused.value.fix


async def test_a_new_project_has_no_runs(tmp_path: Path) -> None:
    """A project whose journal has no tables yet lists no runs, and has no run of any id."""
    with Project.open(tmp_path / ".pdkernel") as project:
        assert list(await list_runs(project, ExecutionQuery())) == []
        with pytest.raises(RequestError, match="There is no run 'x'"):
            await get_run(project, "x")
        with pytest.raises(RequestError, match="There are no runs in this project yet"):
            await get_run(project)


async def test_a_damaged_journal_is_reported(tmp_path: Path) -> None:
    """A file of a newer version is refused, and not changed."""
    with Project.open(tmp_path / ".pdkernel") as project:
        assert project.sqlite_path is not None
        with project.sqlalchemy_engine.begin() as connection:
            connection.exec_driver_sql("pragma user_version = 99")
        with pytest.raises(ProjectError, match="newer version"):
            await list_runs(project, ExecutionQuery())
        with pytest.raises(ProjectError, match="newer version"):
            async with open_journal(project):
                raise AssertionError("the journal of a newer version was opened")


WAITS = a_workflow(
    python_step("wait", "pd.flow.suspend(3600_000)\nreturn {'token': 1}"),
    python_step("after", "return pd.steps['wait'].get('$resume_data')"),
)
"""A workflow that pauses for an hour, unless it is resumed."""


@pytest.mark.parametrize(
    "filters", [{"status": "failed"}, {"environment": "test"}, {"since": "x"}, {"limit": 0}, {"limit": -1}]
)
def test_a_wrong_filter_is_refused(filters: dict[str, Any]) -> None:
    """A filter with an unknown value is refused."""
    with pytest.raises(RequestError):
        build_query(ManualClock(NOW), **filters)


def test_an_act_on_all_runs_needs_a_filter() -> None:
    """Runs are selected by at least one filter, so that no command acts on every run by accident."""
    with pytest.raises(RequestError, match="No run is named"):
        build_selection(ManualClock(NOW))

    assert build_selection(ManualClock(NOW), since="1h").since == NOW - timedelta(hours=1)


@pytest.mark.parametrize(
    ("name", "value"),
    [("workflow", "Test"), ("external_user", "ada"), ("environment", "production"), ("status", "error"), ("since", "1h"), ("until", "1h")],
)  # fmt: skip
def test_each_filter_selects_runs(name: str, value: str) -> None:
    """One filter of any kind is enough for an act on all runs that match."""
    field = {"external_user": "external_user_id"}.get(name, name)

    assert getattr(build_selection(ManualClock(NOW), **{name: value}), field) is not None


def test_an_end_that_is_not_a_time_names_its_option() -> None:
    """The message about the end of a period names `--until`."""
    with pytest.raises(RequestError, match="--until someday is not a time"):
        build_query(ManualClock(NOW), until="someday")


async def test_a_paused_run_shows_its_pause(run: Run, project: Project) -> None:
    """The record of a paused run has the step, the kind and the end of the pause, in its process and later."""
    paused = await run(WAITS, pause_mode="park")
    kept = await get_run(project, paused.id)

    assert paused.pause is not None
    assert (paused.pause.step, paused.pause.kind) == ("wait", "suspend")
    assert kept.pause == paused.pause


async def test_a_paused_run_is_cancelled(run: Run, runtime: WorkflowEngine) -> None:
    """A paused run is cancelled, and then neither cancelled nor resumed again."""
    paused = await run(WAITS, pause_mode="park")
    cancelled = await cancel_run(runtime.journal, paused.id)

    assert (cancelled.status, cancelled.pause) == ("cancelled", None)
    with pytest.raises(RequestError, match="has ended already: its status is cancelled"):
        await cancel_run(runtime.journal, paused.id)
    with pytest.raises(RequestError, match="has ended already: its status is cancelled"):
        await resume_run(runtime, paused.id)


async def test_a_long_step_of_another_process_ends(run: Run, project: Project, tmp_path: Path) -> None:
    """A run in progress is cancelled through the database: its step is killed, and its process reports the cancellation."""
    gate = Gate(tmp_path)
    running = asyncio.ensure_future(run(python_step("long", gate.code), run_ids=("run", "trace")))
    await gate.wait_until_reached()
    async with open_journal(project) as journal:
        await cancel_run(journal, "run")
        ended = await running
        kept = await _get(journal, "run")

    assert (ended.status, kept.status) == ("cancelled", "cancelled")


async def test_a_run_that_is_cancelled_between_its_steps_is_reported_as_cancelled(
    run: Run, project: Project, tmp_path: Path
) -> None:
    """A run whose write is refused because of the cancellation has the record of the journal, not an internal error."""
    gate = Gate(tmp_path)
    running = asyncio.ensure_future(run(python_step("first", gate.code), python_step("next"), run_ids=("run", "trace")))
    await gate.wait_until_reached()
    async with open_journal(project) as journal:
        await cancel_run(journal, "run")
    gate.open()
    ended = await running

    assert ended.status == "cancelled"
    assert (
        ended.error is None or ended.error.name == "Cancelled"
    )  # the step may be in progress when the process notices it


async def test_a_run_of_a_terminal_is_resumed_by_the_caller(run: Run, runtime: WorkflowEngine) -> None:
    """The pause ends with the body as its data; the caller has claimed the run, and continues it."""
    paused = await run(WAITS, pause_mode="park")
    resumed = await resume_run(runtime, paused.id, {"ok": True})
    assert resumed.claimed is not None
    ended = await runtime.continue_run(resumed.claimed)

    assert (resumed.execution.status, ended.status) == ("executing", "success")
    assert ended.step("after").return_value == {"ok": True}
    with pytest.raises(RequestError, match="its status is success"):
        await resume_run(runtime, paused.id)


async def test_a_continued_run_has_its_decisions(run: Run, runtime: WorkflowEngine) -> None:
    """The record that a continued run shows while it goes on, and that of the journal, name who ended the pause."""
    paused = await run(WAITS, pause_mode="park")
    resumed = await resume_run(runtime, paused.id, decision=NewDecision("resumed", "terminal of ada"))
    assert resumed.claimed is not None
    ended = await runtime.continue_run(resumed.claimed)
    recorded = await _get(runtime.journal, paused.id)

    assert [[each.by for each in execution.decisions] for execution in (resumed.execution, ended, recorded)] == [
        ["terminal of ada"]
    ] * 3


async def test_a_run_whose_pause_is_over_is_continued(run: Run, runtime: WorkflowEngine) -> None:
    """A run that was resumed by its URL, and that no process has claimed, is claimed by the next resume."""
    paused = await run(WAITS, pause_mode="park")
    assert (await resume_run(runtime, paused.id)).claimed is not None
    found = await runtime.journal.load_run(paused.id)
    assert found is not None
    await runtime.journal.release(found[1].claim)

    with pytest.raises(RequestError, match="is not paused: it is resumed"):
        await resume_run(runtime, paused.id, {"body": "would be lost"})
    assert (await resume_run(runtime, paused.id)).claimed is not None


async def test_only_the_pause_that_is_meant_ends(run: Run, runtime: WorkflowEngine) -> None:
    """A pause that is not the current one of its run is not ended; the current one is."""
    paused = await run(WAITS, pause_mode="park")
    found = await runtime.journal.load_run(paused.id)
    assert found is not None
    key = found[1].open_waits[0].key(paused.id)

    with pytest.raises(RequestError, match=r"The pause of the run .* has ended already"):
        await resume_run(runtime, paused.id, pause=replace_struct(key, number=key.number + 1))
    assert (await _get(runtime.journal, paused.id)).status == "paused"
    assert (await resume_run(runtime, paused.id, pause=key)).claimed is not None


async def test_a_run_in_progress_is_not_resumed(run: Run, runtime: WorkflowEngine, tmp_path: Path) -> None:
    """A run that executes has no pause to end, and an unknown run is named."""
    gate = Gate(tmp_path)
    running = asyncio.ensure_future(run(python_step("first", gate.code), run_ids=("run", "trace")))
    await gate.wait_until_reached()
    with pytest.raises(RequestError, match="is not paused: it is executing"):
        await resume_run(runtime, "run")
    with pytest.raises(RequestError, match="There is no run 'nope'"):
        await resume_run(runtime, "nope")
    gate.open()
    await running


async def test_a_served_run_is_left_to_its_server(project: Project, directory: LocalDirectory, tmp_path: Path) -> None:
    """The pause of a served run ends, and its server continues it: now, or when the project is served again."""
    request = RunRequest(WAITS, an_event(), parse_policy("deny"), folder=tmp_path, pause_mode="park")
    async with await WorkflowEngine.start(project, directory, origin="serve") as server:
        first, second = await server.run(request), await server.run(request)
        async with await WorkflowEngine.start(project, directory) as terminal:
            with_server = await resume_run(terminal, first.id)
    async with await WorkflowEngine.start(project, directory) as terminal:
        without_server = await resume_run(terminal, second.id)
        with pytest.raises(RequestError, match="is not paused: it is resumed"):
            await resume_run(terminal, second.id)

    assert (with_server.claimed, without_server.claimed) == (None, None)
    assert (with_server.is_continued, without_server.is_continued) == (True, False)
    assert with_server.execution.status == without_server.execution.status == "resumed"
    assert "goes on in another process" in describe_resumed(with_server)
    assert "pdkernel serve SOURCE" in describe_resumed(without_server)


async def test_a_removed_run_leaves_nothing(run: Run, runtime: WorkflowEngine, project: Project) -> None:
    """A run is removed with its steps, pauses and messages, and with its definition if no other run has it."""
    workflow = a_workflow(python_step("send", "pd.send.emit({'a': 1})\npd.flow.suspend(1000)"), name="Gone")
    first, second = await run(workflow, pause_mode="park"), await run(workflow, pause_mode="park")
    await run(python_step(), event=None)

    assert await remove_runs(runtime.journal, [first.id]) == 1
    assert _count_rows(project, "definitions") == 2
    assert await remove_runs(runtime.journal, [second.id]) == 1
    assert {table: _count_rows(project, table) for table in ("runs", "definitions", "waits", "outbox")} == {
        "runs": 1, "definitions": 1, "waits": 0, "outbox": 0,
    }  # fmt: skip
    assert [each.workflow for each in await list_runs(project, ExecutionQuery())] == ["Test"]
    again = await run(workflow)
    assert (await get_run(project, again.id)).version == workflow.version


async def test_a_run_in_progress_is_not_removed(run: Run, runtime: WorkflowEngine, tmp_path: Path) -> None:
    """A removal of named runs is refused as a whole if one is executing or unknown; a selection leaves such runs out."""
    gate = Gate(tmp_path)
    ended = await run(python_step())
    running = asyncio.ensure_future(run(python_step("first", gate.code), run_ids=("run", "trace")))
    await gate.wait_until_reached()
    with pytest.raises(RequestError, match="The run run is executing"):
        await remove_runs(runtime.journal, [ended.id, "run"])
    with pytest.raises(RequestError, match="There is no run 'nope'"):
        await remove_runs(runtime.journal, [ended.id, "nope"])

    assert await runtime.journal.get_execution(ended.id) is not None
    assert await remove_runs(runtime.journal, [ended.id, "nope", "run"], keeps_executing=True) == 1
    gate.open()
    assert (await running).status == "success"


async def test_a_batch_of_a_removal_has_each_run_once(run: Run, runtime: WorkflowEngine) -> None:
    """Runs at both sides of the border of two batches are removed."""
    first, last, next_first = [(await run(python_step())).id for _ in range(3)]
    ids = [first, *(f"gone{number}" for number in range(REMOVAL_BATCH - 2)), last, next_first]

    assert await remove_runs(runtime.journal, ids, keeps_executing=True) == 3


async def test_others_write_between_the_batches_of_a_removal(runtime: WorkflowEngine) -> None:
    """A removal takes a part of the time: writes that follow one another are at least as many as its batches."""
    ids = [f"gone{number}" for number in range(10 * REMOVAL_BATCH)]
    removal = asyncio.create_task(remove_runs(runtime.journal, ids, keeps_executing=True))
    written = 0
    while not removal.done():
        await runtime.journal.announce()
        written += 1

    assert await removal == 0
    assert written >= 10


async def test_every_expired_run_is_removed(run: Run, runtime: WorkflowEngine, project: Project) -> None:
    """More expired runs than one search finds are removed by one call; a list without a limit has the newest fifty of them."""
    await run(python_step(), keep_in_journal=True)
    assert project.sqlite_path is not None
    with closing(sqlite3.connect(project.sqlite_path)) as connection, connection:
        names = [name for _, name, *_ in connection.execute("pragma table_info(runs)")]
        copied = ", ".join("id || number" if name == "id" else name for name in names)
        connection.execute("update runs set created = 1, ended = 1")
        connection.execute(
            "with recursive numbers(number) as (select 1 union all select number + 1 from numbers where number < 1000)"
            f" insert into runs ({', '.join(names)}) select {copied} from runs, numbers"
        )
    listed = await list_runs(project, build_query(ManualClock(NOW)))

    assert len(listed) == 50
    assert await remove_expired(runtime.journal) == 1001


@pytest.mark.parametrize(("settings", "kept_days"), [({}, 30), ({"retention": 3}, 3)])
async def test_runs_end_with_their_retention(
    project: Project, directory: LocalDirectory, tmp_path: Path, settings: dict[str, Any], kept_days: int
) -> None:
    """Ended runs are removed after the days of the newest run's setting; a paused run stays."""
    clock = ManualClock(NOW)
    old, new = a_workflow(python_step()), a_workflow(python_step(), **settings)
    async with await WorkflowEngine.start(project, directory, clock=clock) as engine:
        request = RunRequest(old, an_event(), parse_policy("deny"), folder=tmp_path)
        await engine.run(request)
        await engine.run(replace(request, workflow=replace(WAITS, name="Test"), pause_mode="park"))
        clock.advance(kept_days * 86400 - 60)
        last = await engine.run(replace(request, workflow=new))
        none_yet = await remove_expired(engine.journal)
        clock.advance(120)
        count = await remove_expired(engine.journal)
        left = await engine.journal.list_executions()

    assert (none_yet, count) == (0, 1)
    assert [each.status for each in left] == ["success", "paused"]
    assert left[0].id == last.id


async def test_runs_are_a_table_with_types(run: Run, project: Project) -> None:
    """The table has a row for each run, newest first, with times, seconds and the error's message."""
    await run(python_step(body="return 1"), external_user_id="ada")
    await run(python_step(body="raise ValueError('no')"))
    frame = build_runs_frame(await list_runs(project, ExecutionQuery()))

    assert list(frame.columns) == [
        "id", "workflow", "status", "external_user", "environment", "started", "finished", "seconds", "steps", "error",
    ]  # fmt: skip
    assert list(frame["status"]) == ["error", "success"]
    assert (frame["error"][0], list(frame["steps"])) == ("no", [1, 1])
    assert frame["external_user"].isna().tolist() == [True, False]
    assert {name: str(frame[name].dtype.kind) for name in ("started", "finished", "seconds", "steps")} == {
        "started": "M", "finished": "M", "seconds": "f", "steps": "i",
    }  # fmt: skip
    assert ((frame["finished"] - frame["started"]).dt.total_seconds() == frame["seconds"]).all()
    assert (frame["seconds"] > 0).all()
    assert list(build_runs_frame([]).columns) == list(frame.columns)
    assert str(build_runs_frame([])["started"].dtype.kind) == "M"


async def test_all_ids_of_a_query_are_found(run: Run, project: Project) -> None:
    """The ids of a query are not limited to a page."""
    made = [(await run(python_step(), keep_in_journal=True)).id for _ in range(3)]

    assert await find_run_ids(project, ExecutionQuery(limit=1)) == made[::-1]
    assert (await get_run(project)).id == made[-1]


async def _get(journal: Journal, run_id: str) -> Execution:
    found = await journal.get_execution(run_id)
    assert found is not None
    return found


def _count_rows(project: Project, table: str) -> int:
    assert project.sqlite_path is not None
    with closing(sqlite3.connect(project.sqlite_path)) as connection:
        count: int = connection.execute(f"select count(*) from {table}").fetchone()[0]
        return count


@pytest.mark.parametrize("text", ["1 " * 30_000, "2020-01-01 " * 6_000, "9" * 60_000])
def test_a_long_text_is_no_time(text: str) -> None:
    """A text that is too long for a time is refused without a search for dates, and is not repeated in full."""
    with pytest.raises(RequestError, match=r"\.\.\. is not a time") as refused:
        parse_moment(text, option="Since", clock=ManualClock(NOW))

    assert len(str(refused.value)) < 500

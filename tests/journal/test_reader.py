"""Executions read from the journal."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdkernel.common.clock import ManualClock, SequentialIds
from pdkernel.errors import ProjectError
from pdkernel.execution import (
    AccountUse,
    ErrorRecord,
    Execution,
    Log,
    OutboundCall,
    Response,
    RunPause,
    RunTrigger,
    StepResult,
)
from pdkernel.journal import (
    Claim,
    ExecutionQuery,
    FailedRun,
    Journal,
    NewRun,
    RecordedEvent,
    SqliteBackend,
    WaitKey,
    WaitRow,
    encode_event,
    encode_output,
    encode_step,
    open_reader,
)
from pdkernel.journal.text_columns import escape_json_text
from pdkernel.model import Workflow
from tests.journal.conftest import (
    DEFINITION,
    ONLY_SQLITE,
    WORKFLOW,
    Database,
    delivery,
    load,
    new_run,
    outbox_row,
    step_row,
    wait_row,
)

ONE = StepResult(
    name="one",
    status="success",
    started_at="2026-01-01T00:00:00.000Z",
    duration_ms=1.5,
    exports={"$return_value": {"a": [1, None]}},
    logs=(Log("stdout", "hi\n"),),
    accounts=(AccountUse("slack", "slack", "apn_1", "external_user"),),
    requests=(OutboundCall("POST", "https://slack.com/api", 200, 2.0, safe=False, outcome="sent"),),
)
FAULT = ErrorRecord("step_failed", "Error", "no", step="two", line=3, stack="at step two")
TWO = StepResult("two", "error", started_at="2026-01-01T00:00:00.002Z", duration_ms=2.0, error=FAULT)


async def ids(journal: Journal, **query: object) -> list[str]:
    """Ids of the executions that match."""
    return [execution.id for execution in await journal.list_executions(**query)]  # type: ignore[arg-type]


async def test_order_of_the_list_does_not_need_an_index(tmp_path: Path, clock: ManualClock) -> None:
    """The statement sorts by time and id, whatever order the rows have without the index of the list."""
    file = tmp_path / "journal.db"
    journal = Journal.open(SqliteBackend(file), clock=clock, ids=SequentialIds())
    try:
        await journal.store_definition(WORKFLOW)
        for run_id in "bca":
            await journal.accept_run(new_run(run_id))
        with closing(sqlite3.connect(file)) as connection, connection:
            connection.execute("drop index runs_list")

        assert await ids(journal) == ["c", "b", "a"]
    finally:
        await journal.close()


async def test_execution_is_what_was_written(journal: Journal, clock: ManualClock) -> None:
    """An execution read from the journal is complete: event, context, steps in order, response, error, times."""
    run = NewRun(
        "run",
        "trace",
        "Greet",
        DEFINITION,
        encode_event({"body": 1}, {"id": "x"}, replay_of="first"),
        external_user_id="ada",
        environment="production",
    )
    await journal.accept_run(run)
    await journal.append_step(Claim.first("run"), step_row(1, "two", encode_step(TWO)))
    await journal.append_step(Claim.first("run"), step_row(0, "one", encode_step(ONE)))
    clock.advance(1.25)
    await journal.finish(
        Claim.first("run"), "error", encode_output(response=Response(400, {"x": "y"}, "no"), error=FAULT)
    )

    execution = await journal.get_execution("run")
    assert execution is not None
    assert Execution.from_json(execution.to_json()) == execution
    assert execution == Execution(
        id="run",
        trace_id="trace",
        workflow="Greet",
        version=WORKFLOW.version,
        status="error",
        external_user="ada",
        environment="production",
        started_at="2026-01-01T00:00:00.000Z",
        finished_at="2026-01-01T00:00:01.250Z",
        attempt=1,
        replay_of="first",
        trigger=RunTrigger({"body": 1}, {"id": "x"}),
        steps=(ONE, TWO, StepResult("three", "disabled")),
        response=Response(400, {"x": "y"}, "no"),
        error=FAULT,
    )


@pytest.mark.parametrize("write", ["append", "finish", "park"])
async def test_sealed_event_is_replaced_by_a_write(journal: Journal, write: str) -> None:
    """An event that is not recorded yet is marked as sealed until a step, a pause or the end replaces it."""
    await journal.accept_run(NewRun("run", "trace", "Greet", DEFINITION, encode_event(None, {"id": "x"})))
    sealed = await journal.get_execution("run")
    event = encode_event({"body": "shown"}, {"id": "x"})

    if write == "append":
        await journal.append_step(Claim.first("run"), step_row(0, "one", encode_step(ONE)), event=event)
    elif write == "finish":
        await journal.finish(Claim.first("run"), "success", encode_output(), event=event)
    else:
        await journal.park(Claim.first("run"), wait_row(), event=event)
    shown = await journal.get_execution("run")

    assert sealed is not None
    assert shown is not None
    assert (sealed.trigger.sealed, sealed.event, sealed.context) == (True, {}, {"id": "x"})
    assert Execution.from_json(sealed.to_json()).trigger.sealed
    assert (shown.trigger.sealed, shown.event) == (False, {"body": "shown"})


async def test_write_without_an_event_keeps_the_sealed_event(journal: Journal) -> None:
    """A run that ends before its accounts are resolved still marks its event as sealed."""
    await journal.accept_run(NewRun("run", "trace", "Greet", DEFINITION, encode_event(None, {})))

    await journal.append_step(Claim.first("run"), step_row(0, "one", encode_step(ONE)))
    await journal.finish(Claim.first("run"), "success", encode_output())

    execution = await journal.get_execution("run")
    assert execution is not None
    assert execution.trigger.sealed


async def test_unfinished_run_is_readable(journal: Journal) -> None:
    """An unfinished run shows finished steps, and the others as not run."""
    await journal.accept_run(new_run())
    await journal.append_step(Claim.first("run"), step_row(0, "one", encode_step(ONE)))

    execution = await journal.get_execution("run")

    assert execution is not None
    assert (execution.status, execution.finished_at) == ("executing", None)
    assert [(step.name, step.status) for step in execution.steps] == [
        ("one", "success"),
        ("two", "not_run"),
        ("three", "disabled"),
    ]


async def test_steps_without_a_row_have_their_status(journal: Journal) -> None:
    """The end of a run stores the status of steps without a row."""
    await journal.accept_run(new_run())
    await journal.append_step(Claim.first("run"), step_row(0, "one", encode_step(ONE)))
    await journal.finish(Claim.first("run"), "exited", encode_output(steps={"two": "skipped"}))

    execution = await journal.get_execution("run")

    assert execution is not None
    assert [step.status for step in execution.steps] == ["success", "skipped", "disabled"]


async def test_step_outside_of_the_definition_is_shown(journal: Journal) -> None:
    """A row of a step that the definition does not have is shown after the others."""
    await journal.accept_run(new_run(definition="unknown"))
    await journal.append_step(Claim.first("run"), step_row(0, "one", encode_step(ONE)))

    execution = await journal.get_execution("run")

    assert execution is not None
    assert (execution.version, execution.steps) == ("", (ONE,))


async def test_newest_first(journal: Journal, clock: ManualClock) -> None:
    """Executions are sorted newest first, those of one instant by id, across workflows."""
    await journal.store_definition(type(WORKFLOW)("Other"))
    for run_id, workflow, wait in (("a", "Greet", 1), ("c", "Other", 0), ("b", "Greet", 0), ("d", "Greet", 1)):
        clock.advance(wait)
        await journal.accept_run(new_run(run_id, workflow=workflow))

    assert await ids(journal) == ["d", "c", "b", "a"]
    assert await ids(journal, limit=3) == ["d", "c", "b"]
    assert await ids(journal, limit=-1) == ["d", "c", "b", "a"]
    assert await ids(journal, workflow="Greet") == ["d", "b", "a"]
    assert await ids(journal, workflow="None") == []


async def test_pages_continue_by_key(journal: Journal, clock: ManualClock) -> None:
    """The next page begins below the last execution of the previous page, even if new runs were added."""
    for number in range(5):
        await journal.accept_run(new_run(f"run{number}"))
        clock.advance(number % 2)
    first = await ids(journal, limit=2)
    await journal.accept_run(new_run("run9"))

    second = await ids(journal, limit=2, before=first[-1])
    third = await ids(journal, limit=2, before=second[-1])

    assert [*first, *second, *third] == ["run4", "run3", "run2", "run1", "run0"]
    assert await ids(journal, before="unknown") == []


async def test_events_are_visited_in_pages(journal: Journal, clock: ManualClock, database: Database) -> None:
    """Each matching run's event is visited once, up to the limit; a sealed or damaged event is visited without its data."""
    for number in range(450):
        sealed = {"event": encode_event(None, {})} if number == 0 else {"event": "{"} if number == 1 else {}
        await journal.accept_run(new_run(f"run{number:03}", external_user_id="ada" if number % 2 else None, **sealed))
        clock.advance(number % 3)
    seen: list[RecordedEvent] = []
    some: list[RecordedEvent] = []

    with closing(open_reader(database.backend())) as reader:
        await reader.visit_events(ExecutionQuery(limit=1000), seen.append)
        await reader.visit_events(ExecutionQuery(limit=30, external_user_id="ada"), some.append)

    names = [str(each.event["body"]) for each in seen if each.event is not None]
    assert sorted(names) == sorted(str({"name": f"run{number:03}"}) for number in range(2, 450))
    assert len(seen) == 450
    assert ({each.workflow for each in seen}, {each.external_user_id for each in seen}) == (
        {WORKFLOW.name},
        {"ada", None},
    )
    assert (len(some), {each.external_user_id for each in some}) == (30, {"ada"})


async def test_filters(journal: Journal, clock: ManualClock) -> None:
    """Executions are filtered by user, environment, status and start time."""
    start = clock.now()
    await journal.accept_run(new_run("a", external_user_id="ada"))
    clock.advance(10)
    await journal.accept_run(new_run("b", external_user_id="ada", environment="production"))
    clock.advance(10)
    await journal.accept_run(new_run("c", external_user_id="grace"))
    await journal.finish(Claim.first("a"), "success", encode_output())

    assert await ids(journal, external_user_id="ada") == ["b", "a"]
    assert await ids(journal, environment="production") == ["b"]
    assert await ids(journal, status="success") == ["a"]
    assert await ids(journal, since=start + timedelta(seconds=10)) == ["c", "b"]
    assert await ids(journal, until=start + timedelta(seconds=10)) == ["a"]
    assert await ids(journal, external_user_id="ada", status="executing", limit=1) == ["b"]


async def test_every_status_is_found_by_its_name(journal: Journal) -> None:
    """Every status of an execution is found by a query for that status, with and without the workflow."""
    await journal.store_definition(WORKFLOW)
    await journal.accept_run(new_run("queued", queue="q"))
    for run_id in ("executing", "paused", "resumed", "cancelled", "exited"):
        await journal.accept_run(new_run(run_id))
    await journal.park(Claim.first("paused"), wait_row())
    await journal.park(Claim.first("resumed"), wait_row())
    await journal.resolve_wait(WaitKey("resumed", "one"), "resumed")
    await journal.cancel("cancelled")
    await journal.finish(Claim.first("exited"), "exited", encode_output())

    for execution in await journal.list_executions():
        assert execution.id == execution.status
        assert await ids(journal, status=execution.status) == [execution.id]
        assert await ids(journal, status=execution.status, workflow="Greet") == [execution.id]
        assert await ids(journal, status=execution.status, workflow="Other") == []


# ── pauses and messages ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_paused_step_has_its_place(journal: Journal) -> None:
    """The step of a pause is shown at its position among the recorded steps of a run without a definition."""
    await journal.accept_run(new_run(definition="unknown"))
    await journal.append_step(Claim.first("run"), step_row(0, "zero", encode_step(StepResult("zero", "success"))))
    await journal.append_step(Claim.first("run"), step_row(2, "two", encode_step(TWO)))
    await journal.park(Claim.first("run"), wait_row(1))

    assert [step.name for step in (await load(journal)).steps] == ["zero", "one", "two"]


async def test_the_pause_that_has_not_ended_is_shown(journal: Journal) -> None:
    """A run that pauses in a second step shows that step, and not the pause that has ended."""
    await journal.accept_run(new_run())
    await journal.park(Claim.first("run"), wait_row(0, wake_at=0.0))
    await journal.wake_due()
    claimed = await journal.claim("run")
    assert claimed is not None
    second = WaitRow(1, "two", kind="suspend", wake_at=9e9, data=encode_step(TWO))
    await journal.park(claimed.claim, second)

    assert (await load(journal)).pause == RunPause("two", "suspend", "2255-03-14T16:00:00.000Z")


async def test_early_call_is_not_shown(journal: Journal) -> None:
    """A call that resumed a step before its pause is not a result of the step."""
    await journal.accept_run(new_run())
    await journal.resolve_wait(WaitKey("run", "one"), "resumed", b"payload")

    assert (await load(journal)).step("one") == StepResult("one", "not_run")


async def test_messages_are_shown_in_their_order(journal: Journal) -> None:
    """The deliveries of the outbox are shown in the order of the messages."""
    await journal.accept_run(new_run())
    await journal.finish(
        Claim.first("run"), "success", encode_output(), outbox=[outbox_row(1), outbox_row(0), outbox_row(2, path="two")]
    )
    await journal.record_delivery("run", outbox_row(0), delivery(0, "sent"))

    assert [(send.step, send.outcome, send.to) for send in (await load(journal)).sends] == [
        ("one", "waiting", "1"),
        ("one", "sent", "0"),
        ("two", "waiting", "2"),
    ]


async def test_listed_run_is_the_run(journal: Journal) -> None:
    """A list has each run with its pause and messages, like the run's own record."""
    for run_id in ("a", "b"):
        await journal.accept_run(new_run(run_id))
        await journal.park(Claim.first(run_id), wait_row(), outbox=[outbox_row()])

    assert await journal.list_executions() == [await load(journal, "b"), await load(journal, "a")]


# ── deleted and damaged rows ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("damage", "column"),
    [
        ("update runs set event = '{'", "event"),
        ("update runs set output = '[]'", "output"),
        ("update definitions set content = '{}'", "definition"),
        ("update waits set data = 'null'", "steps"),
        ("update steps set data = 'null'", "steps"),
        ("update outbox set shown = '{\"step\":1}'", "outbox"),
    ],
)
async def test_damaged_row_names_its_run(
    journal: Journal, execute: Callable[[str], None], damage: str, column: str
) -> None:
    """A text that cannot be read is an error that names the run and the column; other runs are read."""
    await journal.accept_run(new_run("whole", definition="unknown"))
    await journal.accept_run(new_run())
    await journal.append_step(Claim.first("run"), step_row(1, "two", encode_step(TWO)))
    await journal.park(Claim.first("run"), wait_row(), outbox=[outbox_row()])

    execute(damage if "runs" not in damage else f"{damage} where id = 'run'")

    with pytest.raises(ProjectError, match=f"The record of the run run is damaged: its {column} cannot be read"):
        await journal.get_execution("run")
    assert (await load(journal, "whole")).status == "executing"


async def test_damaged_run_can_be_cancelled(journal: Journal, execute: Callable[[str], None]) -> None:
    """A run whose rows are damaged can still be claimed and ended, so it does not block other runs."""
    await journal.accept_run(new_run())
    await journal.park(Claim.first("run"), wait_row(wake_at=0.0))
    execute("update waits set data = 'null', carry = 'text'")

    assert await journal.wake_due() == 1
    run = await journal.claim("run")

    assert run is not None
    assert [wait.data for wait in run.waits] == ["null"]
    assert await journal.cancel("run")


async def test_deleted_definition_leaves_the_run_readable(journal: Journal, execute: Callable[[str], None]) -> None:
    """Without its definition a run shows its recorded steps and no version, and is claimed without a definition."""
    await journal.accept_run(new_run())
    await journal.append_step(Claim.first("run"), step_row(0, "one", encode_step(ONE)))
    await journal.release(Claim.first("run"))
    execute("delete from definitions")

    execution = await load(journal)
    run = await journal.claim("run")

    assert (execution.version, execution.steps) == ("", (ONE,))
    assert run is not None
    assert run.definition == ""


async def test_deleted_wait_leaves_the_run_paused(journal: Journal, execute: Callable[[str], None]) -> None:
    """Without its wait a run is not continued by chance: calls are late, timers pass, and the run can be cancelled."""
    await journal.accept_run(new_run())
    await journal.park(Claim.first("run"), wait_row(wake_at=0.0))
    execute("delete from waits")

    assert await journal.resolve_wait(WaitKey("run", "one"), "resumed") == "late"
    assert await journal.wake_due() == 0
    assert (await load(journal)).status == "paused"
    assert await journal.cancel("run")


async def test_deleted_run_refuses_its_writes(journal: Journal, execute: Callable[[str], None]) -> None:
    """The owner of a deleted run is refused, like one whose run was cancelled."""
    await journal.accept_run(new_run())
    execute("delete from runs")

    assert not await journal.append_step(Claim.first("run"), step_row(0, "one"))
    assert not await journal.finish(Claim.first("run"), "success", encode_output())
    assert await journal.get_execution("run") is None


@given(st.recursive(st.text(st.characters(exclude_categories=())), lambda inner: st.lists(inner, max_size=3)))
def test_any_json_text_can_be_stored(value: object) -> None:
    """Escaped JSON text encodes as UTF-8, has no NUL and has the same meaning."""
    import json

    raw = json.dumps(value, ensure_ascii=False)

    safe = escape_json_text(raw)

    assert "\0" not in safe
    assert json.loads(safe.encode().decode()) == value


async def test_a_summary_is_a_line_of_the_execution(journal: Journal, clock: ManualClock, database: Database) -> None:
    """A summary has the fields of the execution that a list shows, for the runs and in the order of the query."""
    for run_id in "abc":
        await journal.accept_run(new_run(run_id, external_user_id=run_id, workflow=WORKFLOW.name))
        clock.advance(1.5)
    await journal.finish(Claim.first("a"), "error", encode_output(response=Response(400, {}, "x"), error=FAULT))
    await journal.finish(Claim.first("b"), "success", encode_output())
    executions = await journal.list_executions()
    with closing(open_reader(database.backend())) as reader:
        summaries = await reader.summaries(ExecutionQuery())
        page = await reader.summaries(ExecutionQuery(limit=1, before_id="c"))
        chosen = await reader.summaries_of(["a", "none"])

    names = (
        "id",
        "workflow",
        "external_user",
        "environment",
        "status",
        "attempt",
        "started_at",
        "finished_at",
        "error",
    )
    assert [[getattr(each, name) for name in names] for each in summaries] == [
        [getattr(each, name) for name in names] for each in executions
    ]
    assert [each.duration_ms for each in summaries] == [each.duration_ms for each in executions] == [None, 3000, 4500]
    assert ([each.id for each in page], [each.id for each in chosen]) == (["b"], ["a"])


async def test_children_are_those_of_one_step(journal: Journal) -> None:
    """Runs that the runs below have triggered, and those of other steps and other numbers, are left out."""
    for parent, number in [("a", 1), ("a", 2), ("a:s:1.1:1", 1), ("a", 10)]:
        await journal.accept_run(new_run(f"{parent}:s:1.1:{number}", parent=parent))
    await journal.accept_run(new_run("a:s:1.11:1", parent="a"))
    await journal.accept_run(new_run("a:t:1.1:1", parent="a"))

    children = await journal.find_children("a", "a:s:1.1:")

    assert {each.claim.run_id for each in children} == {"a:s:1.1:1", "a:s:1.1:2", "a:s:1.1:10"}


async def test_runs_are_counted_by_hour(journal: Journal, clock: ManualClock, database: Database) -> None:
    """Runs and failures are counted in the hours before a moment; older runs and other workflows are not."""
    for number, (workflow, failed) in enumerate([("A", True), ("A", True), ("A", False), ("B", False), ("A", False)]):
        await journal.store_definition(Workflow(workflow))
        await journal.accept_run(new_run(f"run{number}", workflow=workflow))
        await journal.finish(Claim.first(f"run{number}"), "error" if failed else "success", encode_output())
        clock.advance(3600)
    with closing(open_reader(database.backend())) as reader:
        counts = await reader.count_by_hour(["A", "none"], clock.now(), 4)
        await journal.accept_run(new_run("of this moment", workflow="A"))
        now = await reader.count_by_hour(["A"], clock.now(), 4)

    assert counts == {"A": [(1, 1), (1, 0), (0, 0), (1, 0)], "none": [(0, 0)] * 4}
    assert now == {"A": [(1, 1), (1, 0), (0, 0), (2, 0)]}


async def test_runs_of_a_name_that_cannot_be_stored_are_counted(journal: Journal, database: Database) -> None:
    """A workflow whose name has NUL or a lone surrogate is counted by the name with which it was accepted."""
    name = "a\ud800\0"
    await journal.accept_run(new_run(workflow=name))
    with closing(open_reader(database.backend())) as reader:
        counts = await reader.count_by_hour([name], journal.clock.now(), 1)

    assert counts == {name: [(1, 0)]}


@ONLY_SQLITE
async def test_the_version_changes_with_the_file(journal: Journal, database: Database) -> None:
    """The version stays the same between reads, and changes after a write of another connection."""
    with closing(open_reader(database.backend())) as reader:
        before = [await reader.version(), await reader.version()]
        await reader.executions(ExecutionQuery())
        before.append(await reader.version())
        await journal.accept_run(new_run())
        after = await reader.version()

    assert len({*before}) == 1
    assert after not in before


async def test_when_users_last_had_a_run(journal: Journal, clock: ManualClock) -> None:
    """The newest run of each external user of the environment counts, whatever its workflow is; runs without a user do not."""
    other = Workflow("Other")
    key = await journal.store_definition(other)
    start = clock.now().timestamp()
    for number, fields in enumerate(
        [
            {"external_user_id": "ada"},
            {"external_user_id": "bob", "workflow": "Other", "definition": key},
            {"external_user_id": "ada", "workflow": "Other", "definition": key},
            {"external_user_id": "bob", "environment": "production"},
            {},
        ]
    ):
        await journal.accept_run(new_run(f"run-{number}", created=start + number, **fields))
    await journal.store_definition(WORKFLOW)

    with closing(open_reader(journal._backend)) as reader:
        found = await reader.last_runs("development")

    assert found == {"ada": start + 2, "bob": start + 1}


async def test_the_newest_failure_of_each_user(journal: Journal, clock: ManualClock) -> None:
    """Only runs of the named users and the environment count that ended with an error and did not start too early."""
    start = clock.now()
    for number, (user, status) in enumerate(
        [("ada", "error"), ("ada", "error"), ("ada", "success"), ("bob", "success"), ("eve", "error")]
    ):
        moment = (start + timedelta(seconds=number)).timestamp()
        await journal.accept_run(new_run(f"run-{number}", external_user_id=user, created=moment))
        await journal.finish(Claim.first(f"run-{number}"), status, encode_output())  # type: ignore[arg-type]

    with closing(open_reader(journal._backend)) as reader:
        users = ["ada", "bob", "a\0b"]
        found = await reader.newest_failures(users, "development", start)
        later = await reader.newest_failures(users, "development", start + timedelta(seconds=2))
        elsewhere = await reader.newest_failures(users, "production", start)

    assert found == {"ada": FailedRun("run-1", "Greet", start + timedelta(seconds=1))}
    assert (later, elsewhere) == ({}, {})


async def start(journal: Journal, run_id: str, queue: str, parent: str | None = None) -> None:
    """Record a run of the workflow *queue* that waits."""
    assert await journal.accept_run(new_run(run_id, queue=queue, workflow=queue, parent=parent))


async def limit(journal: Journal, *queues: str, concurrency: int = 1) -> None:
    """Limit the concurrency of the queues."""
    for queue in queues:
        await journal.set_queue_limits(queue, concurrency=concurrency)


async def test_two_runs_that_start_each_others_workflow(journal: Journal) -> None:
    """Of the two child runs, the later one has the circle; without it, the other is not in one."""
    await limit(journal, "a", "b")
    for run_id in ("a1", "b1"):
        await start(journal, run_id, run_id[0])
        assert await journal.claim(run_id) is not None
    await start(journal, "b2", "b", parent="a1")
    before = await journal.find_circle("b2")
    await start(journal, "a2", "a", parent="b1")
    found = [await journal.find_circle(run_id) for run_id in ("b2", "a2")]
    await journal.cancel("a2")

    assert before == ()
    assert found == [(), ["a", "b"]]
    assert await journal.find_circle("b2") == ()


@pytest.mark.parametrize("free", ["turn", "holder"])
async def test_a_wait_that_ends_is_not_a_circle(journal: Journal, free: str) -> None:
    """Runs do not wait for each other if a turn is free, or if one of those that hold the turns waits for nothing."""
    await limit(journal, "a")
    await limit(journal, "b", concurrency=2)
    for run_id in ("a1", "b1", *(["b9"] if free == "holder" else [])):
        await start(journal, run_id, run_id[0])
        assert await journal.claim(run_id) is not None
    await start(journal, "b2", "b", parent="a1")
    await start(journal, "a2", "a", parent="b1")

    assert [await journal.find_circle(run_id) for run_id in ("a2", "b2")] == [(), ()]


async def test_a_circle_over_a_workflow_without_limits(journal: Journal) -> None:
    """A child run in progress that has started the waiting one is part of the circle; a run behind the circle is not."""
    await limit(journal, "a", "b")
    for run_id in ("a1", "b1", "c1"):
        await start(journal, run_id, run_id[0])
        assert await journal.claim(run_id) is not None
    await journal.accept_run(new_run("x1", workflow="x", parent="a1"))
    await start(journal, "b2", "b", parent="x1")
    await start(journal, "a2", "a", parent="b1")
    await start(journal, "a3", "a", parent="c1")

    assert await journal.find_circle("a2") == ["a", "x", "b"]
    assert await journal.find_circle("a3") == ()
    assert await journal.find_circle("b2") == ()


async def test_a_run_of_an_inner_queue_holds_the_turn_of_the_outer_one(journal: Journal) -> None:
    """A child run that waits for the workflow of its parent's batch is a circle, too."""
    await limit(journal, "a", "b")
    await journal.set_queue_limits("a/each", concurrency=5, within="a")
    assert await journal.accept_run(new_run("a1", queue="a/each", workflow="a"))
    assert await journal.claim("a1") is not None
    await start(journal, "b1", "b", parent="a1")
    assert await journal.claim("b1") is not None
    await start(journal, "a2", "a", parent="b1")

    assert await journal.find_circle("a2") == ["a", "b"]

"""Runs of workflows with blocks: decisions, order, scope, exports, and what a continued run and a fork keep."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from pdkernel.engine.run_request import TestOptions
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.errors import RequestError
from pdkernel.execution import BlockChoice, Execution, StepResult
from pdkernel.files.notebook import read_notebook
from pdkernel.model import JSON, Block, Branch, Step, Workflow
from pdkernel.operations.run_history import end_pause
from pdkernel.operations.run_replay import prepare_fork, start_replay
from pdkernel.operations.runs import select_steps
from tests.branch_workflows import WORKFLOWS
from tests.builders import a_block, a_workflow, an_event, node_step, python_step
from tests.engine.conftest import Run, SharedEngine, error_of, run_in
from tests.notebook_files import notebook_of
from tests.random_blocks import Model, runs


def ran(execution: Execution) -> list[str]:
    """The steps that ran, without blocks, in the order of their cells."""
    return [step.name for step in execution.steps if step.status == "success" and choice(step) is None]


def choice(step: StepResult) -> BlockChoice | None:
    """What a block has decided; None for a step."""
    return step.choice if isinstance(step.choice, BlockChoice) else None


def taken(execution: Execution, block: str) -> tuple[str, ...]:
    """The branches of *block* that ran."""
    found = choice(execution.step(block))
    assert found is not None
    return found.taken


def say(name: str, inside: str | None = None, *, value: str | None = None) -> Step:
    """A step that returns its name, or the Python expression *value*."""
    return python_step(name, f"return {value or repr(name)}", options=f"--in {inside}" if inside else "")


TRIAGE = a_block("%%pdif triage\nhigh: steps.trigger.event.body.n >= 10\nlow: steps.trigger.event.body.n >= 1\nelse:")
BRANCHES = a_workflow(
    say("first"),
    TRIAGE,
    say("one", "triage.high"),
    say("two", "triage.high", value="{'two': pd.steps['one']['$return_value']}"),
    say("three", "triage.low"),
    say("last", value="pd.steps['triage']['$return_value']"),
)


@pytest.mark.parametrize(
    ("number", "branch", "steps", "value"),
    [
        (12, "high", ["first", "one", "two", "last"], {"$return_value": {"two": "one"}}),
        (10, "high", ["first", "one", "two", "last"], {"$return_value": {"two": "one"}}),
        (9, "low", ["first", "three", "last"], {"$return_value": "three"}),
        (0, "else", ["first", "last"], None),
    ],
)
async def test_if_runs_the_first_branch_that_holds(
    shared_run: Run, number: int, branch: str, steps: list[str], value: JSON
) -> None:
    """The steps of one branch run; the block has the exports of its last step, and null for an empty branch."""
    execution = await shared_run(BRANCHES, event=an_event({"n": number}))

    assert execution.status == "success", execution.error
    assert ran(execution) == steps
    assert taken(execution, "triage") == (branch,)
    assert execution.step("triage").exports == {"$return_value": value}
    assert execution.step("last").return_value == value


async def test_no_branch_holds(shared_run: Run) -> None:
    """Without else, a block of which no condition holds has null, and the run goes on."""
    block = a_block("%%pdif triage\nhigh: steps.trigger.event.body.n >= 10")

    execution = await shared_run(a_workflow(block, say("one", "triage.high"), say("last")), event=an_event({"n": 1}))

    assert ran(execution) == ["last"]
    assert taken(execution, "triage") == ()
    assert execution.step("triage").exports == {"$return_value": None}


async def test_results_have_their_place(shared_run: Run) -> None:
    """A step has its path, its block and its branch, also one that did not run; the JSON of a step outside has no such keys."""
    execution = await shared_run(BRANCHES, event=an_event({"n": 1}))

    shown = {step.name: (step.path, step.block, step.branch, step.status) for step in execution.steps if step.block}
    assert shown["two"] == ("triage.high.two", "triage", "high", "skipped")
    assert shown["three"] == ("triage.low.three", "triage", "low", "success")
    assert execution.step("first").path == "first"
    assert {"block", "branch", "choice"}.isdisjoint(execution.step("first").to_json())


async def test_decision_has_its_operands(shared_run: Run) -> None:
    """The record has each evaluated condition up to the branch that runs, with the values that it has read."""
    execution = await shared_run(BRANCHES, event=an_event({"n": 3}))

    found = choice(execution.step("triage"))
    assert found is not None
    path = "steps.trigger.event.body.n"
    assert found.conditions == (
        {"branch": "high", "holds": False, "result": False, "source": f"{path} >= 10", "reads": {path: 3}},
        {"branch": "low", "holds": True, "result": True, "source": f"{path} >= 1", "reads": {path: 3}},
    )


async def test_operands_have_no_secrets(shared_run: Run) -> None:
    """A variable that a condition compares is redacted in the record, and decides by its value."""
    block = a_block("%%pdif triage\nyes: {a: {{process.env.TOKEN}}, op: str^, b: hunter}")

    execution = await shared_run(a_workflow(block, say("one", "triage.yes")), variables={"TOKEN": "hunter2-hunter2"})

    assert ran(execution) == ["one"]
    assert "hunter2-hunter2" not in str(execution.to_json())


async def test_switch_compares_its_value(shared_run: Run) -> None:
    """The case that equals the expression runs; rules without first operand compare the expression."""
    block = a_block(
        "%%pdswitch route\nexpression: steps.trigger.event.body.kind\nbug: bug\nbig: {t: and, r: [{op: num>, b: 5}]}\ndefault:"
    )
    steps = [say(name, f"route.{name}") for name in ("bug", "big", "default")]
    workflow = a_workflow(block, *(replace(step, name=f"at_{step.name}") for step in steps))

    found = {kind: ran(await shared_run(workflow, event=an_event({"kind": kind}))) for kind in ("bug", 7, 2)}

    assert found == {"bug": ["at_bug"], 7: ["at_big"], 2: ["at_default"]}


async def test_parallel_has_a_key_for_each_branch_that_ran(shared_run: Run) -> None:
    """All branches run whose condition holds, and the block has the exports of the last step of each; an empty one has null."""
    block = a_block(
        "%%pdparallel tell\na: always\nb: steps.trigger.event.body.b\nc: steps.trigger.event.body.c\nd: never\ne: always"
    )
    workflow = a_workflow(block, *(say(f"at_{branch}", f"tell.{branch}") for branch in "abcd"), say("last"))

    execution = await shared_run(workflow, event=an_event({"b": True, "c": False}))

    assert ran(execution) == ["at_a", "at_b", "last"]
    exports = execution.step("tell").return_value
    assert exports == {"a": {"$return_value": "at_a"}, "b": {"$return_value": "at_b"}, "e": None}


@pytest.mark.parametrize(
    ("name", "body", "steps", "answer"),
    [
        ("orders", {"id": 1, "amount": 6000}, ["check", "ask", "to_sales", "to_finance", "answer"], None),
        ("orders", {"id": 1, "amount": 5, "country": "FR"}, ["check", "declare", "answer"], None),
        ("orders", {"id": 1, "amount": 5, "country": "DE"}, ["check", "answer"], None),
        (
            "support",
            {"text": "a bug: crash"},
            ["classify", "reproduce", "page", "report"],
            {"$return_value": {"$return_value": "paged"}},
        ),
        ("support", {"text": "a bug"}, ["classify", "reproduce", "report"], {"$return_value": None}),
        ("support", {"text": "hello"}, ["classify", "report"], None),
    ],
)
async def test_written_workflows(
    shared_run: Run, tmp_path: Path, name: str, body: JSON, steps: list[str], answer: JSON
) -> None:
    """Workflows as a person writes them run the steps that their conditions name."""
    execution = await shared_run(
        read_notebook(notebook_of(tmp_path / "w.ipynb", *WORKFLOWS[name])), event=an_event(body)
    )

    assert execution.status == "success", execution.error
    assert ran(execution) == steps
    if name == "support":
        report = execution.step("report").return_value
        assert isinstance(report, dict)
        assert report["done"] == answer


async def test_a_step_sees_no_sibling(shared_run: Run) -> None:
    """In every language, `steps` has earlier steps of the own branch and of those around it, and blocks above; no step in them."""
    block = a_block("%%pdparallel both\na: always\nb: always")
    inner = a_block("%%pdif deep --in both.b\nyes: 'true'")
    names = "sorted(pd.steps)"
    workflow = a_workflow(
        say("top"),
        block,
        say("in_a", "both.a"),
        inner,
        say("in_deep", "deep.yes", value=names),
        replace(node_step("node_b", "return Object.keys(steps).sort()"), inside="both.b"),
        say("last", value=names),
    )

    execution = await shared_run(workflow)

    assert execution.step("in_deep").return_value == ["top", "trigger"]
    assert execution.step("node_b").return_value == ["deep", "top", "trigger"]
    assert execution.step("last").return_value == ["both", "top", "trigger"]


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("steps.trigger.event.body.a.b.c > 1", "TypeError: Cannot read properties of undefined (reading 'b')"),
        ("{a: {{nothing.at.all}}, op: exists}", "ReferenceError: nothing is not defined"),
    ],
)
async def test_condition_that_throws(shared_run: Run, condition: str, message: str) -> None:
    """The block fails with the condition, the error and its line; no branch and no step below runs."""
    block = a_block(f"%%pdif triage\nyes: {condition}")

    execution = await shared_run(a_workflow(block, say("one", "triage.yes"), say("last")))

    error = error_of(execution, "triage")
    assert execution.status == "error"
    assert error.message.startswith("The condition of yes cannot be evaluated: ")
    assert message in error.message
    assert (error.step, error.line) == ("triage", 2)
    assert ran(execution) == []
    assert execution.error == error


@pytest.mark.parametrize(("body", "status"), [("pd.flow.exit('done')", "exited"), ("raise ValueError('x')", "error")])
async def test_end_in_a_branch_ends_the_run(shared_run: Run, body: str, status: str) -> None:
    """After an exit or a failure in a branch nothing starts, and a block that has not ended has no exports."""
    workflow = a_workflow(
        a_block("%%pdif triage\nyes: 'true'"),
        replace(python_step("ends", body), inside="triage.yes"),
        say("more", "triage.yes"),
        say("last"),
    )

    execution = await shared_run(workflow)

    assert execution.status == status
    assert [execution.step(name).status for name in ("more", "last")] == ["skipped", "skipped"]
    assert execution.step("triage").exports == {}


async def test_disabled_step_in_a_branch(shared_run: Run) -> None:
    """A block has the exports of the last step that ran, not of a disabled one below it."""
    workflow = a_workflow(
        a_block("%%pdif triage\nyes: 'true'"),
        say("one", "triage.yes"),
        replace(say("off", "triage.yes"), disabled=True),
    )

    execution = await shared_run(workflow)

    assert execution.step("triage").return_value == {"$return_value": "one"}


async def test_pinned_block(shared_run: Run) -> None:
    """A pinned block decides nothing, its steps do not run, and steps below read the pin."""
    pins = {"triage": {"$return_value": "pinned"}}

    execution = await shared_run(BRANCHES, options=TestOptions(pinned_exports=pins), event=an_event({"n": 50}))

    assert ran(execution) == ["first", "last"]
    assert execution.step("triage").status == "pinned"
    assert execution.step("last").return_value == "pinned"


async def test_one_step_of_a_branch_runs_alone(shared_run: Run) -> None:
    """A step that is chosen runs, whatever the block would decide, with the earlier exports of the steps that it sees."""
    options = TestOptions(
        only_steps=select_steps(BRANCHES, step="two"), previous_exports={"one": {"$return_value": "earlier"}}
    )

    execution = await shared_run(BRANCHES, options=options, event=an_event({"n": 0}))

    assert ran(execution) == ["two"]
    assert execution.step("two").return_value == {"two": "earlier"}


@pytest.mark.parametrize(
    ("chosen", "steps"),
    [
        ({"first": "triage"}, ["one", "two", "last"]),
        ({"first": "two"}, ["two", "last"]),
        ({"last": "one"}, ["first", "one"]),
        ({"step": "triage"}, ["one", "two"]),
    ],
)
async def test_a_part_of_the_workflow(shared_run: Run, chosen: dict[str, str], steps: list[str]) -> None:
    """From a step of a branch, the other branches do not run; a block that is chosen decides."""
    before = (await shared_run(BRANCHES, event=an_event({"n": 12}))).steps
    previous = {step.name: step.exports for step in before if step.exports}
    options = TestOptions(only_steps=select_steps(BRANCHES, **chosen), previous_exports=previous)

    execution = await shared_run(BRANCHES, options=options, event=an_event({"n": 12}))

    assert execution.status == "success", execution.error
    assert ran(execution) == steps
    if "last" in steps:
        assert execution.step("last").return_value == {"$return_value": {"two": "one"}}


async def test_part_of_a_parallel_block_keeps_the_other_branches(shared_run: Run) -> None:
    """A step below a parallel block reads the new exports of the branch that ran and the earlier ones of the others."""
    block = a_block("%%pdparallel both\na: always\nb: always")
    last = say("last", value="pd.steps['both']['$return_value']")
    workflow = a_workflow(block, say("in_a", "both.a"), say("in_b", "both.b"), last)
    previous = {"both": {"$return_value": {"a": {"$return_value": "earlier"}, "b": {"$return_value": "earlier"}}}}
    options = TestOptions(only_steps=frozenset({"in_b", "last"}), previous_exports=previous)

    execution = await shared_run(workflow, options=options)

    assert execution.step("last").return_value == {"a": {"$return_value": "earlier"}, "b": {"$return_value": "in_b"}}


async def test_unreadable_block_fails_alone(shared_run: Run) -> None:
    """A block whose cell cannot be read fails with its steps and with what reads it; other steps run."""
    broken = replace(TRIAGE, problem=("No condition is written.", 2), branches=())
    workflow = replace(BRANCHES, blocks=(replace(broken, place=1),), steps=(*BRANCHES.steps, say("free")))

    execution = await shared_run(workflow)

    assert execution.status == "error"
    assert ran(execution) == ["first", "free"]
    assert error_of(execution, "triage").message == "No condition is written."
    assert "triage" in error_of(execution, "last").message


async def test_unreadable_step_in_a_branch_that_is_not_taken(shared_run: Run) -> None:
    """A run whose branches do not reach an unreadable step has no error."""
    steps = (replace(step, problem=("Bad option.", 1)) if step.name == "one" else step for step in BRANCHES.steps[:-1])

    execution = await shared_run(replace(BRANCHES, steps=(*steps,)), event=an_event({"n": 1}))

    assert (execution.status, ran(execution)) == ("success", ["first", "three"])


async def test_continued_run_keeps_the_decision(runtime: WorkflowEngine, run: Run) -> None:
    """A run that pauses in a branch, and goes on, runs the branches that were chosen before, although they were chosen at random."""
    names = [f"b{number}" for number in range(8)]
    block = a_block("%%pdparallel dice\nfirst: always\n" + "\n".join(f"{name}: Math.random() < 0.5" for name in names))
    pauses = replace(python_step("waits", "pd.flow.delay(10)"), inside="dice.first")
    workflow = a_workflow(block, pauses, *(say(f"at_{name}", f"dice.{name}") for name in names))
    paused = await run(workflow, pause_mode="park")
    decided = taken(paused, "dice")

    continued = await runtime.continue_after_pause(paused.id)

    assert paused.status == "paused"
    assert continued is not None
    assert continued.status == "success", continued.error
    assert taken(continued, "dice") == decided
    assert ran(continued) == ["waits", *(f"at_{name}" for name in decided if name != "first")]


async def test_stored_run_is_the_run(runtime: WorkflowEngine, run: Run) -> None:
    """The journal returns the execution with blocks, their exports, and the places of steps that did not run."""
    execution = await run(BRANCHES, event=an_event({"n": 1}))

    assert await runtime.journal.get_execution(execution.id) == execution


async def test_fork_keeps_the_decisions_above(runtime: WorkflowEngine, run: Run) -> None:
    """A fork from a step in a branch, or below a block, does not decide again, and keeps the exports of the block."""
    block = a_block("%%pdif dice\nhead: Math.random() < 0.5\nelse:")
    workflow = a_workflow(
        block,
        say("head", "dice.head"),
        say("more", "dice.head"),
        say("tail", "dice.else"),
        say("last", value="pd.steps['dice']"),
    )
    first = await run(workflow)
    inside = "more" if taken(first, "dice") == ("head",) else "tail"

    below = [await start_replay(runtime, await prepare_fork(runtime, first.id, "last")) for _ in range(4)]
    within = [await start_replay(runtime, await prepare_fork(runtime, first.id, inside)) for _ in range(6)]

    assert {str(each.step("last").return_value) for each in below} == {str(first.step("last").return_value)}
    assert {taken(each, "dice") for each in within} == {taken(first, "dice")}
    assert all(ran(each) == [inside, "last"] for each in within)


async def test_fork_from_a_branch_that_has_not_run(runtime: WorkflowEngine, run: Run) -> None:
    """A fork from a step of another branch is refused with what has run."""
    first = await run(BRANCHES, event=an_event({"n": 1}))

    with pytest.raises(Exception, match="is in the branch high of triage, which has run low"):
        await prepare_fork(runtime, first.id, "two")


async def test_branches_of_a_parallel_block_run_at_once(shared_run: Run, tmp_path: Path) -> None:
    """A branch waits for a file that another branch writes; each has a folder of its own."""
    block = a_block("%%pdparallel both\na: always\nb: always")
    wait = """
    import os, pathlib, time
    pathlib.Path("/tmp/mine").write_text("a")
    while not os.path.exists(pd.steps["trigger"]["event"]["body"]["path"]):
        time.sleep(0.01)
    return sorted(os.listdir("."))
    """
    write = """
    import os, pathlib
    pathlib.Path(pd.steps["trigger"]["event"]["body"]["path"]).touch()
    return sorted(os.listdir("."))
    """
    steps = (python_step("waits", wait, options="--in both.a"), python_step("writes", write, options="--in both.b"))

    execution = await shared_run(a_workflow(block, *steps), event=an_event({"path": str(tmp_path / "shared")}))

    assert execution.status == "success", execution.error


async def test_run_is_paused_when_each_branch_waits(runtime: WorkflowEngine, run: Run) -> None:
    """The run goes on with the branch whose pause ends first, and is paused again until the other branch goes on, too."""
    block = a_block("%%pdparallel both\na: always\nb: always\nc: always")
    workflow = a_workflow(
        block,
        python_step("long", "pd.flow.delay(60000)", options="--in both.a"),
        say("after_long", "both.a"),
        python_step("short", "pd.flow.delay(10)", options="--in both.b"),
        say("after_short", "both.b"),
        say("free", "both.c"),
        say("last", value="pd.steps['both']['$return_value']['c']"),
    )
    paused = await run(workflow, pause_mode="park")

    again = await runtime.continue_after_pause(paused.id)
    assert again is not None
    await end_pause(runtime, paused.id, step="long")
    ended = await runtime.continue_after_pause(paused.id)

    assert paused.pause is not None
    assert again.pause is not None
    assert ended is not None
    assert [paused.pause.step, *(each.step for each in paused.other_pauses)] == ["short", "long"]
    assert ran(paused) == ["long", "short", "free"]
    assert (again.status, again.pause.step, again.other_pauses) == ("paused", "long", ())
    assert ran(again) == ["long", "short", "after_short", "free"]
    assert ended.status == "success", ended.error
    assert ran(ended) == ["long", "after_long", "short", "after_short", "free", "last"]
    assert await runtime.journal.get_execution(paused.id) == ended


async def test_several_pauses_need_the_name_of_a_step(runtime: WorkflowEngine, run: Run) -> None:
    """A run of which two branches wait is not resumed without the name of a step."""
    block = a_block("%%pdparallel both\na: always\nb: always")
    steps = (python_step(f"at_{name}", "pd.flow.suspend()", options=f"--in both.{name}") for name in "ab")
    paused = await run(a_workflow(block, *steps), pause_mode="park")

    with pytest.raises(RequestError, match=r"waits in several steps: at_[ab], at_[ab]"):
        await end_pause(runtime, paused.id)
    with pytest.raises(RequestError, match="does not wait in the step other"):
        await end_pause(runtime, paused.id, step="other")


async def test_failure_beside_a_waiting_branch_ends_the_run(run: Run) -> None:
    """A run does not pause if a step of another branch fails: it ends with the error."""
    block = a_block("%%pdparallel both\na: always\nb: always")
    waits = python_step("waits", "pd.flow.suspend()", options="--in both.a")
    fails = python_step("fails", "import time\ntime.sleep(0.2)\nraise ValueError('no')", options="--in both.b")

    execution = await run(a_workflow(block, waits, fails, say("last")), pause_mode="park")

    assert execution.status == "error"
    assert error_of(execution).step == "fails"
    assert execution.step("last").status == "skipped"


async def test_nothing_starts_after_a_failure_in_another_branch(shared_run: Run) -> None:
    """A step that runs when another branch fails ends, and the step below it does not start."""
    block = a_block("%%pdparallel both\na: always\nb: always")
    slow = python_step("slow", "import time\ntime.sleep(0.5)\nreturn 1", options="--in both.a")
    workflow = a_workflow(
        block, slow, say("below", "both.a"), python_step("fails", "raise ValueError", options="--in both.b")
    )

    execution = await shared_run(workflow)

    found = [execution.step(name).status for name in ("slow", "below", "fails")]
    assert (execution.status, found) == ("error", ["success", "skipped", "error"])


async def test_block_without_steps_is_recorded(shared_engine: SharedEngine) -> None:
    """The decision of a run without any step is in the journal before its end."""
    workflow = a_workflow(a_block("%%pdif triage\nyes: 'true'"))

    for _ in range(20):
        execution = await run_in(shared_engine.engine, shared_engine.project.folder.parent)(workflow)

        assert await shared_engine.engine.journal.get_execution(execution.id) == execution


async def test_blocks_nest_without_limit(shared_run: Run) -> None:
    """Five hundred blocks within each other run."""
    count = 500
    blocks = [
        Block(f"b{depth}", "if", (Branch("yes", "true"),), inside=f"b{depth - 1}.yes" if depth else None)
        for depth in range(count)
    ]
    workflow = a_workflow(*blocks, say("deep", f"b{count - 1}.yes"), say("last"))

    execution = await shared_run(workflow)

    assert ran(execution) == ["deep", "last"]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(drawn=runs())
async def test_random_blocks_follow_the_rules(
    drawn: tuple[Workflow, dict[str, bool]], shared_engine: SharedEngine
) -> None:
    """The result, the order, the scope and the exports of any nested blocks are those of the documented rules."""
    workflow, holds = drawn
    model = Model(workflow, holds)
    model.run()

    execution = await run_in(shared_engine.engine, shared_engine.project.folder.parent)(workflow, event=an_event(holds))

    results = {step.name: step for step in execution.steps}
    started = {step.name for step in execution.steps if step.started_at and choice(step) is None}
    blocks = {block.name for block in workflow.blocks}
    shown = {name: results[name].exports for name in blocks if results[name].exports}
    assert await shared_engine.engine.journal.get_execution(execution.id) == execution
    assert all(results[name].return_value == model.seen[name] for name in started if results[name].exports)
    for entry in workflow.all_entries:
        times = [results[each.name].started_at or "~" for each in workflow.entries(entry.inside)]
        assert times == sorted(times)
    if model.ends:  # steps in other branches may have begun before
        assert execution.status in model.ends
        assert started <= set(model.ran)
    else:
        assert execution.status == "success", execution.error
        assert started == set(model.ran)
        assert shown == {name: exports for name, exports in model.exports.items() if name in blocks}

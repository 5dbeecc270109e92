"""`$.flow.trigger`: the run of another workflow, and its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pdkernel.definition.sidecar import Sidecar
from pdkernel.egress import parse_policy
from pdkernel.engine.run_request import RunRequest
from pdkernel.engine.workflow_trigger import MAX_TRIGGER_DEPTH, ChildIds, ExecutedRun, WorkflowTriggerService
from pdkernel.errors import RequestError, StepError
from pdkernel.execution import ErrorRecord, Execution
from pdkernel.model import JSON, Trigger, TriggerType
from pdkernel.source import WorkflowSource, find_sibling_workflow
from tests.builders import a_workflow, an_event, python_step
from tests.render.builders import an_execution

OTHER = a_workflow(python_step("other"), name="Other")
EXPORTS: dict[str, dict[str, JSON]] = {
    "one": {"$return_value": 1},
    "two": {"$return_value": None, "x": 2},
    "three": {"y": 3},
}


class Runner:
    """Records the requests for runs, and answers each with one execution."""

    def __init__(
        self, execution: Execution | None = None, exports: Mapping[str, Mapping[str, JSON]] | None = None
    ) -> None:
        self.requests: list[RunRequest] = []
        self.repeats: list[bool] = []
        self._answer = ExecutedRun(execution or an_execution(), EXPORTS if exports is None else exports)

    async def __call__(self, request: RunRequest, *, may_exist: bool, hands_over: Callable[[], bool]) -> ExecutedRun:
        """Record the request."""
        assert hands_over() is False
        self.requests.append(request)
        self.repeats.append(may_exist)
        return self._answer


def a_request(tmp_path: Path, **changes: Any) -> RunRequest:
    """The request of a run beside the workflow `p_other`."""
    caller = RunRequest(
        a_workflow(),
        an_event(),
        parse_policy("deny"),
        external_user_id="ada",
        environment="production",
        pinned_exports={"a": {}},
        only_steps=frozenset({"a"}),
        previous_exports={"a": {}},
        workflow_id="p_caller",
        done_steps=frozenset({"a"}),
        account_overrides={"slack": "apn_1"},
        emitter_id="ti_caller",
        dedupe_key="p_caller/schedule/1",
        variables={"KEY": "value"},
        replay_of="run_0",
        source_path=tmp_path / "caller.ipynb",
        find_workflow=lambda name, source: (
            other(tmp_path) if (name, source) == ("p_other", tmp_path / "caller.ipynb") else None
        ),
    )
    return replace(caller, **changes)


def other(folder: Path) -> WorkflowSource:
    """The workflow `p_other`, which sets the source of its actions."""
    return WorkflowSource(folder / "the other.ipynb", "notebook", OTHER, Sidecar(actions=("npm",)))


def service(request: RunRequest, runner: Runner, *, is_repeat: bool = False) -> WorkflowTriggerService:
    """The service of the second run of the step `call`."""
    ids = ChildIds("run_1", "call", 2, is_repeat=is_repeat)
    return WorkflowTriggerService(
        request, runner, child_ids=ids, hands_over=lambda: False, secrets=tuple, on_secrets=lambda _: None
    )


async def ask(tmp_path: Path, runner: Runner, request: RunRequest | None = None, **args: Any) -> JSON:
    """The answer to a call of `$.flow.trigger`."""
    return await service(request or a_request(tmp_path), runner).answer("trigger", {"workflow": "p_other", **args})


async def test_the_other_workflow_has_the_variables_of_its_folder(tmp_path: Path) -> None:
    """The variables are loaded for the folder of the other workflow; without a loader, they are those of the caller."""
    runner = Runner()

    await ask(tmp_path, runner, a_request(tmp_path, load_variables=lambda folder: {"FOLDER": folder.name}))
    await ask(tmp_path, runner)

    assert [request.variables for request in runner.requests] == [{"FOLDER": tmp_path.name}, {"KEY": "value"}]


@pytest.mark.parametrize(
    ("options", "exports", "result"),
    [
        (None, EXPORTS, None),
        (None, {"one": {"$return_value": 1}, "two": {"x": 2}}, 1),
        (None, {"one": {"x": 1}}, None),
        ({"result_type": "last"}, {"one": {"$return_value": 1}, "two": {"$return_value": 2}}, 2),
        ({"result_type": "all_exports"}, EXPORTS, {**EXPORTS, "$context": None}),
        ("all_exports", {"one": {"$return_value": 1}}, 1),
    ],
)
async def test_the_result(tmp_path: Path, options: JSON, exports: dict[str, Any], result: JSON) -> None:
    """The result is the last return value, or all exports."""
    assert await ask(tmp_path, Runner(exports=exports), options=options) == result


async def test_the_other_run(tmp_path: Path) -> None:
    """The payload is the event, whose headers choose the user; choices for the calling run do not apply."""
    runner, request = Runner(), a_request(tmp_path)
    headers = {"x-pd-external-user-id": "grace", "x-pd-environment": "production"}

    await ask(tmp_path, runner, request, payload={"headers": headers})
    await ask(tmp_path, runner, request)

    first, second = runner.requests
    assert (first.workflow, first.folder, first.event.data) == (OTHER, tmp_path, {"headers": headers})
    assert (first.source, first.source_path) == (f"'{tmp_path}/the other.ipynb'", tmp_path / "the other.ipynb")
    assert first.action_sources == ("npm",)
    assert [(each.external_user_id, each.environment) for each in runner.requests] == [
        ("grace", "production"),
        (None, "development"),
    ]
    assert (first.pinned_exports, first.only_steps, first.previous_exports, first.workflow_id, first.done_steps) == (
        {},
        None,
        {},
        None,
        frozenset(),
    )
    assert (dict(first.account_overrides), first.emitter_id, first.dedupe_key, first.replay_of) == (
        {},
        None,
        None,
        None,
    )
    assert (first.variables, first.policy, first.depth, first.parent) == (request.variables, request.policy, 1, "run_1")
    assert second.event.data == {}


@pytest.mark.parametrize(
    ("trigger", "below", "expected"), [("errors", False, True), ("http", True, True), ("http", False, False)]
)
async def test_a_run_below_an_error_handler(tmp_path: Path, trigger: TriggerType, below: bool, expected: bool) -> None:
    """A run that a workflow with an errors trigger starts counts as its part, and so do the runs that this one starts."""
    runner, workflow = Runner(), replace(a_workflow(), triggers=(Trigger(trigger),))

    await ask(tmp_path, runner, a_request(tmp_path, workflow=workflow, below_error_handler=below))

    assert [request.below_error_handler for request in runner.requests] == [expected]


async def test_a_repeated_step_finds_its_runs(tmp_path: Path) -> None:
    """Each call has its own id, which is the same in a repeated attempt at the step."""
    ids = []
    for is_repeat in (False, True):
        runner = Runner()
        asked = service(a_request(tmp_path), runner, is_repeat=is_repeat)
        for _ in range(2):
            await asked.answer("trigger", {"workflow": "p_other"})
        ids.append([each.run_ids for each in runner.requests])
        assert runner.repeats == [is_repeat] * 2

    assert ids[0] == ids[1] == [("run_1:call:1.2:1",) * 2, ("run_1:call:1.2:2",) * 2]


@pytest.mark.parametrize("name", [None, "", 5])
async def test_a_workflow_needs_a_name(tmp_path: Path, name: Any) -> None:
    """The first argument is an id; another operation is unknown."""
    with pytest.raises(RequestError, match="is the id of a workflow"):
        await ask(tmp_path, Runner(), workflow=name)
    with pytest.raises(RequestError, match="is the id of a workflow"):
        await service(a_request(tmp_path), Runner()).answer("other", {"workflow": "p_other"})


@pytest.mark.parametrize("payload", [[], "x", 0, False])
async def test_a_payload_is_an_object(tmp_path: Path, payload: JSON) -> None:
    """Another payload is refused before a run starts."""
    runner = Runner()

    with pytest.raises(RequestError, match="must be an object"):
        await ask(tmp_path, runner, payload=payload)
    assert runner.requests == []


async def test_an_unknown_workflow(tmp_path: Path) -> None:
    """The fix explains how to name a workflow; a run without a folder finds none."""
    for request in (a_request(tmp_path), a_request(tmp_path, source_path=None, find_workflow=find_sibling_workflow)):
        with pytest.raises(RequestError, match="There is no workflow gone beside this workflow"):
            await ask(tmp_path, Runner(), request, workflow="gone")


async def test_a_chain_is_limited(tmp_path: Path) -> None:
    """The tenth workflow of a chain triggers no other."""
    runner = Runner()

    await ask(tmp_path, runner, a_request(tmp_path, depth=MAX_TRIGGER_DEPTH - 1))
    with pytest.raises(RequestError, match="has at most 10 workflows"):
        await ask(tmp_path, runner, a_request(tmp_path, depth=MAX_TRIGGER_DEPTH))
    assert [each.depth for each in runner.requests] == [MAX_TRIGGER_DEPTH]


@pytest.mark.parametrize(
    ("execution", "said"),
    [
        (an_execution(status="error", error=ErrorRecord("c", "N", "No key.")), "'Open issue to Slack' did not finish: No key."),
        (an_execution(status="cancelled"), "did not finish: its status is cancelled."),
        (an_execution(status="paused"), "did not finish: its status is paused."),
    ],
)  # fmt: skip
async def test_a_failed_workflow_fails_the_step(tmp_path: Path, execution: Execution, said: str) -> None:
    """The error has the name of the workflow and the reason; a run that exits has not failed."""
    with pytest.raises(StepError, match=said) as caught:
        await ask(tmp_path, Runner(execution))

    assert caught.value.name == "TriggeredWorkflowError"
    assert await ask(tmp_path, Runner(an_execution(status="exited"), {"one": {"$return_value": 5}})) == 5

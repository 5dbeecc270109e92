"""`$.flow.trigger`: the run of another workflow, and its result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pdkernel.common.clock import SYSTEM_CLOCK
from pdkernel.egress import parse_policy
from pdkernel.engine.child_runs import MAX_TRIGGER_DEPTH, ChildRuns, ChildRunService, ExecutedRun
from pdkernel.engine.run_request import NO_OPTIONS, RunRequest, TestOptions
from pdkernel.errors import DatabaseUnreachableError, RequestError, StepError
from pdkernel.execution import ErrorRecord, Execution
from pdkernel.files.definition.sidecar import Sidecar
from pdkernel.files.source import WorkflowSource, find_sibling_workflow
from pdkernel.model import JSON, Trigger, TriggerType
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
        self.existed: list[bool] = []
        self._answer = ExecutedRun(execution or an_execution(), EXPORTS if exports is None else exports)

    async def __call__(self, request: RunRequest, *, exists: bool, hands_over: Callable[[], bool]) -> ExecutedRun:
        """Record the request."""
        assert hands_over() is False
        self.requests.append(request)
        self.existed.append(exists)
        return self._answer


def a_request(tmp_path: Path, **changes: Any) -> RunRequest:
    """The request of a run beside the workflow `p_other`."""
    caller = RunRequest(
        a_workflow(),
        an_event(),
        parse_policy("deny"),
        external_user_id="ada",
        environment="production",
        options=TestOptions(pinned_exports={"a": {}}, only_steps=frozenset({"a"}), previous_exports={"a": {}}),
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


def service(request: RunRequest, runner: Runner, *, earlier: Sequence[RunRequest] | None = None) -> ChildRunService:
    """The service of the second run of the step `call`; *earlier* are the runs of its interrupted attempts."""

    async def load(run_id: str, prefix: str) -> Sequence[RunRequest]:
        assert (run_id, prefix) == ("run_1", "run_1:call:1.2:")
        return earlier or ()

    children = ChildRuns("run_1", "call", 2, None if earlier is None else load)
    return ChildRunService(
        request,
        runner,
        children=children,
        hands_over=lambda: False,
        secrets=tuple,
        on_secrets=lambda _: None,
        clock=SYSTEM_CLOCK,
    )


async def ask(tmp_path: Path, runner: Runner, request: RunRequest | None = None, **args: Any) -> JSON:
    """The answer to a call of `$.flow.trigger`."""
    return await service(request or a_request(tmp_path), runner).answer("trigger", {"workflow": "p_other", **args})


async def test_a_served_run_waits_for_the_variables_of_the_other_workflow(tmp_path: Path) -> None:
    """While the database cannot be reached, a served run waits; another run fails."""
    runner, faults = Runner(), [DatabaseUnreachableError("gone")] * 2

    def load(folder: Path) -> dict[str, str]:
        if faults:
            raise faults.pop()
        return {"FOLDER": folder.name}

    await ask(tmp_path, runner, a_request(tmp_path, load_variables=load, interface="http", pause_mode="park"))
    faults.append(DatabaseUnreachableError("gone"))

    assert [request.variables for request in runner.requests] == [{"FOLDER": tmp_path.name}]
    with pytest.raises(DatabaseUnreachableError):
        await ask(tmp_path, runner, a_request(tmp_path, load_variables=load))


async def test_the_other_workflow_has_the_variables_of_its_folder(tmp_path: Path) -> None:
    """The variables are loaded for the folder of the other workflow; without a loader, they are those of the caller."""
    runner = Runner()

    await ask(tmp_path, runner, a_request(tmp_path, load_variables=lambda folder: {"FOLDER": folder.name}))
    await ask(tmp_path, runner)

    assert [request.variables for request in runner.requests] == [{"FOLDER": tmp_path.name}, {"KEY": "value"}]


async def test_the_folder_of_the_other_workflow_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A workflow that was found by a relative path runs in an absolute folder: its processes have other working folders."""
    runner = Runner()
    monkeypatch.chdir(tmp_path)

    await ask(tmp_path, runner, a_request(tmp_path, find_workflow=lambda _name, _source: other(Path())))

    assert [request.folder for request in runner.requests] == [tmp_path.resolve()]


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
    """The payload is the event; choices for the calling run do not apply."""
    runner, request = Runner(), a_request(tmp_path)

    await ask(tmp_path, runner, request, payload={"headers": {"a": "b"}})
    await ask(tmp_path, runner, request)

    first, second = runner.requests
    assert (first.workflow, first.folder, first.event.data) == (OTHER, tmp_path, {"headers": {"a": "b"}})
    assert (first.source, first.source_path) == (f"'{tmp_path}/the other.ipynb'", tmp_path / "the other.ipynb")
    assert first.action_sources == ("npm",)
    assert (first.options, first.workflow_id, first.done_steps) == (NO_OPTIONS, None, frozenset())
    assert (dict(first.account_overrides), first.emitter_id, first.dedupe_key, first.replay_of) == (
        {},
        None,
        None,
        None,
    )
    assert (first.variables, first.policy, first.depth, first.parent) == (request.variables, request.policy, 1, "run_1")
    assert second.event.data == {}


@pytest.mark.parametrize("user", ["ada", None])
@pytest.mark.parametrize("name", ["x-pd-external-user-id", "X-PD-External-User-ID"])
async def test_headers_of_a_payload_choose_neither_user_nor_environment(
    tmp_path: Path, user: str | None, name: str
) -> None:
    """The other run has the external user and the environment of this run, and its event says so."""
    runner = Runner()
    headers = {name: "bob", "x-pd-external-user-ID": "eve", "x-pd-environment": "development", "a": "b"}

    await ask(tmp_path, runner, a_request(tmp_path, external_user_id=user), payload={"headers": headers, "body": 1})

    [made] = runner.requests
    shown = {"x-pd-environment": "production"} | ({"x-pd-external-user-id": user} if user else {})
    assert (made.external_user_id, made.environment) == (user, "production")
    assert made.event.data == {"headers": {"a": "b", **shown}, "body": 1}
    assert (made.identity.header, made.identity.environment_header) == (user, "production")


@pytest.mark.parametrize("headers", ["x-pd-external-user-id: bob", None, [["x-pd-external-user-id", "bob"]]])
async def test_headers_of_another_form_are_kept(tmp_path: Path, headers: JSON) -> None:
    """A value that is not an object of headers is kept as it was given, and does not choose the user."""
    runner = Runner()

    await ask(tmp_path, runner, payload={"headers": headers})

    assert (runner.requests[0].external_user_id, runner.requests[0].event.data) == ("ada", {"headers": headers})


class TestNamedUser:
    """The option `externalUserId`."""

    async def test_a_run_without_a_user_may_name_one(self, tmp_path: Path) -> None:
        """A run of a schedule starts the other workflow for each of its users, in its own environment."""
        runner, request = Runner(), a_request(tmp_path, external_user_id=None)

        for user in ("ada", "bob"):
            await ask(tmp_path, runner, request, options={"externalUserId": user, "result_type": "all_exports"})

        made = [(each.external_user_id, each.environment) for each in runner.requests]
        assert made == [("ada", "production"), ("bob", "production")]

    async def test_a_run_for_a_user_may_not_name_another(self, tmp_path: Path) -> None:
        """It may name its own user; another one is refused before a run starts, with what permits it."""
        runner = Runner()

        await ask(tmp_path, runner, options={"externalUserId": "ada"})
        with pytest.raises(RequestError, match="'Other' was not started: this run is for an external user") as refused:
            await ask(tmp_path, runner, options={"externalUserId": "bob"})

        assert "may_name_external_user" in refused.value.fix
        assert [each.external_user_id for each in runner.requests] == ["ada"]

    @pytest.mark.parametrize(
        ("permitted", "is_started"),
        [("caller", True), ("caller.ipynb", True), ("p_caller", True), ("p_other", False), ("call", False)],
    )
    async def test_the_other_workflow_permits_a_caller(self, tmp_path: Path, permitted: str, is_started: bool) -> None:
        """The `pdkernel.yaml` of the other workflow names the workflow that calls, by its id or its name."""
        runner = Runner()
        callee = replace(other(tmp_path), sidecar=Sidecar(naming_callers=("p_x", permitted)))
        request = a_request(tmp_path, find_workflow=lambda _name, _source: callee)

        if is_started:
            await ask(tmp_path, runner, request, options={"externalUserId": "bob"})
        else:
            with pytest.raises(RequestError, match="was not started"):
                await ask(tmp_path, runner, request, options={"externalUserId": "bob"})

        assert [each.external_user_id for each in runner.requests] == ["bob"] * is_started

    @pytest.mark.parametrize("named", [5, True, ["bob"], " ", "x" * 251, "a\0"])
    async def test_a_value_that_is_not_an_id_is_refused(self, tmp_path: Path, named: Any) -> None:
        """No run starts, also from a run that may name a user."""
        runner = Runner()

        with pytest.raises(RequestError):
            await ask(tmp_path, runner, a_request(tmp_path, external_user_id=None), options={"externalUserId": named})
        assert runner.requests == []


@pytest.mark.parametrize(
    ("trigger", "below", "expected"), [("errors", False, True), ("http", True, True), ("http", False, False)]
)
async def test_a_run_below_an_error_handler(tmp_path: Path, trigger: TriggerType, below: bool, expected: bool) -> None:
    """A run that a workflow with an errors trigger starts counts as its part, and so do the runs that this one starts."""
    runner, workflow = Runner(), replace(a_workflow(), triggers=(Trigger(trigger),))

    await ask(tmp_path, runner, a_request(tmp_path, workflow=workflow, below_error_handler=below))

    assert [request.below_error_handler for request in runner.requests] == [expected]


class TestRepeatedStep:
    """The calls of a step of which an attempt was interrupted."""

    async def ask_twice(
        self, tmp_path: Path, first: Sequence[Mapping[str, Any]], then: Sequence[Mapping[str, Any]], **changes: Any
    ) -> list[tuple[str, bool]]:
        """Make the calls *first*, repeat the step with the calls *then*; return the id of each of these, and whether it existed."""
        before, after = Runner(), Runner()
        asked = service(a_request(tmp_path, **changes), before)
        for each in first:
            await asked.answer("trigger", {"workflow": "p_other", **each})
        asked = service(a_request(tmp_path, **changes), after, earlier=before.requests[::-1])
        for each in then:
            await asked.answer("trigger", {"workflow": "p_other", **each})
        assert before.existed == [False] * len(first)
        return [
            ((made.run_ids or ("", ""))[0], exists) for made, exists in zip(after.requests, after.existed, strict=True)
        ]

    async def test_equal_calls_find_the_runs_in_their_order(self, tmp_path: Path) -> None:
        """Each run is the result of one call; a further call starts a run with an id that no earlier run has."""
        found = await self.ask_twice(tmp_path, [{}] * 11, [{}] * 12)

        assert found == [(f"run_1:call:1.2:{n}", n < 12) for n in range(1, 13)]

    async def test_calls_find_their_runs_by_payload(self, tmp_path: Path) -> None:
        """The order of the calls may change, and that of the keys of a payload."""
        first = [{"payload": {"a": 1, "b": 2}}, {"payload": {"a": 1, "b": True}}]
        then = [{"payload": {"b": True, "a": 1}}, {"payload": {"b": 2, "a": 1}}]

        assert await self.ask_twice(tmp_path, first, then) == [("run_1:call:1.2:2", True), ("run_1:call:1.2:1", True)]

    async def test_another_workflow_starts_a_new_run(self, tmp_path: Path) -> None:
        """A repeated step may look what was done before it repeats its calls, also with the same payload."""
        lookup = WorkflowSource(tmp_path / "lookup.ipynb", "notebook", a_workflow(python_step("x"), name="Lookup"))

        found = await self.ask_twice(
            tmp_path,
            [{"payload": {"a": 1}}],
            [{"workflow": "lookup", "payload": {"a": 1}}, {"payload": {"a": 1}}],
            find_workflow=lambda name, _: lookup if name == "lookup" else replace(other(tmp_path), served_id="p_other"),
        )

        assert found == [("run_1:call:1.2:2", False), ("run_1:call:1.2:1", True)]

    @pytest.mark.parametrize(
        ("first", "then", "said"),
        [
            ({"payload": {"token": "sk-1"}}, {"payload": {"token": "sk-2"}}, "a different payload, as run run_1:call:1.2:1,"),
            ({"options": {"externalUserId": "ada"}}, {}, "a different external user, as run run_1:call:1.2:1,"),
        ],
    )  # fmt: skip
    async def test_a_call_that_differs_is_refused(
        self, tmp_path: Path, first: Mapping[str, Any], then: Mapping[str, Any], said: str
    ) -> None:
        """The message names the run and what differs without a value of it."""
        with pytest.raises(StepError, match=said) as refused:
            await self.ask_twice(tmp_path, [first], [then], external_user_id=None)

        assert "sk-" not in str(refused.value)
        assert "pdkernel runs show run_1:call:1.2:1" in refused.value.fix

    async def test_calls_at_once_find_different_runs(self, tmp_path: Path) -> None:
        """The earlier runs are loaded once for the calls of a step that triggers several workflows at once."""
        before, after = Runner(), Runner()
        await service(a_request(tmp_path), before).answer("trigger", {"workflow": "p_other"})
        asked = service(a_request(tmp_path), after, earlier=before.requests)

        await asyncio.gather(*(asked.answer("trigger", {"workflow": "p_other"}) for _ in range(2)))

        assert sorted(after.existed) == [False, True]


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ({"workflow": None}, "is the id of a workflow"),
        ({"workflow": ""}, "is the id of a workflow"),
        ({"workflow": 5}, "is the id of a workflow"),
        ({"payload": []}, "must be an object"),
        ({"payload": "x"}, "must be an object"),
        ({"payload": 0}, "must be an object"),
        ({"payload": False}, "must be an object"),
        ({"workflow": "gone"}, "There is no workflow 'gone' that this workflow can start"),
    ],
)
async def test_a_call_that_is_refused(tmp_path: Path, args: dict[str, Any], why: str) -> None:
    """No run starts without the id of a workflow that can be found and an object as its payload, also in a run without a folder."""
    runner = Runner()
    for request in (a_request(tmp_path), a_request(tmp_path, source_path=None, find_workflow=find_sibling_workflow)):
        with pytest.raises(RequestError, match=why):
            await ask(tmp_path, runner, request, **args)

    assert runner.requests == []


async def test_an_unknown_operation(tmp_path: Path) -> None:
    """The service has one operation, and the error names what its first argument is."""
    with pytest.raises(RequestError, match="is the id of a workflow"):
        await service(a_request(tmp_path), Runner()).answer("other", {"workflow": "p_other"})


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

"""Recorded events run again: replays, forks, and who runs them."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pdkernel.accounts import LocalDirectory
from pdkernel.egress import parse_policy
from pdkernel.engine.queue_turns import QueueFullError
from pdkernel.engine.run_context import derive_emitter_id, fired_by, trigger_keys
from pdkernel.engine.run_packages import PackageLock
from pdkernel.engine.run_request import RunRequest, TestOptions
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.errors import ProjectError, RequestError, UnknownStepError
from pdkernel.execution import Execution
from pdkernel.files.source import WorkflowSource, load_source
from pdkernel.model import Trigger
from pdkernel.operations.run_replay import (
    choose_replay_policy,
    describe_replay,
    prepare_fork,
    prepare_replay,
    prepare_replays,
    start_replay,
)
from pdkernel.storage import Project
from tests.builders import a_workflow, an_event, python_step
from tests.engine.conftest import Run
from tests.notebook_files import notebook_of

NAME = "return pd.steps['trigger']['event']['body']['name']"
TOKEN = "xoxb-0123456789"


async def replay(engine: WorkflowEngine, run_id: str, **choices: Any) -> Execution:
    """Prepare and start a replay."""
    return await start_replay(engine, await prepare_replay(engine, run_id, **choices))


def write_notebook(path: Path, body: str) -> WorkflowSource:
    """A notebook with one step of *body*, as a source."""
    notebook_of(path, "%%pdworkflow\nname: Greet\n", f"%%pdstep greet\ndef handler(pd):\n    {body}\n")
    return load_source(path)


async def test_a_replay_is_a_new_run_on_the_same_event(run: Run, runtime: WorkflowEngine) -> None:
    """The new run has the event, the trace id and the user of the first; record and context report that it is a replay."""
    workflow = a_workflow(python_step(body="return pd.steps['trigger']['context']['replay']"))
    first = await run(workflow, external_user_id="ada", event=an_event({"secret": 1}))
    again = await replay(runtime, first.id)
    kept = await runtime.journal.get_execution(again.id)

    assert again.id != first.id
    assert (again.trace_id, again.replay_of, again.external_user) == (first.trace_id, first.id, "ada")
    assert (first.step("code").return_value, again.step("code").return_value) == (False, True)
    assert again.event == first.event
    assert (first.context["replay"], again.context["replay"]) == (False, True)
    assert kept is not None
    assert kept.replay_of == first.id


async def test_the_replay_of_a_triggered_run_runs_its_own_workflow(
    run: Run, runtime: WorkflowEngine, tmp_path: Path
) -> None:
    """A run that a step of another workflow has started is replayed with its own current workflow, not that of the step."""
    write_notebook(tmp_path / "other.ipynb", "return 'before'")
    caller = write_notebook(tmp_path / "caller.ipynb", "return ['called', pd.flow.trigger('other', {'n': 1})]")
    first = await run(caller.workflow, source_path=caller.path)
    (child,) = [each for each in await runtime.journal.list_executions() if each.id != first.id]
    write_notebook(tmp_path / "other.ipynb", "return 'after'")

    again = await replay(runtime, child.id)

    assert (again.replay_of, again.step("greet").return_value, again.event) == (child.id, "after", {"n": 1})


async def test_a_replay_has_the_raw_event(run: Run, runtime: WorkflowEngine) -> None:
    """The replay gets header values that the record masks."""
    body = "return len(pd.steps['trigger']['event']['headers']['authorization'])"
    first = await run(python_step(body=body), event=an_event(headers={"authorization": "Bearer 0123456789"}))

    assert first.event["headers"] == {"authorization": "***"}
    assert (await replay(runtime, first.id)).step("code").return_value == len("Bearer 0123456789")


@pytest.mark.parametrize(("sends", "mode"), [(False, "deny"), (True, "live")])
async def test_a_replay_reaches_no_more_than_its_run(
    runtime: WorkflowEngine, tmp_path: Path, sends: bool, mode: str
) -> None:
    """Outbound calls are denied unless they are asked for, and a run that reached public addresses only still does."""
    policy = replace(parse_policy("live"), public_only=True)
    request = RunRequest(a_workflow(python_step()), an_event(), policy, folder=tmp_path)
    first = await runtime.run(request)

    prepared = await prepare_replay(runtime, first.id, sends=sends)

    assert (prepared.request.policy.mode, prepared.request.policy.public_only) == (mode, True)


async def test_a_replay_has_the_current_workflow_of_its_source(
    run: Run, runtime: WorkflowEngine, tmp_path: Path
) -> None:
    """The edited notebook runs; without the notebook, the recorded definition does, and the description reports it."""
    path = tmp_path / "greet.ipynb"
    source = write_notebook(path, "return 'old'")
    first = await run(source.workflow, source_path=path, source="greet.ipynb")
    write_notebook(path, "return 'new'")
    current = await prepare_replay(runtime, first.id)
    path.unlink()
    recorded = await prepare_replay(runtime, first.id)

    assert (current.definition, recorded.definition) == ("current", "recorded")
    assert (await start_replay(runtime, current)).step("greet").return_value == "new"
    assert (await start_replay(runtime, recorded)).step("greet").return_value == "old"
    assert "the current workflow of" in describe_replay(current)
    assert "the recorded definition (its source does not exist any more)" in describe_replay(recorded)


async def test_the_draft_of_an_open_notebook_is_its_current_workflow(
    run: Run, runtime: WorkflowEngine, tmp_path: Path
) -> None:
    """A notebook's workflow that is not saved yet replaces the file; the draft of another notebook does not."""
    source = write_notebook(tmp_path / "greet.ipynb", "return 'file'")
    draft = WorkflowSource(source.path, "notebook", a_workflow(python_step("greet", "return 'draft'")))
    other = WorkflowSource(tmp_path / "other.ipynb", "notebook", draft.workflow)
    (tmp_path / "link").symlink_to(tmp_path)
    linked = replace(draft, path=tmp_path / "link" / "greet.ipynb")
    pins = {"greet": {"$return_value": 1}, "gone": {"$return_value": 2}}
    first = await run(source.workflow, source_path=source.path)
    pinned = await run(source.workflow, source_path=source.path, options=TestOptions(pinned_exports=pins))

    assert (await replay(runtime, first.id, source=draft)).step("greet").return_value == "draft"
    assert (await replay(runtime, first.id, source=linked)).step("greet").return_value == "draft"
    assert [*(await prepare_replay(runtime, pinned.id, source=draft)).request.options.pinned_exports] == ["greet"]
    assert (await replay(runtime, first.id, source=other)).step("greet").return_value == "file"


async def test_a_replay_refuses_outbound_calls(run: Run, runtime: WorkflowEngine) -> None:
    """Outbound calls of a replay are refused, unless they are to be sent: then the run's own policy applies."""
    first = await run(python_step(), egress="allow=example.com")

    assert (await prepare_replay(runtime, first.id)).request.policy.mode == "deny"
    sending = (await prepare_replay(runtime, first.id, sends=True)).request
    ((several,), _) = await prepare_replays(runtime, [first.id], sends=True)
    assert several.request.options.resend
    assert (sending.policy.mode_text, sending.options.resend) == ("allow=example.com", True)


@pytest.mark.parametrize(
    ("policy", "sends"), [("live", True), ("allow=a.test", True), ("stand-in=slack", False), ("deny", False)]
)
async def test_a_replay_has_the_policy_that_is_named(
    run: Run, runtime: WorkflowEngine, policy: str, sends: bool
) -> None:
    """A named policy replaces the run's own; one that sends calls sends those again that the run sent, and is not silent."""
    first = await run(python_step(), egress="allow=example.com")

    replayed = (await prepare_replay(runtime, first.id, policy=parse_policy(policy))).request
    forked = (await prepare_fork(runtime, first.id, "code", policy=parse_policy(policy))).request

    assert {(each.policy.mode_text, each.options.resend, each.is_silent) for each in (replayed, forked)} == {
        (policy, sends, not sends)
    }


@pytest.mark.parametrize(
    ("egress", "variable", "sends", "chosen"),
    [
        (None, "", False, None),
        (None, "", True, None),
        ("live", "deny", False, ("live", "--egress")),
        (None, "stand-in=slack", False, ("stand-in=slack", "PDKERNEL_EGRESS")),
        (None, "stand-in=slack", True, None),
    ],
)
def test_the_policy_of_a_replay_is_chosen(
    egress: str | None, variable: str, sends: bool, chosen: tuple[str, str] | None
) -> None:
    """The option wins, then `--send`, then the variable; without any, the replay refuses calls."""
    policy = choose_replay_policy(egress, {"PDKERNEL_EGRESS": variable}, sends=sends)

    assert (None if policy is None else (policy.mode_text, policy.origin)) == chosen


def test_a_replay_has_one_policy() -> None:
    """`--send` and `--egress` exclude each other."""
    with pytest.raises(RequestError, match="exclude each other"):
        choose_replay_policy("live", {}, sends=True)


async def test_another_user_is_named(run: Run, runtime: WorkflowEngine) -> None:
    """With an external user, the event is that user's: its header is rewritten, and chosen accounts do not apply."""
    body = "return pd.steps['trigger']['event']['headers']['x-pd-external-user-id']"
    first = await run(
        python_step(body=body), external_user_id="ada", event=an_event().with_identity("ada", "development")
    )
    again = await replay(runtime, first.id, external_user_id="grace")

    assert (again.external_user, again.step("code").return_value) == ("grace", "grace")


@pytest.mark.parametrize(("user", "kept"), [("ada", {"slack": "apn_1"}), (None, {"slack": "apn_1"}), ("grace", {})])
async def test_chosen_accounts_are_those_of_their_user(
    runtime: WorkflowEngine, tmp_path: Path, user: str | None, kept: dict[str, str]
) -> None:
    """A replay for another user does not use the accounts that were chosen for the first one."""
    request = RunRequest(
        a_workflow(python_step()),
        an_event(),
        parse_policy("deny"),
        folder=tmp_path,
        external_user_id="ada",
        account_overrides={"slack": "apn_1"},
    )
    first = await runtime.run(request)

    assert (await prepare_replay(runtime, first.id, external_user_id=user)).request.account_overrides == kept


async def test_a_credential_in_the_event_stays_hidden_for_another_user(
    run: Run, runtime: WorkflowEngine, connect: Callable[..., str]
) -> None:
    """A credential that the first run's accounts revealed is redacted in the replay of a user without that account."""
    connect("ada", TOKEN)
    connect("grace", "xoxb-9876543210")
    step = python_step(body=NAME, options="--app slack")
    first = await run(a_workflow(step), external_user_id="ada", event=an_event({"name": f"token {TOKEN}!"}))
    again = await replay(runtime, first.id, external_user_id="grace")

    assert TOKEN not in str(first.to_json())
    assert TOKEN not in str(again.to_json())
    assert again.event["body"] == first.event["body"]
    assert again.status == "success"


async def test_a_run_without_its_event_is_refused(run: Run, runtime: WorkflowEngine, project: Project) -> None:
    """A run of an earlier version, whose request is not stored, is refused with exit status 2."""
    first = await run(python_step())
    _update_runs(project, "request = null")

    with pytest.raises(RequestError, match="its event is not stored"):
        await prepare_replay(runtime, first.id)
    with pytest.raises(RequestError, match="There is no run 'nope'"):
        await prepare_replay(runtime, "nope")


async def test_a_request_of_another_key_is_refused(run: Run, runtime: WorkflowEngine, project: Project) -> None:
    """A request that the project's key does not decrypt is refused with exit status 3."""
    first = await run(python_step())
    _update_runs(project, "request = x'0102030405'")

    with pytest.raises(ProjectError, match="cannot be decrypted") as refused:
        await prepare_replay(runtime, first.id)
    replays, errors = await prepare_replays(runtime, [first.id])

    assert refused.value.exit_status == 3
    assert (list(replays), [run_id for run_id, _ in errors]) == ([], [first.id])


THREE = a_workflow(
    python_step("one", "return {'n': 1}"),
    python_step("two", "print('runs')\nreturn pd.steps['one']['$return_value']['n'] + 1"),
    python_step("three", "return pd.steps['two']['$return_value'] + 1"),
)


async def test_a_fork_keeps_the_exports_above(run: Run, runtime: WorkflowEngine) -> None:
    """The steps above are not run and have their recorded exports; the other steps run."""
    first = await run(THREE)
    forked = await start_replay(runtime, await prepare_fork(runtime, first.id, "three"))

    assert [step.status for step in forked.steps] == ["pinned", "pinned", "success"]
    assert forked.step("two").exports == first.step("two").exports
    assert forked.step("three").return_value == 3
    assert (forked.replay_of, forked.context["replay"]) == (first.id, True)


async def test_a_fork_runs_its_first_step(run: Run, runtime: WorkflowEngine) -> None:
    """A step that was pinned in the first run is run if the fork begins there; pins below and earlier exports stay out."""
    pins: dict[str, dict[str, Any]] = {"two": {"$return_value": 5}}
    first = await run(THREE, options=TestOptions(pinned_exports=pins, previous_exports={"one": {"$return_value": 0}}))
    fork = await prepare_fork(runtime, first.id, "two")
    forked = await start_replay(runtime, fork)

    assert [step.status for step in forked.steps] == ["pinned", "success", "success"]
    assert forked.step("three").return_value == 3
    assert fork.request.options.previous_exports == {}


async def test_a_fork_of_an_edited_workflow(run: Run, runtime: WorkflowEngine, tmp_path: Path) -> None:
    """An edited source runs from the step; without it, the recorded definition runs although the source has changed."""
    first = await run(THREE)
    edited = a_workflow(*THREE.steps[:2], python_step("three", "return 'edited'"))
    source = WorkflowSource(tmp_path / "edited.ipynb", "notebook", edited)
    fork = await prepare_fork(runtime, first.id, "three", source=source)

    assert fork.definition == "given"
    assert (await start_replay(runtime, fork)).step("three").return_value == "edited"


async def test_a_fork_of_an_edited_copy_has_the_variables_beside_it(
    run: Run, runtime: WorkflowEngine, tmp_path: Path
) -> None:
    """The `.env` of the copy's folder counts, not that of the run's folder."""
    first = await run(python_step())
    copy = tmp_path / "copy"
    copy.mkdir()
    (tmp_path / ".env").write_text("OWN=1\n")
    (copy / ".env").write_text("OWN=2\n")
    source = WorkflowSource(copy / "edited.ipynb", "notebook", a_workflow(python_step()))

    fork = await prepare_fork(runtime, first.id, "code", source=source)

    assert fork.request.variables == {"OWN": "2"}


async def test_a_fork_has_the_packages_of_its_definition(run: Run, runtime: WorkflowEngine, tmp_path: Path) -> None:
    """A fork of the recorded definition keeps the packages of its run; one of an edited source takes those of today."""
    kept = PackageLock().encode("Test")
    first = await run(THREE, package_lock=kept)
    source = WorkflowSource(tmp_path / "edited.ipynb", "notebook", THREE)

    recorded = await prepare_fork(runtime, first.id, "three")
    edited = await prepare_fork(runtime, first.id, "three", source=source)

    assert (recorded.request.package_lock, edited.request.package_lock) == (kept, None)


async def test_a_fork_below_a_disabled_step(run: Run, runtime: WorkflowEngine) -> None:
    """A disabled step above the fork has no exports, and needs none."""
    workflow = a_workflow(
        python_step("one"), python_step("off", options="--disabled"), python_step("three", "return 3")
    )
    first = await run(workflow)
    forked = await start_replay(runtime, await prepare_fork(runtime, first.id, "three"))

    assert [step.status for step in forked.steps] == ["pinned", "disabled", "success"]


async def test_a_fork_with_a_pin(run: Run, runtime: WorkflowEngine) -> None:
    """A pin replaces recorded exports; a step that failed or was not reached needs one."""
    broken = a_workflow(python_step("one"), python_step("two", "1 / 0"), python_step("three", THREE_BODY))
    first = await run(broken)
    with pytest.raises(RequestError, match="no exports of the step two, which is above three"):
        await prepare_fork(runtime, first.id, "three")
    forked = await start_replay(runtime, await prepare_fork(runtime, first.id, "three", pins={"two": 41}))

    assert forked.step("three").return_value == 42
    again = await start_replay(runtime, await prepare_fork(runtime, forked.id, "three", pins={"two": 1}))
    assert again.step("three").return_value == 2


THREE_BODY = "return pd.steps['two']['$return_value'] + 1"


async def test_a_forged_placeholder_reveals_no_secret_to_a_fork(
    run: Run, runtime: WorkflowEngine, project: Project
) -> None:
    """Text of an event that looks like a placeholder stays text in the exports that a fork keeps."""
    forged, key = "⟦secret:env/KEY⟧", "key-0123456789"
    project.variables.set("KEY", key)
    steps = (python_step("one", NAME), python_step("two", "return len(pd.steps['one']['$return_value'])"))
    first = await run(*steps, variables={"KEY": key}, event=an_event({"name": forged}))

    forked = await start_replay(runtime, await prepare_fork(runtime, first.id, "two"))

    assert first.step("two").return_value == len(forged)
    assert forked.step("two").return_value == len(forged)


async def test_a_fork_from_an_unknown_step_lists_the_steps(run: Run, runtime: WorkflowEngine) -> None:
    """An unknown step, also in a pin, is refused with the steps' names."""
    first = await run(THREE)

    for first_step, pins in (("four", {}), ("three", {"four": 1})):
        with pytest.raises(UnknownStepError, match=r"no step 'four'\.\nKnown: one, two, three\."):
            await prepare_fork(runtime, first.id, first_step, pins=pins)


async def test_secrets_of_recorded_exports_stay_hidden(
    run: Run, runtime: WorkflowEngine, directory: LocalDirectory, connect: Callable[..., str]
) -> None:
    """A fork gets the raw exports and redacts their secrets, although no step that runs has the account any more."""
    account = connect("ada", TOKEN)
    workflow = a_workflow(
        python_step("one", "return pd.inputs['slack']['$auth']['oauth_access_token']", options="--app slack"),
        python_step("two", "print(pd.steps['one']['$return_value'])\nreturn len(pd.steps['one']['$return_value'])"),
    )
    first = await run(workflow, external_user_id="ada")
    directory.remove_account(account)
    fork = await prepare_fork(runtime, first.id, "two")
    forked = await start_replay(runtime, fork)

    assert TOKEN not in repr(fork)
    assert forked.step("two").return_value == len(TOKEN)
    assert forked.step("one").exports == first.step("one").exports
    assert TOKEN not in str(forked.to_json())
    kept = await runtime.journal.get_execution(forked.id)
    assert TOKEN not in str(kept and kept.to_json())


async def test_a_run_that_is_triggered_by_a_step_is_replayed_alone(run: Run, runtime: WorkflowEngine) -> None:
    """The replay of a triggered run is not a part of the chain of its first run."""
    first = await run(python_step(), parent="run-of-the-parent", depth=2, below_error_handler=True)
    request = (await prepare_replay(runtime, first.id)).request

    assert (request.parent, request.depth, request.below_error_handler) == (None, 0, False)


async def test_a_replay_of_a_replay_names_the_run_that_it_repeats(run: Run, runtime: WorkflowEngine) -> None:
    """The record of each replay has the id of the run whose event it has, and the trace id of the first run."""
    first = await run(python_step())
    second = await replay(runtime, first.id)
    third = await replay(runtime, second.id)

    assert (third.replay_of, third.trace_id) == (second.id, first.trace_id)


async def test_a_replay_of_a_replay_sends_as_the_first_run_did(run: Run, runtime: WorkflowEngine) -> None:
    """A replay that was refused its calls is run again with them, under the policy of the run that it repeats."""
    first = await run(python_step(), egress="allow=example.com")
    refused = await replay(runtime, (await replay(runtime, first.id)).id)

    sending = (await prepare_replay(runtime, refused.id, sends=True)).request

    assert (sending.policy.mode_text, sending.options.resend) == ("allow=example.com", True)


async def test_an_event_that_was_only_recorded_runs_in_its_replay(run: Run, runtime: WorkflowEngine) -> None:
    """The replay of a request with `x-pd-notrigger`, which ran no step, runs the workflow on its event."""
    first = await run(python_step(), is_only_recorded=True)

    again = await replay(runtime, first.id)

    assert (first.step("code").status, again.step("code").status) == ("not_run", "success")


@pytest.mark.parametrize("key", ["http", "schedule-2"])
async def test_a_replay_has_the_trigger_that_fired(run: Run, runtime: WorkflowEngine, tmp_path: Path, key: str) -> None:
    """The run of a later trigger is replayed with that trigger, on which time limits and the response depend."""
    schedules = (Trigger("schedule", config={"cron": "0 9 * * *"}), Trigger("schedule", config={"cron": "0 10 * * *"}))
    workflow = replace(a_workflow(python_step()), triggers=(*schedules, Trigger("http")))
    source = WorkflowSource(tmp_path / "work.ipynb", "notebook", workflow)
    fired = trigger_keys(workflow)[key]
    emitter_id = None if key == "http" else derive_emitter_id(workflow, key)  # as the server does
    first = await run(fired_by(workflow, fired), source_path=source.path, emitter_id=emitter_id)

    again = (await prepare_replay(runtime, first.id, source=source)).request

    assert again.workflow.trigger == fired


@pytest.fixture
def served_request(tmp_path: Path) -> RunRequest:
    """A request as the server makes it."""
    return RunRequest(
        a_workflow(python_step()),
        an_event(),
        parse_policy("deny"),
        folder=tmp_path,
        base_url="https://flows.example.com/key",
        interface="http",
    )


async def test_a_served_run_is_queued_for_its_server(
    project: Project, directory: LocalDirectory, served_request: RunRequest
) -> None:
    """With a server, the replay is ready for it, with its URLs; its record reports that it is queued and a replay."""
    async with await WorkflowEngine.start(project, directory, origin="serve") as server:
        first = await server.run(served_request)
        async with await WorkflowEngine.start(project, directory) as terminal:
            prepared = await prepare_replay(terminal, first.id)
            queued = await start_replay(terminal, prepared)
        (claimed,) = await server.journal.claim_next()
        ended = await server.continue_run(claimed)

    assert prepared.is_queued
    assert describe_replay(prepared).endswith(", in its server.")
    assert prepared.request.base_url == served_request.base_url
    assert (queued.status, queued.replay_of, queued.trace_id) == ("queued", first.id, first.trace_id)
    assert (ended.id, ended.status, ended.replay_of) == (queued.id, "success", first.id)
    assert ended.context["replay"] is True


async def test_a_full_queue_refuses_a_replay(
    project: Project, directory: LocalDirectory, served_request: RunRequest
) -> None:
    """The replay of a served run waits in the queue of its workflow, or is refused if the queue is full."""
    workflow = a_workflow(python_step(), concurrency=1, queue=1)
    async with await WorkflowEngine.start(project, directory, origin="serve") as server:
        first = await server.run(replace(served_request, workflow=workflow, workflow_id="p_1"))
        waiting = await replay(server, first.id)
        with pytest.raises(QueueFullError):
            await replay(server, first.id)
        assert project.sqlite_path is not None
        with closing(sqlite3.connect(project.sqlite_path)) as connection:
            queues = connection.execute("select queue from runs where id = ?", (waiting.id,)).fetchall()

    assert queues == [("p_1",)]


async def test_without_a_server_a_served_run_is_replayed_here(
    project: Project, directory: LocalDirectory, served_request: RunRequest
) -> None:
    """Without a server, the replay runs in this process, without URLs that lead nowhere."""
    async with await WorkflowEngine.start(project, directory, origin="serve") as server:
        first = await server.run(served_request)
    async with await WorkflowEngine.start(project, directory) as terminal:
        prepared = await prepare_replay(terminal, first.id)
        ended = await start_replay(terminal, prepared)

    assert (prepared.is_queued, prepared.request.base_url) == (False, None)
    assert describe_replay(prepared).endswith(", here.")
    assert ended.status == "success"


async def test_replays_in_terminals_obey_the_limits_of_a_served_workflow(
    project: Project, directory: LocalDirectory, served_request: RunRequest, tmp_path: Path
) -> None:
    """Replays and forks that two processes run at the same time execute one after another."""
    log = tmp_path / "log"
    code = f"import time\nopen({str(log)!r}, 'a').write('+')\ntime.sleep(0.1)\nopen({str(log)!r}, 'a').write('-')"
    limited = replace(served_request, workflow=a_workflow(python_step("one", code), concurrency=1), workflow_id="p_1")
    async with await WorkflowEngine.start(project, directory, origin="serve") as server:
        first = await server.run(limited)
    async with (
        await WorkflowEngine.start(project, directory) as one,
        await WorkflowEngine.start(project, directory) as other,
    ):
        started = [start_replay(engine, await prepare_replay(engine, first.id)) for engine in (one, other)]
        started += [start_replay(engine, await prepare_fork(engine, first.id, "one")) for engine in (one, other)]
        ended = await asyncio.gather(*started)

    assert [each.status for each in ended] == ["success"] * 4
    assert log.read_text() == "+-" * 5


async def test_the_server_queues_every_replay(project: Project, directory: LocalDirectory, tmp_path: Path) -> None:
    """A replay that the server starts, such as from its console, is a run of the server, also of a run of a terminal."""
    async with await WorkflowEngine.start(project, directory) as terminal:
        first = await terminal.run(RunRequest(THREE, an_event(), parse_policy("deny"), folder=tmp_path))
    async with await WorkflowEngine.start(project, directory, origin="serve") as server:
        queued = await start_replay(server, await prepare_fork(server, first.id, "two"))
        claims = await server.journal.claim_next()
        ended = await asyncio.gather(*(server.continue_run(claimed) for claimed in claims))

    assert [(each.id, each.status) for each in ended] == [(queued.id, "success")]
    assert [step.status for step in ended[0].steps] == ["pinned", "success", "success"]


def _update_runs(project: Project, assignment: str) -> None:
    assert project.sqlite_path is not None
    with closing(sqlite3.connect(project.sqlite_path)) as connection, connection:
        connection.execute(f"update runs set {assignment}")

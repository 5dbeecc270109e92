"""The cases of a proof: events and external users."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pdkernel.accounts import LocalDirectory
from pdkernel.actions import Catalog
from pdkernel.annex.proof.comparison import compare_workflows
from pdkernel.annex.proof.side_runner import (
    MAX_USERS_PER_EVENT,
    add_dependents,
    cache_directory,
    describe_unrecorded_call,
    find_cases,
    find_unavailable_actions,
    has_unrecorded_call,
    read_exported_folder,
    resolve_recording_path,
)
from pdkernel.common.clock import ManualClock, SequentialIds
from pdkernel.common.identity import Directory
from pdkernel.errors import OutboundCallRefusedError
from pdkernel.execution import ErrorRecord, StepResult
from pdkernel.model import Step, Trigger, Workflow
from pdkernel.storage import Project
from pdkernel.storage.accounts import Grant
from tests.builders import a_step, a_workflow, an_event, bash_step, go_step, node_step, python_step
from tests.oauth_provider import connect_account, oauth_provider
from tests.render.builders import a_call

USER = python_step("say", options="--app slack")


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Directory]:
    """A directory with more users than a proof runs."""
    with Project.open(tmp_path / ".pdkernel", clock=ManualClock(), ids=SequentialIds()) as project:
        directory = LocalDirectory(project)
        for number in range(MAX_USERS_PER_EVENT + 1):
            directory.add_account(app="slack", credentials={"token": "x"}, external_user_id=f"user{number}")
        yield directory


def save(folder: Path, name: str, **headers: str) -> None:
    """Save an event with *headers*."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(an_event(headers=headers).data))


def found(directory: Directory, folder: Path, step: Step, **named: list[str]) -> list[tuple[str, str | None, str]]:
    """The name, user and environment of each case."""
    cases, _ = find_cases(folder, a_workflow(step), directory, **named)
    return [(case.name, case.external_user_id, case.environment) for case in cases]


def test_each_event_is_run_for_each_user(directory: Directory, tmp_path: Path) -> None:
    """Without named users the first users of the directory are taken; a user in the event has precedence."""
    save(tmp_path / "events", "b")
    save(tmp_path / "events", "a", **{"x-pd-external-user-id": "ada", "x-pd-environment": "production"})

    assert found(directory, tmp_path / "events", USER) == [
        ("a", "ada", "production"),
        *(("b", f"user{number}", "development") for number in range(MAX_USERS_PER_EVENT)),
    ]
    assert found(directory, tmp_path / "events", USER, users=["eve"], names=["b"]) == [("b", "eve", "development")]


@pytest.mark.parametrize(
    ("step", "count"),
    [
        (python_step("say"), 1),
        (python_step("say", options="--app slack=apn_1"), 1),
        (replace(USER, disabled=True), 1),
        (python_step("say", "return pd.steps['trigger']['event']['headers']['x-pd-external-user-id']"), 5),
        (python_step("say", "externalUser = 1"), 5),
        (python_step("say", options="--prop 'id={{ steps.trigger.context.external_user_id }}'"), 5),
        (a_step("%%pdstep say --uses slack-send@1.0.0\ntext: Hi\n"), 5),
        (USER, 5),
    ],
)
def test_only_a_workflow_of_users_is_run_for_each(directory: Directory, tmp_path: Path, step: Step, count: int) -> None:
    """A workflow that uses no external user runs once for an event, without a user."""
    save(tmp_path / "events", "a")

    cases = found(directory, tmp_path / "events", step)

    assert len(cases) == count
    assert (cases[0][1] is None) is (count == 1)


def test_an_empty_directory_has_a_case_without_a_user(tmp_path: Path) -> None:
    """Both sides refuse a caller without a user, which is compared too."""
    save(tmp_path / "events", "a")
    with Project.open(tmp_path / ".pdkernel") as project:
        assert found(LocalDirectory(project), tmp_path / "events", USER) == [("a", None, "development")]


def test_files_that_are_not_events_are_noted(directory: Directory, tmp_path: Path) -> None:
    """A broken file and a missing test event have a note; without any case the note has a command."""
    save(tmp_path / "events", "a")
    (tmp_path / "events" / "bad.json").write_text("[")
    (tmp_path / "events" / "a.recorded.jsonl").write_text("")

    cases, notes = find_cases(tmp_path / "events", a_workflow(python_step()), directory)
    none, missing = find_cases(tmp_path / "events", a_workflow(python_step()), directory, names=["gone"])

    assert [case.name for case in cases] == ["a"]
    assert [note.startswith("Skipped, not an event: ") for note in notes] == [True]
    assert none == []
    assert missing[0] == "The test event gone is not in events/."
    assert "compared only the workflow definitions" in missing[1]
    assert find_cases(tmp_path / "nothing", a_workflow(), directory)[0] == []


def test_the_recording_of_an_event() -> None:
    """The recording of an event is in the folder of the event."""
    assert resolve_recording_path(Path("events/a.b.json")) == Path("events/a.b.recorded.jsonl")


def test_answers_do_not_change_during_a_proof(tmp_path: Path) -> None:
    """An account that is connected between two runs does not make them differ; other questions have their own answers."""
    clock = ManualClock()
    with Project.open(tmp_path / ".pdkernel", clock=clock, ids=SequentialIds()) as project:
        directory = LocalDirectory(project)
        first = directory.add_account(app="slack", credentials={"token": "one"}, external_user_id="ada")
        project.grants.set(first.id, Grant("refresh", None, clock.now()))
        cached = cache_directory(directory, project)
        before = cached.newest_account("ada", "development", "slack"), cached.credentials(first.id)
        directory.add_account(app="slack", credentials={"token": "two"}, external_user_id="ada")
        directory.add_account(app="slack", credentials={"token": "three"}, external_user_id="bob")

        assert (cached.newest_account("ada", "development", "slack"), cached.credentials(first.id)) == before
        assert before[0] is not None
        assert before[0].id == first.id
        assert before[1]["token"] == "one"
        assert cached.newest_account("bob", "development", "slack") is not None
        assert cached.newest_account("ada", "production", "slack") is None
        assert [account.app for account in cached.accounts(external_user_id="bob")] == ["slack"]
        assert list(cached.accounts(external_user_id="eve")) == []
        assert cached.project_id == directory.project_id
        assert cached.report_unauthorized(first.id, clock.now()) is False
        assert directory.report_unauthorized(first.id, clock.now()) is True  # outside of the proof
        with cached.nonblocking():
            assert cached.newest_account("eve", "development", "slack") is None


def test_a_proof_refreshes_no_token(tmp_path: Path) -> None:
    """A token that is due for a refresh is used as it is stored: a proof changes no account and sends no request."""
    clock = ManualClock()
    with oauth_provider() as provider, Project.open(tmp_path / ".pdkernel", clock=clock) as project:
        account = connect_account(project, provider)
        stored = project.accounts.credentials(account)
        clock.advance(3600)

        found = cache_directory(LocalDirectory(project), project).credentials(account)

        assert (found, provider.requests) == (stored, [])
        assert LocalDirectory(project).credentials(account) != stored  # outside of the proof


FIRST = python_step("first")


@pytest.mark.parametrize(
    ("step", "depends"),
    [
        (python_step("next", "return pd.steps['first']"), True),
        (python_step("next", "return pd.steps['other']"), False),
        (python_step("next", "return pd.steps[name]"), True),
        (python_step("next", "steps = pd.steps\nreturn steps"), True),
        (python_step("next", "return getattr(pd, 'steps')"), True),
        (python_step("next", "return 1"), False),
        (node_step("next", "return steps.first.x"), True),
        (node_step("next", "return steps.other.x"), False),
        (node_step("next", "return steps[name]"), True),
        (node_step("next", "return Object.keys(steps)"), True),
        (node_step("next", "// all steps\nreturn 1"), False),
        (node_step("next", "/* steps */ return 'https://steps.example'"), False),
        (bash_step("next", "echo $PIPEDREAM_STEPS"), True),
        (bash_step("next", "echo steps"), False),
        (go_step("next", 'fmt.Println(pd.Steps["first"])', "fmt"), True),
        (a_step("%%pdstep next --uses a-b@1.0.0\ntext: '{{steps.first.x}}'\n"), True),
        (a_step("%%pdstep next --uses a-b@1.0.0\ntext: '{{steps.other.x}}'\n"), False),
        (replace(node_step("next"), props={"text": "{{ 1; 2 }}"}), True),
    ],
)
def test_a_step_depends_on_what_it_reads(step: Step, depends: bool) -> None:
    """A step depends on a step that it reads by name, and on all steps above if it reads `steps` without a name."""
    found = add_dependents(a_workflow(FIRST, step), {"first": "why"})

    assert ("next" in found) is depends
    assert found["first"] == "why"


def test_dependents_of_dependents_are_excluded() -> None:
    """Exclusion follows the order of the steps; a disabled step is not excluded, and a step above is not a dependent."""
    steps = (
        python_step("above", "return pd.steps['first']"),
        FIRST,
        python_step("second", "return pd.steps['first']"),
        python_step("third", "return pd.steps['second']"),
        replace(python_step("off", "return pd.steps['first']"), disabled=True),
    )

    assert add_dependents(a_workflow(*steps), {"first": "why"}) == {
        "first": "why",
        "second": "The step depends on first, which is not compared.",
        "third": "The step depends on second, which is not compared.",
    }
    assert add_dependents(a_workflow(*steps), {}) == {}


def test_an_unrecorded_call() -> None:
    """A denied call, or the error of a refused call, excludes its step; other errors and calls do not."""
    denied = StepResult("a", "success", requests=(a_call(), a_call(method="GET", outcome="denied")))
    refused = StepResult("a", "error", error=ErrorRecord(OutboundCallRefusedError.code, "OutboundCallRefused", "m"))
    failed = StepResult(
        "a", "error", error=ErrorRecord("step_failed", "Error", "m"), requests=(a_call(outcome="failed"),)
    )

    assert [has_unrecorded_call(each) for each in (denied, refused, failed, StepResult("a", "success"))] == [
        True,
        True,
        False,
        False,
    ]
    assert describe_unrecorded_call(denied, Path("events/x.recorded.jsonl"), "pdkernel run") == (
        "GET https://slack.com/api/chat.postMessage is not in events/x.recorded.jsonl. Record the call: pdkernel run"
    )
    assert describe_unrecorded_call(refused, Path("x.recorded.jsonl"), "c").startswith("a call is not in")


def test_an_action_that_is_missing_excludes_its_step(tmp_path: Path) -> None:
    """A step whose action is not installed is excluded with the reason; a disabled step and a built-in action are not."""
    far = a_step("%%pdstep far --uses slack-send-message@0.0.20\ntext: hi\n")
    near = a_step("%%pdstep near --uses filter-end-workflow@0.0.1\nreason: x\n")
    catalog = Catalog.without_project(tmp_path / ".pdkernel", environ={})

    found = find_unavailable_actions(a_workflow(far, near, replace(far, name="off", disabled=True), FIRST), catalog)

    assert list(found) == ["far"]
    assert "slack-send-message" in found["far"]


HTTP = Trigger(auth="bearer", token_env="TOKEN", response="custom")
SYNCED_HTTP = replace(HTTP, config={"id": "hi_1"})
SCHEDULE = Trigger("schedule", config={"id": "ti_1", "cron": "0 * * * *"})


@pytest.mark.parametrize(
    ("notebook", "ids", "differing"),
    [
        ([HTTP], "", []),
        ([HTTP], "{id: hi_1}", []),
        ([SYNCED_HTTP], "{id: hi_1}", []),
        ([HTTP, SCHEDULE], "{id: ti_1}", []),
        ([SYNCED_HTTP, SCHEDULE], "{id: ti_1}, {id: hi_1}", []),
        ([SCHEDULE, SYNCED_HTTP], "{id: ti_1}", ["triggers[1]"]),
        ([SYNCED_HTTP], "{id: hi_1}, {id: ti_1}", ["triggers[1]"]),
        ([SCHEDULE], "{id: ti_2}", ["triggers[0].id", "triggers[0].cron"]),
    ],
    ids=[
        "not synced",
        "id unknown",
        "the same",
        "one is new",
        "another order",
        "one is lost",
        "one more",
        "another id",
    ],
)
def test_triggers_are_compared_by_their_ids(
    tmp_path: Path, notebook: list[Trigger], ids: str, differing: list[str]
) -> None:
    """Without `pdkernel.yaml`, an id that the folder lost, changed or added is a difference, and the settings of a trigger are not."""
    (tmp_path / "workflow.yaml").write_text(f"schema: workflow/2022.04\nname: W\ntriggers: [{ids}]\n")
    workflow = Workflow("W", triggers=tuple(notebook), extra={"schema": "workflow/2022.04"})

    read = read_exported_folder(tmp_path, workflow, None)

    found = [place.path for place in compare_workflows(workflow, read.workflow, is_patched=True)]
    assert sorted(found) == sorted(differing)

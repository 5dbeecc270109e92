"""Triggers of workflows are turned on and off."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pdkernel.actions import Component
from pdkernel.common.clock import ManualClock
from pdkernel.egress import parse_policy
from pdkernel.engine.event_sources import SourceEvent, SourceResult
from pdkernel.errors import PdkernelError, RequestError
from pdkernel.event import Event
from pdkernel.execution import StepResult
from pdkernel.files.definition import Sidecar
from pdkernel.files.source import WorkflowSource, load_source
from pdkernel.model import Trigger, Workflow
from pdkernel.operations.triggers import (
    build_source_request,
    describe_events,
    disable_triggers,
    enable_triggers,
    find_unserved_emitters,
    list_triggers,
    workflow_id,
)
from pdkernel.storage import Project, Schedule
from tests.files.definition.builders import synced
from tests.notebook_files import notebook_of
from tests.operations.importer.import_helpers import HEAD

STEP = "%%pdstep one\ndef handler(pd):\n    return 1"
REPORTS = "name: Reports\ntrigger: {type: schedule, cron: '0 9 * * *', timezone: Asia/Kolkata}"


def write(folder: Path, header: str = REPORTS, name: str = "reports.ipynb") -> None:
    """Save a notebook with that header."""
    notebook_of(folder / name, f"%%pdworkflow\n{header}", STEP)


@pytest.mark.parametrize("name", ["Reports", "reports", "reports.ipynb", "./reports.ipynb"])
def test_a_workflow_is_enabled(project: Project, tmp_path: Path, name: str) -> None:
    """A workflow is named by its name or its path; its schedule is due at its next time."""
    write(tmp_path)

    (view,) = enable_triggers(project, name, tmp_path)

    assert view.is_enabled
    assert view.state is not None
    assert view.state.due == datetime(2026, 1, 1, 3, 30, tzinfo=UTC)
    assert view.state.settings == {"cron": "0 9 * * *", "timezone": "Asia/Kolkata"}
    assert (view.state.type, view.state.source) == ("schedule", str((tmp_path / "reports.ipynb").resolve()))


def test_enabling_twice_keeps_the_times(project: Project, tmp_path: Path) -> None:
    """An interval counts from the first time that a trigger was enabled, until it is disabled."""
    write(tmp_path, "name: Often\ntrigger: {type: schedule, interval_seconds: 60}")
    (first,) = enable_triggers(project, "Often", tmp_path)
    assert isinstance(project.clock.source, ManualClock)
    project.clock.source.advance(10)

    (again,) = enable_triggers(project, "Often", tmp_path)
    disable_triggers(project, "Often", tmp_path)
    (anew,) = enable_triggers(project, "Often", tmp_path)

    assert first.state is not None
    assert first.state.due is not None
    assert again.state == first.state
    assert anew.state is not None
    assert anew.state.due == first.state.due + timedelta(seconds=10)


def test_an_id_names_a_workflow(project: Project, tmp_path: Path) -> None:
    """A workflow is named by its id, also one in another folder that is on."""
    write(tmp_path)
    (view,) = list_triggers(project, [tmp_path])

    enable_triggers(project, view.workflow_id, tmp_path)
    (elsewhere,) = list_triggers(project, [tmp_path / ".pdkernel"])
    (off,) = disable_triggers(project, view.workflow_id, tmp_path / ".pdkernel")

    assert elsewhere.description == "schedule 0 9 * * * (Asia/Kolkata)"
    assert not off.is_enabled
    assert off.state is not None
    assert off.state.due is None
    assert list_triggers(project, [tmp_path / ".pdkernel"]) == []


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("name: Reports\ntrigger: {type: schedule, cron: '0 0 31 4 *'}", "matches no time"),
        ("name: Reports\ntrigger: {type: schedule, cron: '0 9 * * *', timezone: Mars/Base}", "not a known time zone"),
        ("name: Reports\ntrigger: {type: schedule, id: ti_a}", "has no times"),
        ("name: Reports\ntrigger: {type: source, id: dc_a}", "is not an action's key"),
        ("name: Reports\ntrigger: {type: http}", "has only HTTP triggers"),
        ("name: Reports\ntrigger: {type: emit, id: sub_a}", "names no workflows"),
        ("name: Other\ntrigger: {type: email}", "There is no workflow 'Reports'"),
    ],
)
def test_what_cannot_fire_is_not_enabled(project: Project, tmp_path: Path, header: str, message: str) -> None:
    """A trigger without valid times, a workflow without such a trigger and an unknown workflow are errors."""
    write(tmp_path, header, "a.ipynb")

    with pytest.raises(PdkernelError, match=message) as refused:
        enable_triggers(project, "a.ipynb" if "Reports" in header else "Reports", tmp_path)

    assert refused.value.exit_status == 2
    assert not project.workflow_triggers.list_states()


def test_two_workflows_with_one_name(project: Project, tmp_path: Path) -> None:
    """A name of two workflows is an error that lists both."""
    write(tmp_path)
    write(tmp_path, name="copy.ipynb")

    with pytest.raises(RequestError, match=r"Several workflows .*copy\.ipynb, .*reports\.ipynb"):
        enable_triggers(project, "Reports", tmp_path)


def test_nothing_to_disable(project: Project, tmp_path: Path) -> None:
    """A workflow whose triggers were never on cannot be disabled."""
    write(tmp_path)

    with pytest.raises(RequestError, match="No trigger of 'Reports' is on"):
        disable_triggers(project, "Reports", tmp_path)


def test_two_workflows_with_one_name_are_not_disabled(project: Project, tmp_path: Path) -> None:
    """A name of two workflows that are on turns neither off; two triggers of one workflow are turned off together."""
    write(tmp_path, "name: Reports\ntriggers: [{type: email}, {type: schedule, interval_seconds: 60}]")
    assert len(enable_triggers(project, "reports.ipynb", tmp_path)) == 2
    write(tmp_path, name="copy.ipynb")
    enable_triggers(project, "copy.ipynb", tmp_path)

    with pytest.raises(RequestError, match="Several workflows are called 'Reports'"):
        disable_triggers(project, "Reports", tmp_path)

    assert [view.is_enabled for view in disable_triggers(project, "reports.ipynb", tmp_path)] == [False, False]
    assert [view.source.name for view in list_triggers(project, []) if view.is_enabled] == ["copy.ipynb"]


def test_a_trigger_is_described(project: Project, tmp_path: Path) -> None:
    """Each trigger shows its type and what makes it fire; a trigger that the workflow has no more shows its key."""
    others = (
        "{type: source, uses: rss-new-item@1.0.0}, {type: errors}, {type: emit, workflows: [Orders]}, {type: email}"
    )
    write(tmp_path, f"name: Reports\ntriggers: [{{type: schedule, interval_seconds: 60}}, {others}]")
    enabled = enable_triggers(project, "Reports", tmp_path)
    (tmp_path / "reports.ipynb").unlink()

    gone = list_triggers(project, [])

    assert {view.key: view.description for view in enabled} == {
        "schedule": "schedule every 60 s",
        "source": "source rss-new-item@1.0.0",
        "errors": "errors of all workflows",
        "emit": "events of Orders",
        "email": "email",
    }
    assert sorted(view.description for view in gone) == sorted(view.key for view in enabled)


def test_a_path_that_does_not_exist_is_refused(project: Project, tmp_path: Path) -> None:
    """A wrong path is not an empty list."""
    with pytest.raises(RequestError, match="gone does not exist"):
        list_triggers(project, [tmp_path / "gone"])


def write_unanswered(folder: Path) -> None:
    """Save the notebook with a `pdkernel.yaml` in which the account of its step is unanswered."""
    write(folder)
    (folder / "reports.pdkernel.yaml").write_text("steps: {one: {accounts: {slack: unanswered}}}")


def test_a_workflow_with_an_unanswered_account_is_listed(project: Project, tmp_path: Path) -> None:
    """The triggers of a workflow are shown before its account questions are answered."""
    write_unanswered(tmp_path)

    (view,) = list_triggers(project, [tmp_path])

    assert (view.workflow_name, view.is_enabled) == ("Reports", False)


def test_a_workflow_with_an_unanswered_account_is_not_enabled(project: Project, tmp_path: Path) -> None:
    """If the named workflow has an unanswered account question, the error names the question."""
    write_unanswered(tmp_path)

    with pytest.raises(RequestError, match=r"steps\.one\.accounts\.slack is unanswered"):
        enable_triggers(project, "Reports", tmp_path)


def test_a_workflow_shows_its_own_states(project: Project, tmp_path: Path) -> None:
    """A trigger that another workflow has under the same key does not make a trigger look enabled."""
    write(tmp_path)
    write(tmp_path, "name: Other\ntrigger: {type: schedule, cron: '0 9 * * *'}", "other.ipynb")
    enable_triggers(project, "Other", tmp_path)

    found = {view.workflow_name: view.is_enabled for view in list_triggers(project, [tmp_path])}

    assert found == {"Other": True, "Reports": False}


@pytest.mark.parametrize("is_active", [True, False])
def test_what_an_enabled_trigger_keeps(project: Project, tmp_path: Path, is_active: bool) -> None:
    """A trigger that is on again keeps its last run; a source that is active at its service keeps its timer."""
    write(tmp_path, "name: New\ntrigger: {type: source, uses: github-new-issue@1.0.0}")
    (view,) = enable_triggers(project, "New", tmp_path)
    assert view.state is not None
    fired, timer = datetime(2026, 1, 1, tzinfo=UTC), Schedule(interval_s=60)
    stopped = replace(view.state, enabled=False, schedule=timer, fired=fired, run_id="run", is_active=is_active)
    project.workflow_triggers.save([stopped])

    (again,) = enable_triggers(project, "New", tmp_path)

    assert again.state is not None
    assert (again.state.fired, again.state.run_id) == (fired, "run")
    assert (again.state.is_active, again.state.schedule) == (is_active, timer if is_active else Schedule())


def test_the_id_of_a_workflow(project: Project, tmp_path: Path) -> None:
    """A synced folder's name ends with the id; a notebook of that name has an id of its own."""
    folder = synced(tmp_path / "flow-p_Ab12Cd3", f"{HEAD}- namespace: one\n  uses: slack-send@0.0.1\n")
    write(tmp_path, name="flow-p_Ab12Cd3.ipynb")

    assert workflow_id(project, load_source(folder, unanswered="keep")) == "p_Ab12Cd3"
    assert workflow_id(project, load_source(tmp_path / "flow-p_Ab12Cd3.ipynb")) != "p_Ab12Cd3"


def test_emitters_that_are_not_served(project: Project, tmp_path: Path) -> None:
    """Of the workflows that an emit trigger names, those are listed that no served workflow is."""
    write(tmp_path, "name: Listen\ntrigger: {type: emit, workflows: [Reports, Gone]}", "listen.ipynb")
    write(tmp_path)
    (view,) = enable_triggers(project, "Listen", tmp_path)

    assert find_unserved_emitters(view, [("p_1", load_source(tmp_path / "reports.ipynb"))]) == ["Gone"]


def test_emitters_are_named_from_the_folder_of_the_listener(project: Project, tmp_path: Path) -> None:
    """A path in an emit trigger is relative to the workflow with the trigger, not to the current folder."""
    (tmp_path / "deep").mkdir()
    write(
        tmp_path,
        "name: Listen\ntrigger: {type: emit, workflows: [deep/reports.ipynb, gone/reports.ipynb]}",
        "listen.ipynb",
    )
    write(tmp_path / "deep")
    (view,) = enable_triggers(project, "Listen", tmp_path)

    assert find_unserved_emitters(view, [("p_1", load_source(tmp_path / "deep/reports.ipynb"))]) == [
        "gone/reports.ipynb"
    ]


TRIGGER = Trigger(type="source", config={"uses": "depot-new-parcel@0.1.0"})


def test_a_request_identifies_the_state_by_the_workflows_path(tmp_path: Path) -> None:
    """Notebook and command use the same state: the key has the path of the notebook."""
    source = WorkflowSource(tmp_path / "a.ipynb", "notebook", Workflow("Parcels", triggers=(TRIGGER,)))

    request = build_source_request(
        source, policy=parse_policy("deny"), external_user_id="ada", environment="development", event={"body": 1}
    )

    assert request.owner_key == str(tmp_path / "a.ipynb")
    assert (request.trigger, request.folder, request.event) == (TRIGGER, tmp_path, {"body": 1})


def test_a_request_has_what_is_beside_the_workflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of a relative path is absolute, and the sources of actions are those of the `pdkernel.yaml`."""
    monkeypatch.chdir(tmp_path)
    workflow, sidecar = Workflow("Parcels", triggers=(TRIGGER,)), Sidecar(actions=("../components", "npm"))
    source = WorkflowSource(Path("deep/a.ipynb"), "notebook", workflow, sidecar)

    request = build_source_request(
        source, policy=parse_policy("deny"), external_user_id=None, environment="production", install=False
    )

    assert (request.folder, request.action_sources) == (tmp_path / "deep", ("../components", "npm"))
    assert (request.environment, request.install, request.event) == ("production", False, None)


def test_a_workflow_without_an_event_source_is_refused(tmp_path: Path) -> None:
    """An HTTP trigger is not an event source."""
    source = WorkflowSource(tmp_path, "folder", Workflow("Web"))

    with pytest.raises(RequestError, match="is of type http, not an event source"):
        build_source_request(source, policy=parse_policy("deny"), external_user_id=None, environment="development")


@pytest.mark.parametrize(
    ("summaries", "lines"),
    [
        ([], ["0 new events, 3 emitted before."]),
        (["Parcel 7"], ["1. Parcel 7", "1 new event, 3 emitted before."]),
        ([None, "b"], ["1. event", "2. b", "2 new events, 3 emitted before."]),
    ],
)
def test_new_events_are_listed_and_counted(summaries: list[str | None], lines: list[str]) -> None:
    """Each new event has a numbered line with its summary; the last line counts new and repeated events."""
    events = tuple(SourceEvent(Event({}, is_http=False), None, summary, None) for summary in summaries)
    component = Component(
        key="depot-new-parcel", version="0.1.0", app="depot", name="New", description="", source="folder"
    )

    assert describe_events(SourceResult(component, events, 3, True, StepResult("source", "success"), None)) == lines

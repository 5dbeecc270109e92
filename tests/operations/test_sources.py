"""Requests to run event sources, and their reports."""

from __future__ import annotations

from pathlib import Path

import pytest

from pdkernel.actions import Component
from pdkernel.egress import parse_policy
from pdkernel.engine.event_sources import SourceEvent, SourceResult
from pdkernel.errors import RequestError
from pdkernel.event import Event
from pdkernel.execution import StepResult
from pdkernel.files.definition import Sidecar
from pdkernel.files.source import WorkflowSource
from pdkernel.model import Trigger, Workflow
from pdkernel.operations.sources import build_source_request, describe_events

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

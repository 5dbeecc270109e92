"""Events of the platform's REST API as saved events."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pdkernel.accounts.sdk import Sdk
from pdkernel.accounts.workflow_api import WorkflowApi
from pdkernel.annex.migration.events import RescuedEvent, fetch_events, find_source_ids, save_events
from pdkernel.event import Event
from pdkernel.model import Trigger, Workflow
from pdkernel.operations.events import EventLibrary
from tests.accounts.upstream import Upstream

REQUEST: dict[str, Any] = {
    "method": "POST",
    "path": "/orders",
    "headers": {
        "Authorization": "Bearer planted-0123456789",
        "cookie": "session=planted-0123456789",
        "x-hub-signature-256": "sha256=planted-0123456789",
        "content-type": "application/json",
    },
    "body": {"id": 1},
}


@pytest.fixture
def api(upstream: Upstream) -> WorkflowApi:
    """The API with a workflow that has two failed runs, a source with one event, and two emitted events."""
    error = {"code": "InternalFailure", "ts": "2026-11-26T06:06:56.077Z", "stack": "..."}
    upstream.workflows["p_1"] = {"steps": [], "triggers": []}
    upstream.events = {
        "workflows/p_1/$errors": [
            {"id": "1606370816223-0", "event": {"original_event": REQUEST, "original_context": {}, "error": error}},
            {"id": "1606370816100-0", "event": {"original_event": "a text", "error": error}},
        ],
        "sources/dc_1": [{"id": "1606370816000-0", "event": {"original_event": REQUEST, "text": "hi"}}],
        "workflows/p_1": [
            {"id": "1606370815000-0", "event": {"raw_event": {"name": "Luke"}}},
            {"id": "1606370814000-0", "event": {"name": "Leia"}},
        ],
    }
    return WorkflowApi(Sdk(upstream.login))


def saved_in(folder: Path) -> dict[str, Any]:
    """The saved events of a folder by name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted((folder / "events").glob("*.json"))}


def test_events_of_every_list_are_saved(api: WorkflowApi, tmp_path: Path) -> None:
    """Events of failed runs, of sources and of emits are saved under their ids; an event that is not an object is skipped."""
    saved = save_events(list(fetch_events(api, "p_1", ["dc_1"])), EventLibrary(tmp_path))

    found = saved_in(tmp_path)
    assert list(found) == [
        "emitted-1606370814000-0",
        "emitted-1606370815000-0",
        "failed-1606370816223-0",
        "source-1606370816000-0",
    ]
    assert found["emitted-1606370815000-0"] == {"name": "Luke"}
    assert found["failed-1606370816223-0"]["body"] == {"id": 1}
    assert [(each.name, each.error) for each in saved.skipped] == [("failed-1606370816100-0", "InternalFailure")]


def test_headers_are_masked(api: WorkflowApi, tmp_path: Path) -> None:
    """Credentials, cookies and signatures are masked, also in a request inside an event; other headers stay."""
    save_events(list(fetch_events(api, "p_1", ["dc_1"])), EventLibrary(tmp_path))

    found = saved_in(tmp_path)
    assert "planted" not in json.dumps(found)
    for event in (found["failed-1606370816223-0"], found["source-1606370816000-0"]["original_event"]):
        assert event["headers"] == {
            "Authorization": "***",
            "cookie": "***",
            "x-hub-signature-256": "***",
            "content-type": "application/json",
        }


def test_a_second_call_adds_nothing(api: WorkflowApi, tmp_path: Path) -> None:
    """Saved events stay as they are, with changes that a person made."""
    library = EventLibrary(tmp_path)
    save_events(list(fetch_events(api, "p_1", ["dc_1"])), library)
    library.save("failed-1606370816223-0", Event({"body": "edited"}))

    again = save_events(list(fetch_events(api, "p_1", ["dc_1"])), library)

    assert (again.added, len(again.known)) == ((), 4)
    assert saved_in(tmp_path)["failed-1606370816223-0"] == {"body": "edited"}


def test_an_id_cannot_leave_the_folder(upstream: Upstream, tmp_path: Path) -> None:
    """An id of the API with separators is a name inside the folder."""
    upstream.events["workflows/p_1/$errors"] = [{"id": "../../x", "event": {"original_event": {}}}]

    save_events(list(fetch_events(WorkflowApi(Sdk(upstream.login)), "p_1", [])), EventLibrary(tmp_path))

    assert [path.parent for path in tmp_path.rglob("*.json")] == [tmp_path / "events"]


def test_only_sources_have_a_list() -> None:
    """HTTP endpoints and schedules have no list of events."""
    ids = ("hi_1", "dc_1", "ti_1", "d_1", "dc_2")
    workflow = Workflow("Orders", triggers=tuple(Trigger(config={"id": each}) for each in ids))

    assert find_source_ids(workflow) == ("dc_1", "dc_2")
    assert find_source_ids(None) == ()


def fetched(upstream: Upstream, path: str, *items: dict[str, Any]) -> list[RescuedEvent]:
    """The events of one list."""
    upstream.workflows["p_1"] = {"steps": [], "triggers": []}
    upstream.events = {path: list(items)}
    return list(fetch_events(WorkflowApi(Sdk(upstream.login)), "p_1", []))


def test_an_event_that_is_listed_twice_is_saved_once(upstream: Upstream, tmp_path: Path) -> None:
    """The second event of a name is known; an event without an id has a name."""
    item = {"event": {"original_event": {"body": 1}}}

    saved = save_events(fetched(upstream, "workflows/p_1/$errors", item, item), EventLibrary(tmp_path))

    assert [[each.name for each in part] for part in (saved.added, saved.known)] == [["failed-unknown"]] * 2


def test_an_emitted_event_is_unpacked_only_if_it_is_alone(upstream: Upstream) -> None:
    """An object with other keys beside `raw_event` is the event itself."""
    event = {"raw_event": {"name": "Luke"}, "other": 1}

    (found,) = fetched(upstream, "workflows/p_1", {"id": "1", "event": event})

    assert found.event is not None
    assert found.event.data == event


def test_headers_of_requests_deep_inside_are_masked(upstream: Upstream) -> None:
    """A request in a list of an object in an event has masked headers too."""
    inside = {"batch": {"requests": [REQUEST]}}

    (found,) = fetched(upstream, "workflows/p_1", {"id": "1", "event": inside})

    assert found.event is not None
    assert "planted" not in json.dumps(dict(found.event.data))


def test_the_error_of_a_failed_run(upstream: Upstream) -> None:
    """Name, code and message of the error, each word once."""
    error = {"name": "TypeError", "code": "TypeError", "message": "x is undefined"}

    (found,) = fetched(upstream, "workflows/p_1/$errors", {"id": "1", "event": {"original_event": {}, "error": error}})

    assert found.error == "TypeError: x is undefined"

"""Saved events, and the check of events against a workflow's contract."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from pdkernel.errors import EventError, RequestError
from pdkernel.event import Event
from pdkernel.execution import ErrorRecord
from pdkernel.files.source import WorkflowSource
from pdkernel.model import JSON, Step, Trigger, Workflow
from pdkernel.operations import events as operations
from pdkernel.operations.events import (
    EventLibrary,
    EventLike,
    check_contract,
    check_shape_options,
    compare_events,
    compare_with_saved_events,
    expand_event_names,
    find_error_event,
    infer_event_shape,
    resolve_event,
)
from tests.render.builders import an_execution

GREET = Step(
    "greet", "python", source="def handler(pd):\n    return pd.steps['trigger']['event']['body']['name'].upper()\n"
)
WORKFLOW = Workflow("Greeting", steps=(GREET,))


def save_at(library: EventLibrary, name: str, body: object, *, seconds: int) -> None:
    """Save an event that was modified *seconds* after the epoch."""
    library.folder.mkdir(exist_ok=True)
    path = library.folder / f"{name}.json"
    path.write_text(json.dumps({"method": "POST", "body": body}))
    os.utime(path, (seconds, seconds))


@pytest.fixture
def library(tmp_path: Path) -> EventLibrary:
    """A library without events."""
    return EventLibrary(tmp_path)


def test_a_library_without_a_folder_has_no_events(library: EventLibrary) -> None:
    """A library whose folder does not exist has no names and no data."""
    assert library.names() == []
    assert library.load_newest() == {}


def test_an_event_is_saved_with_masked_headers(library: EventLibrary) -> None:
    """A saved event has the masked value of a secret header, and loads by its name."""
    path = library.save("first", Event({"headers": {"authorization": "Bearer abc"}, "body": 1}))

    assert path == library.folder / "first.json"
    assert "abc" not in path.read_text()
    assert "Zoë" in library.save("second", Event({"body": "Zoë"})).read_text(encoding="utf-8")
    assert library.load("first")[1].data["body"] == 1


def test_an_event_is_loaded_from_a_path(library: EventLibrary, tmp_path: Path) -> None:
    """The path of a file names an event, and its name is the file's without the suffix."""
    (tmp_path / "other.json").write_text('{"body": 2}')

    assert library.load("other.json")[0] == "other"


def test_a_saved_event_comes_before_a_file_of_its_name(
    library: EventLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of the current folder does not hide the saved event of that name."""
    library.save("first.json", Event({"body": "saved"}))
    (tmp_path / "first").write_text('{"body": "file"}')
    monkeypatch.chdir(tmp_path)

    assert (library.names(), library.load("first")[1].data["body"]) == (["first"], "saved")


@pytest.mark.parametrize("name", ["second", "x" * 300])
def test_an_unknown_event_is_refused_with_the_known_names(library: EventLibrary, name: str) -> None:
    """The error for an unknown name, also for a text that is too long for a file name, lists the saved events."""
    library.save("first", Event({}))

    with pytest.raises(EventError, match=rf"There is no event '{name}'. Saved events: first."):
        library.load(name)


@pytest.mark.parametrize("name", ["../up", "", ".hidden", "a..b"])
def test_a_name_that_leaves_the_folder_is_refused(library: EventLibrary, name: str) -> None:
    """A name that is blank, hidden or leads out of the folder is not saved."""
    with pytest.raises(EventError, match="is not a valid event name"):
        library.save(name, Event({}))


def test_an_event_that_cannot_be_written_is_refused(library: EventLibrary) -> None:
    """The error names the file, the reason and the folder."""
    library.folder.write_text("")

    with pytest.raises(EventError, match=r"Cannot save the event as one\.json: File exists\.") as refused:
        library.save("one", Event({}))

    assert refused.value.fix == "Make events/ a writable folder, or choose another name."


def test_the_newest_events_come_first(library: EventLibrary) -> None:
    """Events are sorted by their time of change, and unreadable files are left out."""
    save_at(library, "old", 1, seconds=1)
    save_at(library, "new", 2, seconds=2)
    (library.folder / "broken.json").write_text("{")

    assert list(library.load_newest()) == ["new", "old"]


def test_a_large_event_is_not_compared(library: EventLibrary) -> None:
    """A file above `MAX_EVENT_BYTES` is left out of comparisons."""
    save_at(library, "large", "x" * operations.MAX_EVENT_BYTES, seconds=1)

    assert library.load_newest() == {}


def test_a_table_of_an_event_has_no_secret() -> None:
    """The table of an event masks headers like the other views."""
    event = operations.TestEvent({"headers": {"authorization": "Bearer abc", "x": "y"}})

    shown = event.frame().to_csv()

    assert "Bearer abc" not in shown
    assert "***" in shown


def test_only_the_newest_events_are_compared(library: EventLibrary) -> None:
    """Of more events than the limit, the oldest are left out of comparisons."""
    for number in range(operations.MAX_COMPARED_EVENTS + 2):
        save_at(library, f"event{number}", number, seconds=number + 1)

    found = list(library.load_newest())

    assert len(found) == operations.MAX_COMPARED_EVENTS
    assert (found[0], found[-1]) == (f"event{operations.MAX_COMPARED_EVENTS + 1}", "event2")


def test_a_changed_event_is_read_again(library: EventLibrary) -> None:
    """The data of a file that changed is new."""
    save_at(library, "a", 1, seconds=1)
    library.load_newest()
    save_at(library, "a", 2, seconds=2)

    assert library.load_newest()["a"]["body"] == 2


def test_a_shape_has_the_paths_of_all_events_and_no_secret() -> None:
    """The shape of several events has the paths of each, with masked headers."""
    first = Event({"headers": {"authorization": "Bearer abc"}, "body": {"a": 1}})

    shape = infer_event_shape([first, Event({"body": {"b": 2}})])

    assert "abc" not in repr(shape)
    body = next(child for child in shape.children if child.path == ("body",))
    assert [child.path for child in body.children] == [("body", "a"), ("body", "b")]


def test_a_contract_is_checked_against_the_given_events(library: EventLibrary) -> None:
    """An event without a required field does not fulfil the contract; saved events are compared but not checked."""
    library.save("ada", Event.from_body({"name": "Ada"}))

    report = check_contract(WORKFLOW, library, {"empty": Event.from_body({})}, include_saved=False)

    assert [each.name for each in report.comparisons] == ["empty"]
    assert not report.is_fulfilled
    assert [drift.kind for drift in report.comparisons[0].drifts] == ["gone"]


def test_saved_events_are_checked_but_not_compared_with_each_other(library: EventLibrary) -> None:
    """With `include_saved` each saved event is checked alone; a given event of the same name is checked once."""
    library.save("ada", Event.from_body({"name": "Ada"}))
    library.save("number", Event.from_body({"name": 1}))

    report = check_contract(WORKFLOW, library, {"ada": Event.from_body({"name": "Ada"})}, include_saved=True)

    assert [each.name for each in report.comparisons] == ["ada", "number"]
    assert report.comparisons[1].drifts == ()


def test_one_event_that_does_not_fit_breaks_the_contract(library: EventLibrary) -> None:
    """The contract is fulfilled if every event fulfils the contract."""
    events = {"good": Event.from_body({"name": "Ada"}), "bad": Event.from_body({})}

    assert not check_contract(WORKFLOW, library, events, include_saved=False).is_fulfilled


def test_events_of_a_timer_are_compared(library: EventLibrary) -> None:
    """Saved events of a schedule, which have no part of a request, count in both checks."""
    step = Step("at", "python", source="def handler(pd):\n    return pd.steps['trigger']['event']['timestamp'] + 1\n")
    workflow = Workflow("Timer", steps=(step,), triggers=(Trigger("schedule"),))
    library.save("first", Event({"timestamp": 1, "zone": "a"}, is_http=False))
    event = Event({"timestamp": "one"}, is_http=False)

    report = check_contract(workflow, library, {"given": event}, include_saved=True)

    assert [each.name for each in report.comparisons] == ["given", "first"]
    assert [drift.kind for drift in report.comparisons[0].drifts] == ["type"]
    assert [drift.kind for drift in compare_with_saved_events(workflow, library, event).drifts] == ["type"]


def test_only_the_workflows_events_are_checked(library: EventLibrary) -> None:
    """With test events, no other saved event is checked."""
    library.save("ada", Event.from_body({"name": "Ada"}))
    library.save("of-another-workflow", Event.from_body({}))

    report = check_contract(WORKFLOW, library, {}, include_saved=True, test_events=("ada",))

    assert [each.name for each in report.comparisons] == ["ada"]


def test_the_example_has_values_of_saved_events(library: EventLibrary) -> None:
    """The example event has the required fields, with saved values."""
    library.save("ada", Event.from_body({"name": "Ada"}))

    report = check_contract(WORKFLOW, library, {}, include_saved=True)

    assert report.is_fulfilled
    assert report.to_json()["example"]["body"] == {"name": "Ada"}


def test_one_event_is_compared_with_the_saved_events(library: EventLibrary) -> None:
    """A field whose type differs from the saved events is drift."""
    library.save("ada", Event.from_body({"name": "Ada"}))

    comparison = compare_with_saved_events(WORKFLOW, library, Event.from_body({"name": 1}))

    assert comparison.name == "the event"
    assert [(drift.kind, drift.path) for drift in comparison.drifts] == [("type", "body.name")]


def resolved(trigger: Trigger, event: EventLike | None, body: JSON) -> Event:
    """The event of a run of a workflow with *trigger*."""
    return resolve_event(
        WorkflowSource(Path("work.ipynb"), "notebook", Workflow("W", steps=(GREET,), triggers=(trigger,))), event, body
    )


@pytest.mark.parametrize(
    ("event", "body", "message"),
    [
        ({"body": 1}, {"a": 1}, "An event and a body exclude each other"),
        (None, None, "The event is missing"),
        (None, float("nan"), "The body is not JSON"),
        ({"body": {1}}, None, "The event is not JSON"),
    ],
)
def test_an_event_is_one_json_value(event: EventLike | None, body: JSON, message: str) -> None:
    """A run has an event or a payload, and both are JSON."""
    with pytest.raises(EventError, match=message):
        resolved(Trigger("http"), event, body)


@pytest.mark.parametrize("body", [0, "", False, [], {}])
def test_an_empty_body_is_a_body(body: JSON) -> None:
    """A payload that is zero, false or empty is sent as it is; only None leaves the payload out."""
    event = resolved(Trigger("http"), None, body)

    assert (event.data["method"], event.data["body"]) == ("POST", body)


def test_the_keys_of_an_event_depend_on_the_trigger() -> None:
    """An object without a part of a request is an event of a schedule, and not of an HTTP trigger."""
    assert resolved(Trigger("schedule"), {"timestamp": 1}, None).data == {"timestamp": 1}
    with pytest.raises(EventError):
        resolved(Trigger("http"), {"timestamp": 1}, None)


def test_a_schedule_makes_its_event() -> None:
    """Without an event, a scheduled workflow gets the event of its own times."""
    assert resolved(Trigger("schedule", config={"cron": "0 9 * * *"}), None, None).data["cron"] == "0 9 * * *"


def test_a_failed_run_starts_the_workflow_that_handles_errors() -> None:
    """The workflow with an errors trigger gets the errors of other workflows, not its own, and no success."""
    failed = an_execution(error=ErrorRecord("step_error", "KeyError", "no issue", step="build"))
    handler = Workflow("Alarm", triggers=(Trigger("errors"),))
    found = find_error_event(handler, failed)

    assert found is not None
    assert cast("dict[str, JSON]", found.data["error"])["message"] == "no issue"
    assert find_error_event(replace(handler, name=failed.workflow), failed) is None
    assert find_error_event(handler, an_execution()) is None
    assert find_error_event(WORKFLOW, failed) is None


def test_the_limits_of_a_comparison() -> None:
    """The 50 newest events are compared, each of at most two megabytes."""
    assert (operations.MAX_COMPARED_EVENTS, operations.MAX_EVENT_BYTES) == (50, 2_000_000)


def test_a_folder_and_a_pattern_name_their_events(library: EventLibrary, tmp_path: Path) -> None:
    """A folder stands for its event files, a pattern for the files or the saved events that match, in the order of their names."""
    for name in ("issue-2", "issue-1", "other"):
        library.save(name, Event({}))
    (library.folder / "issue-1.recorded.jsonl").write_text("")

    def stems(*names: str) -> list[str]:
        return [Path(each).stem for each in expand_event_names(names, tmp_path)]

    assert stems("events") == ["issue-1", "issue-2", "other"]
    assert stems("issue-*", "saved") == ["issue-1", "issue-2", "saved"]
    assert stems("events/o*.json") == stems(f"{library.folder}/o*.json") == ["other"]


@pytest.mark.parametrize("name", ["none*", "empty"])
def test_a_name_without_events_is_refused(tmp_path: Path, name: str) -> None:
    """A pattern that matches nothing and a folder without event files are refused."""
    (tmp_path / "empty").mkdir()

    with pytest.raises(EventError, match="There is no event file at"):
        expand_event_names([name], tmp_path)


def test_the_difference_of_events_hides_secret_headers() -> None:
    """A secret header that differs is a difference, without its values."""
    (change,) = compare_events(
        Event({"headers": {"X-Hub-Signature-256": "one"}}), Event({"headers": {"X-Hub-Signature-256": "two"}})
    ).changes

    assert change.path == ("headers", "X-Hub-Signature-256")
    assert "one" not in change.before + change.after
    assert "two" not in change.before + change.after


@pytest.mark.parametrize(
    ("events", "options", "message"),
    [
        ([], {"runs": True, "user": "ada"}, None),
        ([], {"runs": True, "all_users": True, "limit": 3}, None),
        (["a", "b"], {"diff": True}, None),
        ([], {"user": "ada"}, "--user selects recorded runs"),
        ([], {"all_users": True}, "--all selects recorded runs"),
        ([], {"runs": True, "user": "ada", "all_users": True}, "--user and --all exclude each other"),
        (["a"], {"runs": True}, "--runs reads the events of recorded runs"),
        (["a", "b"], {"diff": True, "contract": True}, "--diff and --contract exclude each other"),
        ([], {"runs": True, "diff": True}, "--runs and --diff exclude each other"),
    ],
)
def test_options_of_a_shape(events: list[str], options: dict[str, object], message: str | None) -> None:
    """Options that select runs need `--runs`, and only one thing is shown."""
    given: dict[str, Any] = {
        "runs": False,
        "diff": False,
        "contract": False,
        "all_users": False,
        "user": None,
        **options,
    }
    try:
        check_shape_options(events, **given)
        found = None
    except RequestError as error:
        found = error.message

    assert found is None if message is None else found is not None and found.startswith(message)

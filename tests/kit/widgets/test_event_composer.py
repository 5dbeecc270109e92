"""The form behind `%pdevent`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pdkernel.event import Event
from pdkernel.kit.session import Session
from pdkernel.kit.widgets import EventComposer
from pdkernel.kit.widgets.event_composer import MAX_CONTRACT_MESSAGES
from pdkernel.render.markup import RichOutput
from tests.builders import Gate
from tests.kit.widgets.front_end import NEEDS_SLACK, button, enter, everything_in_state, pick, press, screen, type_into

STEP = "%%pdstep shape\ndef handler(pd):\n    print('hello')\n    return pd.steps['trigger']['event']['body']\n"


def identity(composer: EventComposer) -> list[str]:
    """The text of the two rows that follow the session."""
    return re.findall(r"<code>x-pd-(?:environment|external-user-id): (.*?)</code>", composer.fields.identity.value)


def test_starts_as_a_json_post(composer: EventComposer, session: Session) -> None:
    """Without an event the form starts as a JSON POST without a body, and nothing is chosen."""
    assert composer.build_event().data == {
        "method": "POST",
        "path": "/",
        "query": {},
        "headers": {"content-type": "application/json"},
    }
    assert session.event is None
    assert "No event is chosen yet" in screen(composer)


def test_use_chooses_without_running(composer: EventComposer, session: Session) -> None:
    """The button "Use as the event" chooses the typed event for the session."""
    type_into(composer.fields.path, "/hook")
    type_into(composer.body.text, '{"a": 1}')

    press(composer, "Use as the event")

    assert session.event is not None
    assert session.event.data["path"] == "/hook"
    assert session.event.data["body"] == {"a": 1}
    assert session.last_execution is None


def test_identity_follows_the_session(composer: EventComposer, session: Session) -> None:
    """The two headers show the chosen user and environment, read-only, and are in the event."""
    session.choose_user("ada", "production")
    press(composer, "Use as the event")

    assert identity(composer) == ["production", "ada"]
    session.choose_user("<b>ada</b> & co", None)
    assert identity(composer) == ["production", "&lt;b&gt;ada&lt;/b&gt; &amp; co"]
    session.choose_user("ada", None)
    assert session.event is not None
    assert session.event.external_user_id == "ada"
    assert session.event.environment == "production"


def test_an_invalid_body_cannot_be_sent(composer: EventComposer, session: Session) -> None:
    """While the body is not JSON, the event cannot be sent, used or saved."""
    type_into(composer.body.text, "{")

    disabled = [button(composer, name).disabled for name in ("Send", "Use as the event", "Save")]
    for name in ("Send", "Use as the event", "Save"):
        press(composer, name)
    enter(composer.fields.client_ip)

    assert disabled == [True, True, True]
    assert "at line 1, column 2" in screen(composer)
    assert session.event is None


def test_an_invalid_header_cannot_be_sent(composer: EventComposer, session: Session) -> None:
    """While a header line is invalid, the event cannot be sent, and the line is named."""
    type_into(composer.fields.headers, "accept")

    press(composer, "Send")

    assert "headers, line 1: write `name: value`." in screen(composer)
    assert session.event is None


@pytest.mark.usefixtures("issue")
def test_the_list_shows_the_chosen_event(composer: EventComposer, session: Session) -> None:
    """An event that is chosen elsewhere is the selected one of the list; an event that is not saved is not in it."""
    session.load_event("issue")
    chosen = composer.library.value
    session.choose_event(Event({"method": "GET"}), "unsaved")

    assert (chosen, composer.library.value) == ("issue", "")


def test_loading(issue: Event, composer: EventComposer, session: Session) -> None:
    """Loading shows a saved event and chooses it for the session."""
    session.notify_accounts_changed()
    pick(composer.library, "issue")

    press(composer, "Load")

    assert composer.build_event().data == issue.data
    assert session.event_name == "issue"
    assert composer.magic_line == "%pdevent issue --send"
    assert "The chosen event: issue." in screen(composer)


def test_loading_requires_a_choice(composer: EventComposer) -> None:
    """Load without a choice shows a message."""
    press(composer, "Load")

    assert "No saved event is chosen." in screen(composer)


def test_loading_over_changes_asks_once(
    issue: Event, make_composer: Callable[[], EventComposer], session: Session
) -> None:
    """Loading asks once before it discards changes."""
    composer = make_composer()
    type_into(composer.fields.path, "/typed")
    pick(composer.library, "issue")

    press(composer, "Load")
    type_into(composer.fields.path, "/typed again")  # a change takes the question back
    press(composer, "Load")
    asked = composer.fields.path.value
    press(composer, "Discard the changes?")

    assert asked == "/typed again"
    assert composer.fields.path.value == "/hook"
    type_into(composer.body.text, '{"typed": 1}')
    press(composer, "Load")
    assert "Discard the changes?" in screen(composer)


def test_loading_an_invalid_file_is_reported(session: Session, make_composer: Callable[[], EventComposer]) -> None:
    """For a saved event that is not JSON the form shows the line of the error."""
    session.events.folder.mkdir()
    (session.events.folder / "bad.json").write_text("{\n")
    composer = make_composer()
    pick(composer.library, "bad")

    press(composer, "Load")

    assert "bad.json is not JSON" in screen(composer)
    assert session.event is None


def test_loading_picks_the_events_user(session: Session, make_composer: Callable[[], EventComposer]) -> None:
    """An event that names an external user chooses the user, as its line form does."""
    session.events.save("bobs", Event({"headers": {"X-PD-External-User-Id": "bob", "x-pd-environment": "production"}}))
    composer = make_composer()
    pick(composer.library, "bobs")

    press(composer, "Load")

    assert identity(composer) == ["production", "bob"]
    assert "Pd" not in composer.fields.headers.value


def test_unknown_keys_are_kept(session: Session, make_composer: Callable[[], EventComposer]) -> None:
    """Keys without a field keep their values, and the form names them."""
    data: dict[str, Any] = {"url": "https://x.test/", "method": "PURGE", "query": {"n": [1]}, "odd": {"a": None}}
    session.choose_event(Event(data))
    composer = make_composer()
    type_into(composer.fields.client_ip, "203.0.113.9")

    press(composer, "Use as the event")

    assert session.event is not None
    chosen = {key: value for key, value in session.event.data.items() if key != "headers"}
    assert chosen == {**data, "client_ip": "203.0.113.9"}
    assert "kept unchanged: url, odd" in screen(composer)


def test_saving(composer: EventComposer, session: Session, tmp_path: Path) -> None:
    """Saving requires a name, writes the file, lists it, and chooses the event; a name with a blank is quoted in the line."""
    type_into(composer.body.text, "[1]")
    press(composer, "Save")
    assert "The event has no name." in screen(composer)
    type_into(composer.save_name, "mine.json")

    press(composer, "Save")

    assert json.loads((tmp_path / "events" / "mine.json").read_text())["body"] == [1]
    assert [value for _, value in composer.library.options] == ["", "mine"]
    assert composer.magic_line == "%pdevent mine --send"
    type_into(composer.save_name, "my order")
    press(composer, "Save")
    assert composer.magic_line == "%pdevent 'my order' --send"
    assert "%pdevent 'my order' --send" in composer.saved_output.text


def test_saving_under_an_invalid_name_is_refused(composer: EventComposer, session: Session) -> None:
    """An invalid file name is refused in the form."""
    type_into(composer.save_name, "../x")

    press(composer, "Save")

    assert "is not a valid event name" in screen(composer)
    assert session.events.names() == []


def test_saving_over_another_asks(issue: Event, composer: EventComposer, session: Session) -> None:
    """Another event is overwritten only by a second click."""
    type_into(composer.save_name, "issue")

    press(composer, "Save")
    type_into(composer.fields.path, "/x")  # a change takes the question back
    press(composer, "Save")
    type_into(composer.save_name, "issue.json")  # another text of the same name
    press(composer, "Save")
    before = session.events.load("issue")[1].data["path"]
    press(composer, "Overwrite issue?")

    assert before == "/hook"
    assert session.events.load("issue")[1].data["path"] == "/x"


def test_saving_over_itself_does_not_ask(issue: Event, composer: EventComposer, session: Session) -> None:
    """A loaded and changed event is saved under its own name at once."""
    session.load_event("issue")
    type_into(composer.fields.path, "/new")
    press(composer, "Use as the event")
    type_into(composer.save_name, "issue")

    press(composer, "Save")

    assert session.events.load("issue")[1].data["path"] == "/new"


def test_a_changed_event_is_marked(issue: Event, composer: EventComposer, session: Session) -> None:
    """A loaded event that was changed is not shown under the saved name alone."""
    session.load_event("issue")
    lines = [composer.magic_line]
    type_into(composer.fields.path, "/new")
    lines.append(composer.magic_line)

    press(composer, "Use as the event")

    assert session.event_name == "issue (changed)"
    assert [*lines, composer.magic_line] == ["%pdevent issue --send", "%pdevent --send", "%pdevent --send"]


def test_secret_header_is_not_shown(composer: EventComposer, session: Session) -> None:
    """The value of a secret header is in no widget after the event is chosen; steps receive the value."""
    session.choose_event(Event({"headers": {"authorization": "Bearer planted-token"}}))

    press(composer, "Use as the event")

    assert composer.fields.headers.value == "authorization: ***"
    assert "authorization: the value is hidden here" in screen(composer)
    assert session.event is not None
    assert session.event.header("authorization") == "Bearer planted-token"
    assert "planted-token" not in everything_in_state() + repr(composer)


def test_typed_secret_header_is_hidden_when_used(composer: EventComposer, session: Session) -> None:
    """A typed secret header is hidden as soon as the event is used."""
    type_into(composer.fields.headers, "Authorization: Bearer planted-token")

    press(composer, "Use as the event")

    assert session.event is not None
    assert session.event.header("authorization") == "Bearer planted-token"
    assert "planted-token" not in everything_in_state() + composer.saved_output.html


def test_a_masked_header_is_reported(session: Session, composer: EventComposer) -> None:
    """The form names a header whose value was lost on saving."""
    session.events.save("hook", Event({"headers": {"authorization": "Bearer x"}}))

    session.load_event("hook")

    assert "authorization: the value was masked when this event was saved" in screen(composer)


def test_follows_an_event_chosen_elsewhere(issue: Event, composer: EventComposer, session: Session) -> None:
    """An event that is chosen elsewhere is shown."""
    session.load_event("issue")

    assert composer.build_event() == issue
    session.choose_event(Event({"timestamp": 1}, is_http=False), "tick")
    assert not composer.build_event().is_http


def test_typed_text_is_not_lost(issue: Event, composer: EventComposer, session: Session) -> None:
    """Typed text stays when another event is chosen, until the user asks for the chosen event."""
    type_into(composer.fields.path, "/typed")
    session.load_event("issue")
    kept = composer.fields.path.value
    assert "The chosen event is now issue; the changes here are not used." in screen(composer)

    press(composer, "Show the chosen event")

    assert kept == "/typed"
    assert composer.fields.path.value == "/hook"


def test_choosing_a_user_keeps_the_typed_text(composer: EventComposer, session: Session) -> None:
    """Choosing another user changes only the two headers."""
    type_into(composer.fields.path, "/typed")
    type_into(composer.body.text, "{")

    session.choose_user("ada")

    assert (composer.fields.path.value, composer.body.text.value) == ("/typed", "{")
    assert identity(composer) == ["development", "ada"]


def test_using_calls_the_listeners_once(composer: EventComposer, session: Session) -> None:
    """Using an event calls the listeners once."""
    names = []
    session.add_listener(lambda: names.append(session.event_name))

    press(composer, "Use as the event")

    assert names == ["new event"]


def test_big_event(composer: EventComposer, session: Session) -> None:
    """An event of three megabytes passes through the form completely, with little of it in the page."""
    body = [{"n": n, "text": "x" * 100} for n in range(25_000)]
    session.choose_event(Event({"method": "POST", "body": body}))
    type_into(composer.fields.path, "/big")

    press(composer, "Use as the event")

    assert session.event is not None
    assert session.event.data["body"] == body
    assert len(everything_in_state()) < 200_000


def test_a_cleared_body_and_the_order_of_fields(composer: EventComposer, session: Session) -> None:
    """The event keeps the order of its fields; an event whose body was cleared has no body."""
    session.choose_event(Event({"body": {"a": 1}, "path": "/x", "method": "POST"}))
    kept = list(composer.build_event().data)

    pick(composer.body.kind, "none")

    assert kept[:3] == ["body", "path", "method"]
    assert list(composer.build_event().data)[:2] == ["path", "method"]
    assert "body" not in composer.build_event().data


def test_sending(composer: EventComposer, session: Session, tmp_path: Path) -> None:
    """Send runs the workflow in the background as the chosen user; the output beside the form ends with the complete timeline."""
    gate = Gate(tmp_path)
    session.record_cell(STEP.replace("    print", f"    {gate.code}\n    print"), cell_id="cell-1")
    session.choose_user("ada")
    type_into(composer.body.text, '{"a": 1}')

    press(composer, "Send")
    while_running = composer.send_button.description
    gate.open()
    composer.wait()

    assert while_running == "Stop"
    assert composer.send_button.description == "Send"
    assert session.last_execution is not None
    assert session.last_execution.steps[0].return_value == {"a": 1}
    assert session.last_execution.external_user == "ada"
    assert "as ada in development" in composer.saved_output.text
    assert "shape" in composer.saved_output.text
    assert "success" in composer.saved_output.text


def test_stopping(composer: EventComposer, session: Session) -> None:
    """Stop ends a run without an end, and the form can send again."""
    session.record_cell("%%pdstep wait\nimport time\ndef handler(pd):\n    time.sleep(600)\n", cell_id="cell-1")

    press(composer, "Send")
    type_into(composer.body.text, "{")  # what is typed meanwhile does not keep the run
    press(composer, "Stop")
    composer.wait()
    type_into(composer.body.text, "{}")

    assert composer.send_button.description == "Send"
    assert not composer.send_button.disabled
    assert "cancelled" in composer.saved_output.text or "stopped" in composer.saved_output.text
    # a run that is stopped before its first step has no record; the time limit of a step ends a run with an error
    assert session.last_execution is None or session.last_execution.status == "cancelled"


def test_a_refused_run_leaves_the_output_of_the_one_before(
    composer: EventComposer, session: Session, make_composer: Callable[[], EventComposer]
) -> None:
    """If a run is refused, the saved output still has the last run of the form, and no event as sent."""
    session.record_cell(STEP, cell_id="cell-1")
    type_into(composer.body.text, "{}")
    press(composer, "Send")
    composer.wait()
    session.record_cell("%%pdstep wait\nimport time\ndef handler(pd):\n    time.sleep(600)\n", cell_id="cell-2")
    other = make_composer()
    press(other, "Send")
    type_into(composer.fields.path, "/refused")

    press(composer, "Send")
    refused = screen(composer)
    session.notify_accounts_changed()

    shown = composer.saved_output.text
    assert "A run is already in progress in this notebook." in refused
    assert "success" in shown
    assert "Sent new event: POST /refused" not in shown
    press(other, "Stop")
    other.wait()


def test_an_invalid_workflow_is_reported(composer: EventComposer, session: Session) -> None:
    """The form shows why a workflow cannot run: its header may protect the runs. No run starts."""
    session.record_cell("%%pdworkflow\nsettings: {share_workers: sometimes}", cell_id="one")

    press(composer, "Send")

    assert "share_workers" in screen(composer)
    assert composer.send_button.description == "Send"
    session.choose_event(Event({"method": "GET"}), "other")
    assert "Sent" not in composer.saved_output.text


def test_a_missing_account_is_shown(composer: EventComposer, session: Session) -> None:
    """A refusal of the run is in the output beside the form."""
    session.record_cell(NEEDS_SLACK, cell_id="cell-1")

    press(composer, "Send")
    composer.wait()

    assert "No external user ID passed" in composer.saved_output.text


READS = "%%pdstep read\ndef handler(pd):\n    body = pd.steps['trigger']['event']['body']\n    return [body['title'].upper(), body['user']['id'], body.get('note')]\n"


def test_missing_fields_are_named_while_typing(composer: EventComposer, session: Session) -> None:
    """Required fields that the body lacks are named with their step, until they are typed; another type is named, too."""
    session.record_cell(READS, cell_id="cell-1")
    type_into(composer.body.text, '{"title": "a"}')
    before = screen(composer)

    type_into(composer.body.text, '{"title": "a", "user": {"id": 1}}')

    assert "body.user is missing. Read by read (" in before
    assert "note" not in before
    assert "is missing" not in screen(composer)
    type_into(composer.body.text, '{"title": 1, "user": {"id": 1}}')
    assert "body.title is integer; the steps expect string." in screen(composer)


@pytest.mark.parametrize("count", [MAX_CONTRACT_MESSAGES, MAX_CONTRACT_MESSAGES + 1])
def test_many_missing_fields(composer: EventComposer, session: Session, count: int) -> None:
    """A few missing fields are named, and further ones are counted."""
    reads = "\n".join(f"    pd.steps['trigger']['event']['body']['f{number}'].upper()" for number in range(count))

    session.record_cell(f"%%pdstep read\ndef handler(pd):\n{reads}\n", cell_id="cell-1")
    type_into(composer.body.text, "{}")

    assert screen(composer).count(" is missing. Read by read") == MAX_CONTRACT_MESSAGES
    assert ("… 1 more: %pdshape --contract" in screen(composer)) == (count > MAX_CONTRACT_MESSAGES)
    assert "… 0 more" not in screen(composer)


def test_the_example_is_written_on_demand(composer: EventComposer, session: Session) -> None:
    """A button writes a body with the required fields, and asks before it discards typed text."""
    session.record_cell(READS, cell_id="cell-1")
    press(composer, "Write the example")
    written = json.loads(composer.body.text.value)
    type_into(composer.body.text, '{"title": "mine"}')

    press(composer, "Write the example")
    kept = composer.body.text.value
    press(composer, "Discard the body?")

    assert written == {"title": "title", "user": {"id": "id"}}
    assert kept == '{"title": "mine"}'
    assert json.loads(composer.body.text.value) == written
    assert session.event is None


def test_the_example_has_values_of_saved_events(composer: EventComposer, session: Session) -> None:
    """The example takes the values of the fields from the events of the library."""
    session.record_cell(READS, cell_id="cell-1")
    session.events.save("old", Event.from_body({"title": "A real title", "user": {"id": 5}}))
    session.notify_accounts_changed()

    press(composer, "Write the example")

    assert json.loads(composer.body.text.value) == {"title": "A real title", "user": {"id": 5}}


def test_the_output_of_a_run_names_the_event_that_was_sent(composer: EventComposer, session: Session) -> None:
    """After another event was chosen, the output has both, and what is drawn of the run belongs to the sent one."""
    session.record_cell(STEP, cell_id="cell-1")
    type_into(composer.fields.path, "/sent")
    press(composer, "Send")
    composer.wait()
    session.choose_event(Event({"method": "GET", "path": "/other"}), "other")

    composer._show_run(RichOutput.from_message("the timeline"))

    lines = [line for line in composer.saved_output.text.splitlines() if line.startswith(("Event", "Sent", "the"))]
    assert [line.split(",")[0] for line in lines] == [
        "Event other: GET /other",
        "Sent new event: POST /sent",
        "the timeline",
    ]


def test_drift_is_shown_in_the_form(composer: EventComposer, session: Session) -> None:
    """A body that differs from saved events in fields that steps read is reported."""
    session.record_cell(READS, cell_id="cell-1")
    session.events.save("old", Event.from_body({"title": "a", "user": {"id": 1}}))
    session.choose_user("ada")

    type_into(composer.body.text, '{"title": "a", "user": {"id": "1"}}')

    assert "body.user.id is now string; in earlier events it was number." in screen(composer)


def test_enter_sends(composer: EventComposer, session: Session) -> None:
    """Enter in the path's field sends the event; during a run it does not stop the run."""
    session.record_cell(STEP, cell_id="c1")
    type_into(composer.fields.path, "/entered")
    type_into(composer.body.text, "{}")

    enter(composer.fields.path)
    enter(composer.fields.path)
    composer.wait()

    last = session.last_execution
    assert last is not None
    assert (last.event["path"], last.status) == ("/entered", "success")


def test_enter_saves_the_event(composer: EventComposer, session: Session) -> None:
    """Enter in the name's field saves the event; for a name that exists, the second Enter overwrites it."""
    type_into(composer.save_name, "mine")
    enter(composer.save_name)
    session.choose_event(Event({"method": "GET"}), "another")
    type_into(composer.fields.path, "/new")

    enter(composer.save_name)
    before = session.events.load("mine")[1].data["path"]
    enter(composer.save_name)

    assert (before, session.events.load("mine")[1].data["path"]) == ("/", "/new")

"""The saved output of a form."""

from __future__ import annotations

from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import display
from IPython.utils.capture import capture_output

from pdkernel.event import Event
from pdkernel.kit.session import Session
from pdkernel.kit.widgets import EventComposer, UserPicker
from pdkernel.kit.widgets.saved_output import SavedOutput, build_line_output
from pdkernel.model import JSON
from pdkernel.render.markup import RichOutput
from tests.kit.widgets.front_end import press, type_into

VIEW = "application/vnd.jupyter.widget-view+json"


def outputs(captured: Any) -> list[dict[str, Any]]:
    """The displayed outputs: their data, and whether they replace another output."""
    return [{"data": each.data, "id": each.transient.get("display_id"), "update": each.update} for each in captured]


@pytest.mark.usefixtures("_shell")
def test_two_outputs(picker: UserPicker) -> None:
    """A form is displayed as a widget and, below it, as an output that is saved."""
    with capture_output() as captured:
        display(picker)

    form, kept = outputs(captured.outputs)
    assert form["data"][VIEW]["model_id"] == picker.model_id
    assert form["data"]["text/plain"] == "External user"
    assert form["data"]["text/html"].startswith('<div class="pd-fallback"><strong>External user</strong> <small>')
    assert set(kept["data"]) == {"text/plain", "text/html"}
    assert "Steps run without an external user" in kept["data"]["text/plain"]


@pytest.mark.usefixtures("_shell")
def test_the_saved_output_follows_the_form(picker: UserPicker, session: Session) -> None:
    """A choice replaces the saved output, so that the saved notebook shows the last choice."""
    with capture_output() as captured:
        display(picker)
        session.choose_user("ada")

    kept, update = outputs(captured.outputs)[1:]
    assert update["update"]
    assert update["id"] == kept["id"]
    assert "Steps run as ada in development." in update["data"]["text/plain"]
    assert "%pduser ada --environment development" in update["data"]["text/html"]


def test_the_saved_output_has_a_picture_of_the_form(composer: EventComposer, session: Session) -> None:
    """The HTML has the form's fields; a masked header, and the values of query and body, are not in it."""
    headers: dict[str, JSON] = {"x-kind": "k", "authorization": "Bearer planted-token"}
    body: dict[str, JSON] = {"issue": 1, "token": "planted-token"}
    data: dict[str, JSON] = {
        "method": "POST",
        "path": "/in",
        "query": {"key": "planted-token"},
        "headers": headers,
        "body": body,
    }

    session.choose_event(Event(data), "mine")

    shown = composer.saved_output.html
    for field in ("method</th>", "POST", "/in", "x-kind: k", "authorization: ***", "object: issue, token", "key"):
        assert field in shown
    assert "planted-token" not in shown


@pytest.mark.usefixtures("_shell")
def test_shown_as_a_cells_result(picker: UserPicker) -> None:
    """A form that is a cell's last expression is displayed the same way."""
    shell = InteractiveShell.instance()
    shell.user_ns["form"] = picker

    with capture_output() as captured:
        shell.run_cell("form")

    assert VIEW in outputs(captured.outputs)[0]["data"]


@pytest.mark.usefixtures("_shell")
def test_the_saved_output_has_the_run(composer: EventComposer, session: Session) -> None:
    """The saved output has the sent event and the complete run."""
    session.record_cell("%%pdstep one\ndef handler(pd):\n    return 1\n", cell_id="cell-1")
    with capture_output() as captured:
        display(composer)
        press(composer, "Send")
        composer.wait()

    last = outputs(captured.outputs)[-1]
    assert last["update"]
    assert last["data"]["text/plain"].startswith("Event new event: POST /")
    assert "success" in last["data"]["text/plain"]


def test_bundle_has_a_fallback(composer: EventComposer) -> None:
    """A form's bundle has the choices as text and HTML beside the widget."""
    bundle = composer._repr_mimebundle_()

    assert bundle[VIEW]["model_id"] == composer.model_id
    assert bundle["text/plain"] == composer.saved_output.text
    assert bundle["text/html"] == composer.saved_output.html


def test_another_event_is_distinguished_from_the_sent_event(composer: EventComposer, session: Session) -> None:
    """Choosing another event after a run keeps the run, with the name of its event."""
    session.record_cell("%%pdstep one\ndef handler(pd):\n    return 1\n", cell_id="cell-1")
    press(composer, "Send")
    composer.wait()
    type_into(composer.fields.path, "/other")

    press(composer, "Use as the event")

    assert "Event new event: POST /other" in composer.saved_output.text
    assert "Sent new event: POST /," in composer.saved_output.text


@pytest.mark.usefixtures("_shell")
def test_an_output_is_sent_after_its_display_and_if_it_changes() -> None:
    """Nothing is sent before the display; then each change is sent once."""
    saved = SavedOutput()

    with capture_output() as captured:
        saved.update(RichOutput("first", "first"))
        before = len(captured.outputs)
        saved.display()
        for _ in range(2):
            saved.update(RichOutput("second", "second"))

    assert before == 0
    assert [each["data"]["text/plain"] for each in outputs(captured.outputs)] == ["first", "second"]


def test_a_saved_output_is_text() -> None:
    """A text, a line and a field are shown as they are, and are not markup."""
    shown = build_line_output("Steps run as <b>.", "%pduser '<b>'", [("user <b>", "<b>")]).html

    assert "<b>" not in shown
    assert shown.count("&lt;b&gt;") >= 4

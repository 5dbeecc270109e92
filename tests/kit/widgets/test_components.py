"""Messages, copyable texts, buttons with a confirmation, the field for a secret, and outputs readable without a kernel."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import ipywidgets as ipw
import pytest
from comm.base_comm import BaseComm
from IPython.display import display
from IPython.utils.capture import capture_output

from pdkernel.event import Event
from pdkernel.kit.session import Session
from pdkernel.kit.widgets import EventComposer, UserPicker, components
from pdkernel.kit.widgets.components import (
    ConfirmButton,
    SavedOutput,
    SecretField,
    build_copyable_block_html,
    build_copyable_html,
    build_line_output,
    close_tree,
    create_message,
    format_message_html,
    set_children,
    set_value,
    show_message,
    show_message_html,
)
from pdkernel.model import JSON
from pdkernel.render.markup import RichOutput
from tests.kit.widgets.front_end import enter, press, type_into

TOKEN = "xoxb-planted-token"


class RecordingComm(BaseComm):
    """A comm that stores the kernel's messages."""

    def __init__(self, **options: Any) -> None:
        self.said: list[Any] = []
        super().__init__(**options)

    def publish_msg(self, msg_type: str, data: Any = None, metadata: Any = None, buffers: Any = None, **_: Any) -> None:
        """Store the message."""
        self.said.append(data)


@pytest.fixture
def comm() -> RecordingComm:
    """A comm to inspect."""
    return RecordingComm(target_name="jupyter.widget")


@pytest.fixture
def field(comm: RecordingComm) -> SecretField:
    """A field with a typed token."""
    field = SecretField(comm=comm)
    type_into(field, TOKEN)
    return field


def test_take_clears_the_field(field: SecretField) -> None:
    """`take` returns the typed text once, and the field no longer confirms it."""
    taken = field.take_value()
    assert field.placeholder == ""

    assert taken == TOKEN
    assert not field.has_value
    assert field.take_value() == ""
    assert TOKEN not in str(vars(field))


def test_the_front_end_is_cleared_at_once(field: SecretField, comm: RecordingComm) -> None:
    """The visible field is cleared as soon as the text has arrived, and confirms it."""
    assert field.has_value
    assert field.value == ""
    assert {"method": "update", "state": {"value": ""}, "buffer_paths": []} in comm.said
    assert field.placeholder.startswith("typed")


def test_closing_clears_the_field(field: SecretField) -> None:
    """A closed field has no text."""
    field.close()

    assert not field.has_value


def test_kernel_messages_do_not_contain_the_value(field: SecretField, comm: RecordingComm) -> None:
    """No message, state or repr contains the text: neither the echo, nor the state for a second front end."""
    field._handle_msg({"content": {"data": {"method": "request_state"}}, "buffers": []})
    field.placeholder = "again"
    assert field.get_state()["value"] == ""
    assert TOKEN not in repr(field)
    field.value = TOKEN + "2"

    assert field.take_value() == TOKEN + "2"
    assert comm.said
    assert TOKEN not in json.dumps(comm.said)


@pytest.mark.parametrize(("kind", "is_alert"), [("error", True), ("warn", False), ("success", False), ("muted", False)])
def test_only_an_error_interrupts_a_reader(kind: str, is_alert: bool) -> None:
    """A screen reader announces an error at once; a message is escaped and keeps its lines."""
    shown = format_message_html("a <b>\n'c'", kind=kind)

    assert ('role="alert"' in shown) is is_alert
    assert "a &lt;b&gt;\n&#x27;c&#x27;</div>" in shown
    assert "pre-wrap" in shown
    assert format_message_html("", kind=kind) == ""


@pytest.mark.parametrize("build", [build_copyable_html, build_copyable_block_html])
def test_a_copied_text_is_the_whole_text(build: Callable[[str], str]) -> None:
    """The text and the title, from which a click copies, are escaped."""
    shown = build('say "<b>" & go')

    assert shown.count("say &quot;&lt;b&gt;&quot; &amp; go") == 2
    assert 'title="Copy say' in shown


def test_an_empty_message_is_hidden() -> None:
    """A message is visible while it has a text."""
    message = create_message()
    states = [message.layout.display]
    for text in ("one", "", "two"):
        show_message(message, text)
        states.append(message.layout.display)

    assert states == ["none", None, "none", None]
    show_message_html(message, "<b>three</b>")
    assert message.value == "<b>three</b>"


class Confirmed:
    """A button that counts its acts, with a question that a test sets."""

    def __init__(self) -> None:
        self.acts = 0
        self.question = "Sure?"
        self.button = ConfirmButton("Go", act=self._act, question=lambda: self.question, button_style="primary")

    def _act(self) -> None:
        self.acts += 1

    @property
    def look(self) -> tuple[str, str, int]:
        """Label, style, and the number of acts."""
        return self.button.view.description, self.button.view.button_style, self.acts


def test_a_button_acts_on_the_second_click() -> None:
    """The first click shows the question in another color; after the act the button is as before."""
    confirmed = Confirmed()
    looks = [confirmed.look]
    for _ in range(3):
        confirmed.button.view.click()
        looks.append(confirmed.look)

    assert looks == [("Go", "primary", 0), ("Sure?", "danger", 0), ("Go", "primary", 1), ("Sure?", "danger", 1)]


def test_another_question_needs_another_click() -> None:
    """A click confirms the question that is shown, not a new one; without a question one click is enough."""
    confirmed = Confirmed()
    confirmed.button.view.click()
    confirmed.question = "Really?"
    confirmed.button.view.click()
    assert confirmed.look == ("Really?", "danger", 0)
    confirmed.button.reset()
    assert confirmed.look == ("Go", "primary", 0)
    confirmed.button.view.click()
    assert confirmed.look == ("Really?", "danger", 0)
    confirmed.question = ""
    confirmed.button.view.click()
    assert confirmed.look == ("Go", "primary", 1)


def test_a_confirmation_is_about_the_value_of_its_field() -> None:
    """Enter in the field presses the button; another value needs a confirmation again."""
    acts: list[str] = []
    name = ipw.Text()
    button = ConfirmButton("Go", act=lambda: acts.append(name.value), question=lambda: "Sure?", field=name)
    type_into(name, "a")
    enter(name)

    type_into(name, "b")
    changed = button.view.description
    enter(name)
    before = list(acts)
    enter(name)

    assert (changed, before, acts) == ("Go", [], ["b"])


def test_a_button_is_pressed_unless_it_must_not() -> None:
    """A disabled button, and one whose act is in progress, does nothing."""
    acts: list[int] = []
    button = ipw.Button()
    button.on_click(lambda _: acts.append(1))

    components.press(button, unless=True)
    button.disabled = True
    components.press(button)
    assert acts == []

    button.disabled = False
    components.press(button)
    assert acts == [1]


def test_unchanged_widgets_send_nothing(comm: RecordingComm) -> None:
    """A value or children that did not change cause no message, so that the focus stays."""
    text, box = ipw.Text(comm=comm), ipw.VBox()
    child = ipw.Button()
    set_children(box, [child])
    before, children = len(comm.said), box.children

    set_value(text, "")
    set_children(box, iter([child]))

    assert len(comm.said) == before
    assert box.children is children
    set_value(text, "a tip", "tooltip")
    assert text.tooltip == "a tip"


def test_closing_a_tree_closes_layouts_and_styles() -> None:
    """No widget of a closed tree is left."""
    tree = ipw.VBox([ipw.HBox([ipw.Button(description="a")]), ipw.Text()])

    close_tree(tree)

    assert tree.comm is None
    assert tree.layout.comm is None
    assert tree.children[0].children[0].style.comm is None


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

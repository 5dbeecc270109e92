"""Messages, copyable texts, buttons with a confirmation, and the field for a secret."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import ipywidgets as ipw
import pytest
from comm.base_comm import BaseComm

from pdkernel.kit.widgets.components import (
    ConfirmButton,
    SecretField,
    build_copyable_block_html,
    build_copyable_html,
    build_field_layout,
    build_field_row,
    close_tree,
    create_message,
    format_message_html,
    press,
    set_children,
    set_value,
    show_message,
    show_message_html,
)
from tests.kit.widgets.front_end import enter, type_into

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


def test_typing_again_replaces(field: SecretField) -> None:
    """Text that is typed later replaces the earlier text."""
    type_into(field, "xoxb-second")

    assert field.take_value() == "xoxb-second"


def test_kernel_messages_do_not_contain_the_value(field: SecretField, comm: RecordingComm) -> None:
    """No message of the kernel contains the text: neither the echo, nor the state for a second front end."""
    field._handle_msg({"content": {"data": {"method": "request_state"}}, "buffers": []})
    field.placeholder = "again"
    field.value = TOKEN + "2"
    field.take_value()

    assert comm.said
    assert TOKEN not in json.dumps(comm.said)


def test_state_is_blank(field: SecretField) -> None:
    """Neither the state nor the repr contains the text."""
    assert field.get_state()["value"] == ""
    assert TOKEN not in repr(field)


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


def test_a_field_shrinks_only_if_it_may() -> None:
    """A field has a maximum width; with a minimum width it shrinks in a row."""
    assert build_field_layout(300) == {"width": "300px", "max_width": "min(300px, calc(100% - 8px))"}
    assert build_field_layout(300, min_width_px=100)["flex"] == "1 1 100px"
    row = build_field_row(ipw.Text(layout=build_field_layout(300)), ipw.Button(), name_px=50)
    assert (row.layout.padding, row.children[0].layout.margin) == ("0 0 0 58px", "2px 2px 2px -56px")


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

    assert looks == [
        ("Go", "primary", 0),
        ("Sure?", "danger", 0),
        ("Go", "primary", 1),
        ("Sure?", "danger", 1),
    ]


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

    press(button, unless=True)
    button.disabled = True
    press(button)
    assert acts == []

    button.disabled = False
    press(button)
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

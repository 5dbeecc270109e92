"""
The editor of an event's body: JSON, text or no body.

Errors are shown while typing. A large body is kept whole and shown in part, because a browser cannot edit megabytes in a
text field.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import ipywidgets as ipw

from pdkernel.errors import EventError
from pdkernel.event import parse_json
from pdkernel.kit.widgets.components import (
    DESCRIPTION_STYLE,
    FIELD_MARGIN,
    HIDDEN_NAME_STYLE,
    build_field_row,
    create_message,
    set_value,
    set_visible,
    show_message,
)
from pdkernel.kit.widgets.event_field_text import format_json, replace_lone_surrogates
from pdkernel.model import JSON

BodyKind = Literal["json", "text", "none"]

MAX_EDITABLE_CHARACTERS = 200_000
"""Largest body that can be edited, in characters; a larger body is shown in part."""
PREVIEW_CHARACTERS = 4_000
"""Number of characters shown of a larger body."""


class Absent:
    """No body, as opposed to the JSON value null."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = Absent()


@dataclass(frozen=True)
class BodyText:
    """The editor's text for a body; *total_characters* is the full length if only the start is shown, else None."""

    kind: BodyKind
    text: str
    total_characters: int | None = None


def format_body(value: JSON) -> BodyText:
    """The editor's text for *value*."""
    kind: BodyKind = "text" if isinstance(value, str) else "json"
    text = replace_lone_surrogates(value) if isinstance(value, str) else format_json(value, indent=2)
    if len(text) > MAX_EDITABLE_CHARACTERS:
        return BodyText(kind, f"{text[:PREVIEW_CHARACTERS]}\n…", len(text))
    return BodyText(kind, text)


def parse_body(kind: BodyKind, text: str) -> JSON | Absent:
    """
    The body for a typed text; `ABSENT` for a blank text.

    Raises:
        EventError: The text is not JSON; the error carries line and column.
    """
    if kind == "none" or not text.strip():
        return ABSENT
    return text if kind == "text" else parse_json(text, label="The body")


class BodyEditor:
    """
    The widgets for an event's body.

    Args:
        edited: Called after the user edited the body.
    """

    def __init__(self, edited: Callable[[], None]) -> None:
        self._edited = edited
        self._value: JSON | Absent = ABSENT
        self._shown = BodyText("json", "")
        self._replaced = False
        self._filling = False
        self._fault_text = ""
        self.kind = ipw.Dropdown(
            options=[("JSON", "json"), ("text", "text"), ("none", "none")],
            description="body",
            tooltip="The kind of the body: JSON, text (for example form-encoded), or none",
            style=DESCRIPTION_STYLE,
            layout={"width": "240px"},
        )
        self.text = ipw.Textarea(
            description="text of the body",
            placeholder='{"action": "opened"}',
            rows=12,
            tooltip="The body, which steps read as steps.trigger.event.body",
            style=HIDDEN_NAME_STYLE,
            layout={"width": "calc(100% - 120px)", "max_width": "888px", "margin": "2px 2px 2px 112px"},
        )
        self.text.add_class("pd-body")
        self.pretty_print_button = ipw.Button(
            description="Pretty-print", tooltip="Indent the JSON", layout={"width": "110px"}
        )
        self.replace_button = ipw.Button(
            description="Write another body", tooltip="Discard this body and write another", layout={"width": "160px"}
        )
        self._fault = create_message()
        self._size = create_message()
        self.kind.observe(self._changed, "value")
        self.text.observe(self._changed, "value")
        self.pretty_print_button.on_click(lambda _: self._indent())
        self.replace_button.on_click(lambda _: self._drop())
        below = ipw.VBox([self._size, self._fault], layout={"margin": FIELD_MARGIN})
        self.view = ipw.VBox(
            [build_field_row(self.kind, self.pretty_print_button, self.replace_button), self.text, below]
        )

    @property
    def is_modified(self) -> bool:
        """Whether the body was edited since `load`."""
        return self._replaced or (self.kind.value, self.text.value) != (self._shown.kind, self._shown.text)

    def load(self, value: JSON | Absent, *, empty_kind: BodyKind = "none") -> None:
        """Show *value* and keep it whole; without a body, select *empty_kind*."""
        self._replaced = False
        self._show(value, BodyText(empty_kind, "") if isinstance(value, Absent) else format_body(value))
        self._changed()

    def replace_value(self, value: JSON) -> None:
        """Replace the body with *value*, as an edit of the user."""
        self._replaced = True
        self._show(value, format_body(value))
        self._changed()

    @property
    def error_message(self) -> str:
        """The error message for the typed text, or an empty text."""
        return self._fault_text

    def read_body(self) -> JSON | Absent:
        """
        The body; an unedited body is exactly the loaded value.

        Raises:
            EventError: The text is not JSON; the error carries line and column.
        """
        if self.kind.value == "none":
            return ABSENT
        kind: BodyKind = self.kind.value
        if (kind, self.text.value) == (self._shown.kind, self._shown.text):
            return self._value
        if self._is_preview:  # the kind was changed: parse the whole body
            whole = (
                self._value
                if isinstance(self._value, str)
                else format_json(None if isinstance(self._value, Absent) else self._value)
            )
            return parse_body(kind, whole)
        return parse_body(kind, self.text.value)

    @property
    def _is_preview(self) -> bool:
        """Whether only the start of the body is in the text field."""
        return self._shown.total_characters is not None and self.text.value == self._shown.text

    def _changed(self, _: object = None) -> None:
        if self._filling:
            return
        self._show_state()
        self._edited()

    def _show_state(self) -> None:
        kind = self.kind.value
        fault = ""
        value: JSON | Absent = ABSENT
        try:
            value = self.read_body()
        except EventError as error:
            fault = error.message
        if not self._is_preview and len(self.text.value) > MAX_EDITABLE_CHARACTERS and not isinstance(value, Absent):
            self._replaced = True
            self._show(value, format_body(value))
        self._fault_text = fault
        show_message(self._fault, fault, kind="error")
        part = self._is_preview and kind != "none"
        size = self._shown.total_characters or 0
        show_message(
            self._size,
            f"The start of a body of {size:,} characters, too long to edit here. The whole body is sent and saved."
            if part
            else "",
        )
        self.text.disabled = part or kind == "none"
        set_visible(self.text, visible=kind != "none")
        set_visible(self.pretty_print_button, visible=kind == "json" and not part)
        set_visible(self.replace_button, visible=part)
        self.pretty_print_button.disabled = bool(fault) or not self.text.value.strip()

    def _drop(self) -> None:
        """Discard the body, to write another."""
        self._replaced = True
        self._show(ABSENT, BodyText(self.kind.value, ""))
        self._changed()

    def _show(self, value: JSON | Absent, shown: BodyText) -> None:
        self._value = value
        self._shown = shown
        self._filling = True
        try:
            set_value(self.kind, shown.kind)
            set_value(self.text, shown.text)
        finally:
            self._filling = False

    def _indent(self) -> None:
        try:
            value = parse_body("json", self.text.value)
        except EventError:
            return  # the error is shown below the field already
        if not isinstance(value, Absent):
            self.text.value = format_json(value, indent=2)

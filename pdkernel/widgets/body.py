"""
The editor of an event's body: JSON, text or none.

Knows how a body is shown and read back, that faults are told while typing, and that a big body is kept whole and shown
in part, because a browser cannot edit megabytes in a text field. Knows nothing of the rest of the event.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import ipywidgets as ipw

from pdkernel.errors import EventError
from pdkernel.event import parse_json
from pdkernel.model import JSON
from pdkernel.widgets.event_texts import as_json, printable
from pdkernel.widgets.parts import BESIDE, COLUMN, DESCRIPTION, note, row, say, set_value, show

Kind = Literal["json", "text", "none"]

MAX_EDITED = 200_000
"""Characters of a body that are put into a text field; a longer one is shown in part."""
SHOWN = 4_000
"""Characters that are shown of a longer one."""


class Absent:
    """No body at all, which is not the same as null."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = Absent()


@dataclass(frozen=True)
class BodyText:
    """A body as the editor shows it; *size* is its whole length where only its start is shown, else None."""

    kind: Kind
    text: str
    size: int | None = None


def to_text(value: JSON) -> BodyText:
    """How *value* is shown."""
    kind: Kind = "text" if isinstance(value, str) else "json"
    text = printable(value) if isinstance(value, str) else as_json(value, indent=2)
    if len(text) > MAX_EDITED:
        return BodyText(kind, f"{text[:SHOWN]}\n…", len(text))
    return BodyText(kind, text)


def from_text(kind: Kind, text: str) -> JSON | Absent:
    """
    The body that was typed; nothing typed is no body.

    Raises:
        EventError: Not JSON; carries line and column.
    """
    if kind == "none" or not text.strip():
        return ABSENT
    return text if kind == "text" else parse_json(text, name="The body")


class BodyEditor:
    """
    The body's part of the form.

    Args:
        edited: Called after the person changed something.
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
            tooltip="What the body is: JSON, text (for example form-encoded), or none at all",
            style=DESCRIPTION,
            layout={"width": "240px"},
        )
        self.text = ipw.Textarea(
            placeholder='{"action": "opened"}',
            rows=12,
            tooltip="The body that the steps get as steps.trigger.event.body",
            layout={"width": "calc(100% - 128px)", "max_width": "880px", "margin": f"2px 2px 2px {COLUMN}"},
        )
        self.text.add_class("pd-body")
        self.pretty = ipw.Button(description="Pretty-print", tooltip="Indent the JSON", layout={"width": "110px"})
        self.replace = ipw.Button(
            description="Write another body", tooltip="Drop this body and write one here", layout={"width": "160px"}
        )
        self._fault = note()
        self._size = note()
        self.kind.observe(self._changed, "value")
        self.text.observe(self._changed, "value")
        self.pretty.on_click(lambda _: self._indent())
        self.replace.on_click(lambda _: self._drop())
        below = ipw.VBox([self._size, self._fault], layout={"margin": BESIDE})
        self.view = ipw.VBox([row(self.kind, self.pretty, self.replace), self.text, below])

    @property
    def touched(self) -> bool:
        """Whether it holds something else than it was filled with."""
        return self._replaced or (self.kind.value, self.text.value) != (self._shown.kind, self._shown.text)

    def fill(self, value: JSON | Absent, *, absent: Kind = "none") -> None:
        """Show *value*, and keep it whole; where there is none, the editor stands on *absent*."""
        self._replaced = False
        self._show(value, BodyText(absent, "") if isinstance(value, Absent) else to_text(value))
        self._changed()

    def write(self, value: JSON) -> None:
        """Put *value* in the place of what is there, as if it were typed."""
        self._replaced = True
        self._show(value, to_text(value))
        self._changed()

    @property
    def fault(self) -> str:
        """What is wrong with what was typed, or nothing."""
        return self._fault_text

    def read(self) -> JSON | Absent:
        """
        The body; what was not touched is exactly what it was filled with.

        Raises:
            EventError: Not JSON; carries line and column.
        """
        if self.kind.value == "none":
            return ABSENT
        kind: Kind = self.kind.value
        if (kind, self.text.value) == (self._shown.kind, self._shown.text):
            return self._value
        if self._is_part:  # the whole of it, taken for the other kind
            whole = (
                self._value
                if isinstance(self._value, str)
                else as_json(None if isinstance(self._value, Absent) else self._value)
            )
            return from_text(kind, whole)
        return from_text(kind, self.text.value)

    @property
    def _is_part(self) -> bool:
        """Whether only the start of the body is in the text field."""
        return self._shown.size is not None and self.text.value == self._shown.text

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
            value = self.read()
        except EventError as error:
            fault = error.message
        if not self._is_part and len(self.text.value) > MAX_EDITED and not isinstance(value, Absent):
            self._replaced = True
            self._show(value, to_text(value))
        self._fault_text = fault
        say(self._fault, fault, kind="error")
        part = self._is_part and kind != "none"
        size = self._shown.size or 0
        say(
            self._size,
            f"The start of a body of {size:,} characters, too long to edit here. The whole of it is sent and saved."
            if part
            else "",
        )
        self.text.disabled = part or kind == "none"
        show(self.text, visible=kind != "none")
        show(self.pretty, visible=kind == "json" and not part)
        show(self.replace, visible=part)
        self.pretty.disabled = bool(fault) or not self.text.value.strip()

    def _drop(self) -> None:
        """Let go of the body, to write another."""
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
            value = from_text("json", self.text.value)
        except EventError:
            return  # the fault stands below the field already
        if not isinstance(value, Absent):
            self.text.value = as_json(value, indent=2)

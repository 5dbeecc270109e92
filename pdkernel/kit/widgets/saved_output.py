"""
The readable output beside a form: text and HTML, drawn again after changes.

A widget's own output is unreadable without a kernel, and its alternative text never changes. This second output has a
display id: the saved notebook holds its last state.
"""

from __future__ import annotations

import html
import threading
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final

from IPython.display import display, update_display
from ipywidgets import DOMWidget

from pdkernel.kit.widgets.components import build_copyable_html
from pdkernel.render.markup import BORDER_STYLE, RichOutput, join_lines, multiline, tag

_PICTURE_STYLE: Final = "border-collapse:separate;border-spacing:6px 4px;margin:4px 0"
_NAME_STYLE: Final = "padding:3px 2px;text-align:right;vertical-align:top;font-weight:normal"
_FIELD_STYLE: Final = f"{BORDER_STYLE};padding:3px 8px;text-align:left;vertical-align:top;min-width:200px"


def build_line_output(text: str, line: str, fields: Sequence[tuple[str, str]] = ()) -> RichOutput:
    """
    *text* with the equivalent magic line and, as HTML, a picture of the form.

    Args:
        text: The choice as a sentence.
        line: The magic line.
        fields: Names and values of the form's fields. The Lab extension hides their picture beside a form that works.
    """
    return RichOutput(
        f"{text}\n{line}",
        f'<div class="pd-view">{html.escape(text)} {build_copyable_html(line)}{build_picture(fields)}</div>',
    )


def build_picture(fields: Sequence[tuple[str, str]]) -> str:
    """Names and values of fields as a table, which the Lab extension hides beside a form that works; empty without a field."""
    rows = [
        tag(
            "tr",
            tag("th", name, scope="row", style=_NAME_STYLE),
            tag("td", multiline(value), style=_FIELD_STYLE),
            style="background:none",  # themes color every second row
        )
        for name, value in fields
    ]
    return tag("table", join_lines(rows), style=_PICTURE_STYLE, class_="pd-picture") if rows else ""


def build_fallback_bundle(bundle: Mapping[str, Any], text: str, shown: str) -> dict[str, Any]:
    """
    The output of a widget with a text for readers without its kernel.

    JupyterLab shows a widget without its model as an error message, and never the other formats of the output. The Lab
    extension shows the HTML in this place, which it finds by the class.

    Args:
        bundle: The widget's own formats.
        text: The text.
        shown: The text as HTML.
    """
    return {**bundle, "text/plain": text, "text/html": f'<div class="pd-fallback">{shown}</div>'}


def display_with_line(widget: DOMWidget, title: str, line: str) -> None:
    """Display *widget*, with *title* and the equivalent magic *line* for readers without its kernel, where it does not work."""
    shown = f"<small>{html.escape(title)} {build_copyable_html(line)}</small>"
    display(build_fallback_bundle(widget._repr_mimebundle_(), f"{title} {line}", shown), raw=True)


class SavedOutput:
    """An output that can be drawn again from any thread; sends no message before `display`."""

    def __init__(self) -> None:
        self.output = RichOutput("", "")
        self._id = uuid.uuid4().hex
        self._displayed = False
        self._lock = threading.Lock()

    def display(self) -> None:
        """Show the output in the running cell."""
        with self._lock:
            self._displayed = True
            display(self.output, display_id=self._id)

    def update(self, view: RichOutput) -> None:
        """Replace the output with *view* wherever it is shown."""
        with self._lock:
            if view == self.output:
                return
            self.output = view
            if self._displayed:
                update_display(view, display_id=self._id)

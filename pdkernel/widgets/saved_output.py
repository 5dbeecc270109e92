"""
The output beside a form that a reader keeps: HTML and text, drawn again as things change.

A widget's own output cannot be read without its kernel, and what stands in it beside the widget is frozen at its
first state. This second output is sent through a display id: it lives on in the saved notebook as it was last.
Knows IPython's display. Knows nothing of sessions.
"""

from __future__ import annotations

import html
import threading
import uuid

from IPython.display import display, update_display

from pdkernel.render.rich_output import RichOutput
from pdkernel.widgets.components import build_copyable_html


def build_line_output(text: str, line: str) -> RichOutput:
    """*text* and the line that says the same without a form."""
    return RichOutput(f"{text}\n{line}", f"<div>{html.escape(text)} {build_copyable_html(line)}</div>")


class SavedOutput:
    """An output that can be drawn again, from any thread; nothing is sent before `display`."""

    def __init__(self) -> None:
        self.output = RichOutput("", "")
        self._id = uuid.uuid4().hex
        self._displayed = False
        self._lock = threading.Lock()

    def display(self) -> None:
        """Show the output here, too, in the cell that runs."""
        with self._lock:
            self._displayed = True
            display(self.output, display_id=self._id)

    def update(self, view: RichOutput) -> None:
        """Show *view* wherever the output is."""
        with self._lock:
            if view == self.output:
                return
            self.output = view
            if self._displayed:
                update_display(view, display_id=self._id)

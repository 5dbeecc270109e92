"""
The readable output beside a form: text and HTML, drawn again after changes.

A widget's own output is unreadable without a kernel, and its alternative text never changes. This second output has a
display id: the saved notebook holds its last state.
"""

from __future__ import annotations

import html
import threading
import uuid

from IPython.display import display, update_display

from pdkernel.render.rich_output import RichOutput
from pdkernel.widgets.components import build_copyable_html


def build_line_output(text: str, line: str) -> RichOutput:
    """*text* with the equivalent magic line."""
    return RichOutput(f"{text}\n{line}", f"<div>{html.escape(text)} {build_copyable_html(line)}</div>")


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

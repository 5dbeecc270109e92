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

from pdkernel.render.view import View
from pdkernel.widgets.parts import copy_html


def sentence(text: str, line: str) -> View:
    """*text* and the line that says the same without a form."""
    return View(f"{text}\n{line}", f"<div>{html.escape(text)} {copy_html(line)}</div>")


class Kept:
    """An output that can be drawn again, from any thread; nothing is sent before `display`."""

    def __init__(self) -> None:
        self.view = View("", "")
        self._id = uuid.uuid4().hex
        self._displayed = False
        self._lock = threading.Lock()

    def display(self) -> None:
        """Show the output here, too, in the cell that runs."""
        with self._lock:
            self._displayed = True
            display(self.view, display_id=self._id)

    def draw(self, view: View) -> None:
        """Show *view* wherever the output is."""
        with self._lock:
            if view == self.view:
                return
            self.view = view
            if self._displayed:
                update_display(view, display_id=self._id)

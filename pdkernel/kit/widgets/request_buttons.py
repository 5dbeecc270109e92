"""Buttons for the latest requests to the served draft: a click makes a request's event the test event."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from typing import Any

import ipywidgets as ipw

from pdkernel.errors import PdkernelError
from pdkernel.execution import Execution
from pdkernel.kit.widgets.components import (
    ROW_LAYOUT,
    build_copyable_html,
    close_tree,
    create_message,
    set_children,
    set_visible,
    show_message,
    show_message_html,
)
from pdkernel.kit.widgets.saved_output import display_with_line

USE_LABEL = "Use as the test event"
_LINE = "%pdserve use"
_PATH = 32
"""Largest length of a path on a button, in characters."""


class RequestButtons(ipw.VBox):
    """
    The buttons, oldest request first, and a message below.

    A button always belongs to the same request: a new request adds a button and removes the oldest, so that a click always
    chooses the request on the label.

    Args:
        use: Makes the event of a run the test event, by the run's id; returns the event's name.
    """

    def __init__(self, use: Callable[[str], str]) -> None:
        self._act = use
        self._lock = threading.Lock()
        self._buttons: dict[str, Any] = {}
        self._row = ipw.HBox(layout=ROW_LAYOUT)
        self._message = create_message()
        self._head = ipw.HTML(f"{USE_LABEL}:")
        super().__init__([self._head, self._row, self._message], layout={"display": "none"})

    def update(self, runs: Collection[Execution]) -> None:
        """Show a button for each request of *runs*; from any thread."""
        with self._lock:
            removed = [self._buttons.pop(run_id) for run_id in self._buttons.keys() - {run.id for run in runs}]
            for run in runs:
                if run.id not in self._buttons:
                    self._buttons[run.id] = self._button(run)
            set_children(self._row, [self._buttons[run.id] for run in runs])
            set_visible(self, visible=bool(runs))
        for button in removed:
            close_tree(button)

    def _button(self, run: Execution) -> Any:
        tooltip = f"{USE_LABEL}; as a line: {_LINE} {run.id}"
        button = ipw.Button(description=_name(run), tooltip=tooltip, layout={"width": "auto"})
        button.on_click(lambda _: self._pressed(run.id))
        return button

    def _pressed(self, run_id: str) -> None:
        try:
            name = self._act(run_id)
        except PdkernelError as error:
            show_message(self._message, str(error), kind="error")
        else:
            show_message_html(
                self._message, f"The test event is now {name}. As a line: {build_copyable_html(f'{_LINE} {run_id}')}"
            )

    def _ipython_display_(self, **_: Any) -> None:
        display_with_line(self, f"{USE_LABEL}:", f"{_LINE} RUN")


def _name(run: Execution) -> str:
    """The label of a request: time of day (UTC), method, path and external user."""
    path = str(run.event.get("path") or "/")
    short = path if len(path) <= _PATH else f"{path[:_PATH]}…"
    who = f" as {run.external_user}" if run.external_user else ""
    return f"{run.started_at[11:23]} {run.event.get('method')} {short}{who}"

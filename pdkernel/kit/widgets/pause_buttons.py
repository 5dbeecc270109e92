"""Buttons for a paused run: resume it now, with data for its step, or cancel it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ipywidgets as ipw

from pdkernel.errors import PdkernelError
from pdkernel.event import parse_json
from pdkernel.execution import Execution
from pdkernel.kit.session import Session
from pdkernel.kit.session.timeline import RESUME_LINE
from pdkernel.kit.widgets.components import (
    ROW_LAYOUT,
    build_named_field,
    create_message,
    press_on_enter,
    set_value,
    set_visible,
    show_message,
)
from pdkernel.kit.widgets.saved_output import display_with_line

RESUME_LABEL = "Resume now"


class PauseButtons(ipw.VBox):
    """
    The buttons and a message below, which are made at the first pause, and hidden while no run is paused.

    Args:
        session: The session of the run.
        execution: The paused run, or None until `set_execution`.
    """

    def __init__(self, session: Session, execution: Execution | None = None) -> None:
        self._session = session
        self._execution: Execution | None = None
        super().__init__(layout={"display": "none"})
        self.set_execution(execution)

    def _make_buttons(self) -> None:
        self.resume_button = ipw.Button(
            description=RESUME_LABEL, button_style="primary", tooltip="End the pause now", layout={"width": "auto"}
        )
        self.cancel_button = ipw.Button(
            description="Cancel the run", tooltip="End the run; no further step starts", layout={"width": "auto"}
        )
        self.data = ipw.Text(
            placeholder='for example {"approved": true}',
            tooltip="What the step gets, as from a call of its resume_url: JSON, or nothing",
            **build_named_field("$resume_data", 360),
        )
        self.message = create_message()
        self.resume_button.on_click(lambda _: self._act(self._resume))
        press_on_enter(self.data, self.resume_button)
        self.cancel_button.on_click(lambda _: self._act(self._session.paused_runs.cancel))
        self.children = [ipw.HBox([self.resume_button, self.data, self.cancel_button], layout=ROW_LAYOUT), self.message]

    def set_execution(self, execution: Execution | None) -> None:
        """Show the buttons for *execution* if it is paused; else hide them. From any thread."""
        is_paused = execution is not None and execution.status == "paused"
        if is_paused and not self.children:
            self._make_buttons()
        if is_paused and self._execution != execution:
            set_value(self.data, "")
            show_message(self.message, "")
        self._execution = execution if is_paused else None
        set_visible(self, visible=is_paused)

    def _resume(self, run_id: str) -> None:
        text = self.data.value.strip()
        self._session.paused_runs.end_pause(run_id, parse_json(text, label="$resume_data") if text else None)

    def _act(self, act: Callable[[str], object]) -> None:
        if self._execution is None:
            return
        try:
            act(self._execution.id)
        except PdkernelError as fault:
            show_message(self.message, str(fault), kind="error")
        else:
            show_message(self.message, "")

    def _ipython_display_(self, **_: Any) -> None:
        line = f"{RESUME_LINE} {self._execution.id if self._execution else 'ID'}"
        display_with_line(self, f"{RESUME_LABEL}:", line)

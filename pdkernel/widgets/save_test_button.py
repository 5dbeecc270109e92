"""The button "Save this run as a test" beside a run."""

from __future__ import annotations

import re
from typing import Any

import ipywidgets as ipw

from pdkernel.errors import PdkernelError
from pdkernel.execution import Execution
from pdkernel.session import Session
from pdkernel.widgets.components import (
    ROW_LAYOUT,
    build_named_field,
    create_message,
    press_on_enter,
    set_value,
    show_message,
)
from pdkernel.widgets.saved_output import display_with_line

SAVE_LABEL = "Save this run as a test"


class SaveTestButton(ipw.VBox):
    """
    A field for the test's name and a button; below, the written files or an error message.

    Args:
        session: The session of the run.
        execution: The run, or None until `set_execution`.
    """

    def __init__(self, session: Session, execution: Execution | None = None) -> None:
        self._session = session
        self._execution: Execution | None = None
        self.name = ipw.Text(
            tooltip="pdkernel writes tests/test_NAME.py beside the notebook", **build_named_field("test name", 290)
        )
        self.button = ipw.Button(
            description=SAVE_LABEL,
            tooltip="Write event, external user, recorded calls and a passing test; no call is sent",
            layout={"width": "190px"},
        )
        self.outcome = create_message()
        self.button.on_click(self._save)
        press_on_enter(self.name, self.button)
        super().__init__([ipw.HBox([self.name, self.button], layout=ROW_LAYOUT), self.outcome])
        if execution is not None:
            self.set_execution(execution)

    @staticmethod
    def can_save(execution: Execution) -> bool:
        """Whether *execution* can be saved: steps ran, and the run has ended and was not cancelled."""
        return execution.status not in ("cancelled", "paused") and any(
            step.status != "not_run" for step in execution.steps
        )

    def set_execution(self, execution: Execution) -> None:
        """Set the run to save."""
        if self._execution is None or self._execution.id != execution.id:
            show_message(self.outcome, "")
            if not self.name.value:
                set_value(self.name, _suggest_test_name(self._session.event_name))
        self._execution = execution

    def _save(self, _button: object) -> None:
        if self._execution is None:
            return
        self.button.disabled = True
        show_message(self.outcome, "Running the test offline ...")
        try:
            summary = self._session.save_as_test(self._execution, self.name.value)
        except PdkernelError as fault:
            show_message(self.outcome, str(fault), kind="error")
        else:
            show_message(self.outcome, summary, kind="success")
        finally:
            self.button.disabled = False

    def _ipython_display_(self, **_: Any) -> None:
        display_with_line(self, f"{SAVE_LABEL}:", "%pdrun --save-test NAME")


def _suggest_test_name(event_name: str | None) -> str:
    """A name for a test, made from the name of the chosen event."""
    return re.sub(r"[^A-Za-z0-9]+", "_", event_name or "").strip("_").lower() or "run"

"""Buttons beside an output: "Save this run as a test", "Prove" below an export, and the one that runs stale steps again."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ipywidgets as ipw

from pdkernel.errors import PdkernelError
from pdkernel.execution import Execution
from pdkernel.kit.session import Session
from pdkernel.kit.widgets.components import (
    ROW_LAYOUT,
    build_named_field,
    create_message,
    press_on_enter,
    set_value,
    show_message,
    show_message_html,
)
from pdkernel.kit.widgets.saved_output import display_with_line
from pdkernel.render.formatting import EXECUTION_LABELS

SAVE_LABEL = "Save this run as a test"
PROVE_LABEL = "Prove"
RUN_STALE_LINE = "%pdrun --stale"


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


class ProveExportButton(ipw.VBox):
    """
    A button; below it, the proof or an error message.

    Args:
        session: The session of the exported notebook.
        folder: The exported folder.
        line: The arguments of `%pdexport`.
        is_patch: Whether the export updated a synced folder.
    """

    def __init__(self, session: Session, folder: Path, line: str, *, is_patch: bool = False) -> None:
        self._session = session
        self._folder = folder
        self._is_patch = is_patch
        self._line = f"%pdexport {line} --prove"
        self.button = ipw.Button(
            description=PROVE_LABEL,
            tooltip="Run the written files and the notebook on every saved event, offline, and compare",
            layout={"width": "100px"},
        )
        self.outcome = create_message()
        self.button.on_click(self._prove)
        super().__init__([ipw.HBox([self.button], layout=ROW_LAYOUT), self.outcome])

    def _prove(self, _button: object) -> None:
        self.button.disabled = True
        show_message(self.outcome, "Running both sides on every saved event, offline ...")
        try:
            show_message_html(
                self.outcome, self._session.prove_export(self._folder, is_patch=self._is_patch).render_html()
            )
        except PdkernelError as fault:
            show_message(self.outcome, str(fault), kind="error")
        finally:
            self.button.disabled = False

    def _ipython_display_(self, **_: Any) -> None:
        display_with_line(self, f"{PROVE_LABEL}:", self._line)


class StaleStepsButton(ipw.VBox):
    """
    A button with the names of the stale steps; below, the result.

    Args:
        steps: Names of the stale steps.
        run: Runs the steps that are stale when the button is pressed.
    """

    def __init__(self, steps: Sequence[str], run: Callable[[], Execution]) -> None:
        self._steps = tuple(steps)
        self._run = run
        self.button = ipw.Button(
            description=f"Run {', '.join(steps)} again",
            tooltip=f"Stale: a step above has run since. The same as {RUN_STALE_LINE}",
            button_style="warning",
            layout={"width": "auto"},
        )
        self.message = create_message()
        self.button.on_click(lambda _: self._press())
        super().__init__([ipw.HBox([self.button], layout=ROW_LAYOUT), self.message])

    def _press(self) -> None:
        self.button.disabled = True
        show_message(self.message, "Running ...")
        try:
            execution = self._run()
        except PdkernelError as fault:
            show_message(self.message, str(fault), kind="error")
        else:
            ran = ", ".join(step.name for step in execution.steps if step.status != "not_run")
            is_good = execution.status in ("success", "exited", "paused")
            show_message(
                self.message,
                f"{ran}: {EXECUTION_LABELS[execution.status].word}.",
                kind="success" if is_good else "error",
            )
        finally:
            self.button.disabled = False

    def _ipython_display_(self, **_: Any) -> None:
        display_with_line(self, f"Stale: {', '.join(self._steps)}. To run them again:", RUN_STALE_LINE)

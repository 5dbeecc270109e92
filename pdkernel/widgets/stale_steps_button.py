"""The button that runs the stale steps below a step again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as ipw

from pdkernel.errors import PdkernelError
from pdkernel.execution import Execution
from pdkernel.render.formatting import EXECUTION_LABELS
from pdkernel.widgets.components import ROW_LAYOUT, create_message, show_message
from pdkernel.widgets.saved_output import display_with_line

RUN_STALE_LINE = "%pdrun --stale"


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

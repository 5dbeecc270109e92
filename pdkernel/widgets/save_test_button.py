"""
The button "Save this run as a test" beside a run.

Knows which run it stands for and shows what was written. Saving itself is `trial`'s.
"""

from __future__ import annotations

from typing import Any

import ipywidgets as ipw
from IPython.display import display

from pdkernel.errors import PdkernelError
from pdkernel.execution import Execution
from pdkernel.session import Session
from pdkernel.session.snapshot_test import save_snapshot_test, suggest_test_name
from pdkernel.widgets.components import ROW_LAYOUT, build_copyable_html, create_message, set_value, show_message

SAVE_LABEL = "Save this run as a test"


class SaveTestButton(ipw.VBox):
    """
    A name and a button; below it, what was written or why nothing was.

    Args:
        session: Whose run it is.
        execution: The run, or None until `set_execution` is told one.
    """

    def __init__(self, session: Session, execution: Execution | None = None) -> None:
        self._session = session
        self._execution: Execution | None = None
        self.name = ipw.Text(
            placeholder="a name for the test",
            tooltip="tests/test_NAME.py is written beside the notebook",
            layout={"width": "220px"},
        )
        self.button = ipw.Button(
            description=SAVE_LABEL,
            tooltip="Write event, external user, recorded calls and a test that passes; nothing is sent",
            layout={"width": "190px"},
        )
        self.outcome = create_message()
        self.button.on_click(self._save)
        super().__init__([ipw.HBox([self.name, self.button], layout=ROW_LAYOUT), self.outcome])
        if execution is not None:
            self.set_execution(execution)

    @staticmethod
    def can_save(execution: Execution) -> bool:
        """Whether there is something to test: the run was not stopped, nor refused before its first step."""
        return execution.status != "cancelled" and any(step.status != "not_run" for step in execution.steps)

    def set_execution(self, execution: Execution) -> None:
        """Stand for *execution* from now on."""
        if self._execution is None or self._execution.id != execution.id:
            show_message(self.outcome, "")
            if not self.name.value:
                set_value(self.name, suggest_test_name(self._session))
        self._execution = execution

    def _save(self, _button: object) -> None:
        if self._execution is None:
            return
        self.button.disabled = True
        show_message(self.outcome, "Trying the test offline ...")
        try:
            said = save_snapshot_test(self._session, self._execution, self.name.value)
        except PdkernelError as fault:
            show_message(self.outcome, str(fault), kind="error")
        else:
            show_message(self.outcome, said, kind="success")
        finally:
            self.button.disabled = False

    def _ipython_display_(self, **_: Any) -> None:
        # without a kernel the button cannot be pressed: a reader sees the line that does the same
        line = "%pdrun --save-test NAME"
        bundle = super()._repr_mimebundle_()
        readable = {
            "text/plain": f"{SAVE_LABEL}: {line}",
            "text/html": f"<small>{SAVE_LABEL}: {build_copyable_html(line)}</small>",
        }
        display({**bundle, **readable}, raw=True)

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
from pdkernel.trial.notebook import proposed_name, save_run
from pdkernel.widgets.parts import ROW, copy_html, note, say, set_value

SAVE = "Save this run as a test"


class SaveRun(ipw.VBox):
    """
    A name and a button; below it, what was written or why nothing was.

    Args:
        session: Whose run it is.
        execution: The run, or None until `of` is told one.
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
            description=SAVE,
            tooltip="Write event, external user, recorded calls and a test that passes; nothing is sent",
            layout={"width": "190px"},
        )
        self.outcome = note()
        self.button.on_click(self._save)
        super().__init__([ipw.HBox([self.name, self.button], layout=ROW), self.outcome])
        if execution is not None:
            self.of(execution)

    @staticmethod
    def fits(execution: Execution) -> bool:
        """Whether there is something to test: the run was not stopped, nor refused before its first step."""
        return execution.status != "cancelled" and any(step.status != "not_run" for step in execution.steps)

    def of(self, execution: Execution) -> None:
        """Stand for *execution* from now on."""
        if self._execution is None or self._execution.id != execution.id:
            say(self.outcome, "")
            if not self.name.value:
                set_value(self.name, proposed_name(self._session))
        self._execution = execution

    def _save(self, _button: object) -> None:
        if self._execution is None:
            return
        self.button.disabled = True
        say(self.outcome, "Trying the test offline ...")
        try:
            said = save_run(self._session, self._execution, self.name.value)
        except PdkernelError as fault:
            say(self.outcome, str(fault), kind="error")
        else:
            say(self.outcome, said, kind="success")
        finally:
            self.button.disabled = False

    def _ipython_display_(self, **_: Any) -> None:
        # without a kernel the button cannot be pressed: a reader sees the line that does the same
        line = "%pdrun --save-test NAME"
        bundle = super()._repr_mimebundle_()
        readable = {"text/plain": f"{SAVE}: {line}", "text/html": f"<small>{SAVE}: {copy_html(line)}</small>"}
        display({**bundle, **readable}, raw=True)

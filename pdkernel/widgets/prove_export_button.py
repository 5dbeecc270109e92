"""The button "Prove" beside the output of an export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ipywidgets as ipw

from pdkernel.errors import PdkernelError
from pdkernel.session import Session
from pdkernel.widgets.components import (
    ROW_LAYOUT,
    create_message,
    show_message,
    show_message_html,
)
from pdkernel.widgets.saved_output import display_with_line

PROVE_LABEL = "Prove"


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

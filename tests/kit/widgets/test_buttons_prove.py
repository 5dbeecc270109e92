"""The button that proves an export."""

from __future__ import annotations

from pathlib import Path

from pdkernel.event import Event
from pdkernel.files.definition import export_to_folder
from pdkernel.kit.session import Session
from pdkernel.kit.widgets import ProveExportButton
from tests.kit.widgets.front_end import press, screen
from tests.notebook_files import notebook_of

ONE = "%%pdstep one\ndef handler(pd):\n    return 1\n"
SLACK = "%%pdstep send --lang node\nexport default { props: { slack: { type: 'app', app: 'slack' } }, run() {} }\n"


def a_button(session: Session, folder: Path, cell: str) -> ProveExportButton:
    """The button below an export of a one-step notebook."""
    session.notebook = notebook_of(folder / "work.ipynb", cell)
    session.record_cell(cell, cell_id="c0")
    export_to_folder(session.source_for_export.workflow, folder / "out", sidecar=session.sidecar)
    return ProveExportButton(session, folder / "out", "--to out")


def test_pressing_proves(session: Session, issue: Event, tmp_path: Path) -> None:
    """The button runs both sides on every saved event and shows the differences."""
    button = a_button(session, tmp_path, ONE)

    press(button, "Prove")

    assert "workflow same; 1 run, steps: 1 same." in screen(button)
    assert not button.button.disabled


def test_an_error_is_shown(session: Session, tmp_path: Path) -> None:
    """An error is shown below the button, which can be clicked again."""
    button = a_button(session, tmp_path, SLACK)
    (tmp_path / "work.pdkernel.yaml").write_text(
        "schema: pdkernel/1\nsteps:\n  send:\n    accounts:\n      slack: unanswered\n"
    )

    press(button, "Prove")

    assert "is unanswered" in screen(button)
    assert not button.button.disabled

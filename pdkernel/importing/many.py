"""
A whole synced repository: which folders are workflows, where each one's notebook stands, one import after the other.

Knows folders. What one import is, is `one`'s to know.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pdkernel.actions import Catalog
from pdkernel.definition import AccountChoice, Sidecar, notebook_sidecar_path, read_sidecar
from pdkernel.errors import NotebookError, PdkernelError, RequestError
from pdkernel.importing.accounts import AccountQuestion, Answer
from pdkernel.importing.one import ReadFolder, TriggerAnswers, read_for_import, texts
from pdkernel.importing.place import State, write_texts
from pdkernel.importing.report import report_on
from pdkernel.model import Workflow
from pdkernel.render.import_report import ImportReport

WORKFLOW_FILE = "workflow.yaml"
NOTEBOOK = ".ipynb"
_NO_STATE = (
    "The folder has no `.workflow.state`, by which Pipedream knows the workflow: an export back into it is not "
    "deployed until it has one."
)

Asker = Callable[[Sequence[AccountQuestion]], Mapping[tuple[str, str], Answer]]
"""Given the questions of a workflow, the answers by app and id; one that is left out is unanswered."""


@dataclass(frozen=True)
class Imported:
    """
    What became of one workflow.

    Attributes:
        folder: Where it was.
        notebook: Where its notebook is, or would be.
        state: `new`, `unchanged` (a notebook that says the same was there) or `replaced`; None if it failed.
        report: What it needs here; None if it failed.
        kept: Where files are now that stood in its place.
        error: Why it could not be imported, or None.
    """

    folder: Path
    notebook: Path
    state: State | None = None
    report: ImportReport | None = None
    kept: tuple[Path, ...] = ()
    error: PdkernelError | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON: `{"folder", "notebook", "state", "kept", "report", "error"}`."""
        error = self.error
        return {
            "folder": str(self.folder),
            "notebook": str(self.notebook),
            "state": self.state or "failed",
            "kept": [str(path) for path in self.kept],
            "report": self.report.to_json() if self.report is not None else None,
            "error": None
            if error is None
            else {
                "code": error.code,
                "message": str(error),
                "step": getattr(error, "step", None),
                "line": getattr(error, "line", None),
            },
        }


def find_folders(root: Path) -> list[Path]:
    """
    Every workflow's folder in *root*, itself among them, by path; links and hidden folders are not followed.

    Raises:
        NotebookError: There is none, or *root* is no folder.
    """
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise NotebookError(f"{root} {what}.", fix="Name a workflow's folder, or a repository that Pipedream synced.")
    found: list[Path] = []
    for place, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "node_modules")
        if WORKFLOW_FILE in files or WORKFLOW_FILE in folders:
            found.append(Path(place))
    if not found:
        raise NotebookError(f"{root} holds no workflow: no folder in it has a {WORKFLOW_FILE}.")
    return found


def places(root: Path, folders: Sequence[Path], to: Path) -> list[tuple[Path, Path]]:
    """
    Where the notebook of each of *folders* goes: *to* itself if it is a notebook's name, else below it as in *root*.

    Raises:
        RequestError: One name for several workflows, or a place inside *root*, which an import never writes to.
    """
    if to.suffix == NOTEBOOK:
        if len(folders) > 1:
            raise RequestError(
                f"{root} holds {len(folders)} workflows, and {to} is one notebook.", fix="Give --to a folder's name."
            )
        made = [(folders[0], to)]
    else:
        made = [(folder, to / _name(root, folder)) for folder in folders]
    within = root.resolve()
    for _, notebook in made:
        if notebook.parent.resolve().is_relative_to(within):
            raise RequestError(
                f"{notebook} is inside {root}, and an import writes nothing into what it imports.",
                fix="Choose a place beside it.",
            )
        if to.suffix != NOTEBOOK and not notebook.parent.resolve().is_relative_to(to.resolve()):
            raise RequestError(f"{notebook.parent} is a link that leads out of {to}.", fix="Choose another folder.")
    return made


def _name(root: Path, folder: Path) -> Path:
    inside = folder.relative_to(root)
    if not inside.parts:
        return Path(f"{folder.resolve().name or 'workflow'}{NOTEBOOK}")
    return inside.with_name(f"{inside.name}{NOTEBOOK}")


def import_folder(
    folder: Path,
    notebook: Path,
    *,
    catalog: Callable[[Sidecar], Catalog],
    answers: Asker,
    triggers: TriggerAnswers | None = None,
    force: bool = False,
) -> Imported:
    """
    Import the workflow in *folder* as *notebook*; what is wrong with it is told in the result, not raised.

    Args:
        folder: The workflow's.
        notebook: Where to.
        catalog: The pre-built actions that would run, given the `pdkernel.yaml` that the notebook gets.
        answers: Says whose accounts are meant.
        triggers: Says what Git does not hold of the triggers, at the first import; None asks nothing.
        force: Put a notebook that is there aside.
    """
    try:
        earlier = read_sidecar(notebook_sidecar_path(notebook))
        read = read_for_import(folder, earlier=earlier)
        if triggers is not None and earlier is None:
            read = read.with_triggers(triggers)

        def report(workflow: Workflow, choices: Mapping[str, Mapping[str, AccountChoice]]) -> ImportReport:
            used = catalog((earlier if earlier and earlier.actions else read.synced.sidecar) or Sidecar())
            return report_on(workflow, used, choices=choices, assumed=read.assumed, notes=_notes(read))

        given = answers(read.asked) if read.asked else {}
        made, told = texts(read, given, place=notebook.parent.resolve(), report=report, earlier=earlier)
        state, kept = write_texts(made, notebook, force=force)
    except PdkernelError as error:
        return Imported(folder, notebook, error=error)
    return Imported(folder, notebook, state, told, kept)


def _notes(read: ReadFolder) -> tuple[str, ...]:
    if not read.missing_state:
        return ()
    return (_NO_STATE,)

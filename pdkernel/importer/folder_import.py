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
from pdkernel.definition import AccountChoice, Sidecar, get_notebook_sidecar_path, read_sidecar
from pdkernel.errors import NotebookError, PdkernelError, RequestError
from pdkernel.importer.account_questions import AccountAnswer, AccountQuestion
from pdkernel.importer.notebook_texts import AskTrigger, ImportSource, build_notebook_texts, read_for_import
from pdkernel.importer.place import ImportState, write_notebook_files
from pdkernel.importer.requirements_report import build_import_report
from pdkernel.model import Workflow
from pdkernel.render.import_report import ImportReport

WORKFLOW_FILE = "workflow.yaml"
NOTEBOOK_SUFFIX = ".ipynb"
_NO_STATE_NOTE = (
    "The folder has no `.workflow.state`, by which Pipedream knows the workflow: an export back into it is not "
    "deployed until it has one."
)

AskAccounts = Callable[[Sequence[AccountQuestion]], Mapping[tuple[str, str], AccountAnswer]]
"""Given the questions of a workflow, the answers by app and id; one that is left out is unanswered."""


@dataclass(frozen=True)
class ImportResult:
    """
    What became of one workflow.

    Attributes:
        folder: Where it was.
        notebook: Where its notebook is, or would be.
        state: `new`, `unchanged` (a notebook that says the same was there) or `replaced`; None if it failed.
        report: What it needs here; None if it failed.
        backups: Where files are now that stood in its place.
        error: Why it could not be imported, or None.
    """

    folder: Path
    notebook: Path
    state: ImportState | None = None
    report: ImportReport | None = None
    backups: tuple[Path, ...] = ()
    error: PdkernelError | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON: `{"folder", "notebook", "state", "kept", "report", "error"}`."""
        error = self.error
        return {
            "folder": str(self.folder),
            "notebook": str(self.notebook),
            "state": self.state or "failed",
            "kept": [str(path) for path in self.backups],
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


def find_workflow_folders(root: Path) -> list[Path]:
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


def plan_notebook_paths(root: Path, folders: Sequence[Path], target: Path) -> list[tuple[Path, Path]]:
    """
    Where the notebook of each of *folders* goes: *target* itself if it is a notebook's name, else below it as in *root*.

    Raises:
        RequestError: One name for several workflows, or a place inside *root*, which an import never writes to.
    """
    if target.suffix == NOTEBOOK_SUFFIX:
        if len(folders) > 1:
            raise RequestError(
                f"{root} holds {len(folders)} workflows, and {target} is one notebook.",
                fix="Give --to a folder's name.",
            )
        made = [(folders[0], target)]
    else:
        made = [(folder, target / _name(root, folder)) for folder in folders]
    within = root.resolve()
    for _, notebook in made:
        if notebook.parent.resolve().is_relative_to(within):
            raise RequestError(
                f"{notebook} is inside {root}, and an import writes nothing into what it imports.",
                fix="Choose a place beside it.",
            )
        if target.suffix != NOTEBOOK_SUFFIX and not notebook.parent.resolve().is_relative_to(target.resolve()):
            raise RequestError(f"{notebook.parent} is a link that leads out of {target}.", fix="Choose another folder.")
    return made


def _name(root: Path, folder: Path) -> Path:
    inside = folder.relative_to(root)
    if not inside.parts:
        return Path(f"{folder.resolve().name or 'workflow'}{NOTEBOOK_SUFFIX}")
    return inside.with_name(f"{inside.name}{NOTEBOOK_SUFFIX}")


def import_folder(
    folder: Path,
    notebook: Path,
    *,
    build_catalog: Callable[[Sidecar], Catalog],
    ask_accounts: AskAccounts,
    ask_trigger: AskTrigger | None = None,
    force: bool = False,
) -> ImportResult:
    """
    Import the workflow in *folder* as *notebook*; what is wrong with it is told in the result, not raised.

    Args:
        folder: The workflow's.
        notebook: Where to.
        build_catalog: The pre-built actions that would run, given the `pdkernel.yaml` that the notebook gets.
        ask_accounts: Says whose accounts are meant.
        ask_trigger: Says what Git does not hold of the triggers, at the first import; None asks nothing.
        force: Put a notebook that is there aside.
    """
    try:
        earlier = read_sidecar(get_notebook_sidecar_path(notebook))
        read = read_for_import(folder, earlier_sidecar=earlier)
        if ask_trigger is not None and earlier is None:
            read = read.with_triggers(ask_trigger)

        def report(workflow: Workflow, choices: Mapping[str, Mapping[str, AccountChoice]]) -> ImportReport:
            used = build_catalog((earlier if earlier and earlier.actions else read.synced.sidecar) or Sidecar())
            return build_import_report(
                workflow, used, choices=choices, assumed_triggers=read.assumed_triggers, notes=_notes(read)
            )

        given = ask_accounts(read.questions) if read.questions else {}
        made, told = build_notebook_texts(
            read, given, notebook_folder=notebook.parent.resolve(), build_report=report, earlier_sidecar=earlier
        )
        state, kept = write_notebook_files(made, notebook, force=force)
    except PdkernelError as error:
        return ImportResult(folder, notebook, error=error)
    return ImportResult(folder, notebook, state, told, kept)


def _notes(read: ImportSource) -> tuple[str, ...]:
    if not read.is_state_missing:
        return ()
    return (_NO_STATE_NOTE,)

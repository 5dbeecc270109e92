"""
Imports workflows as notebooks. Of a synced repository: finds workflow folders, plans notebook paths, builds and writes one notebook after the other.

A notebook with other content is never overwritten; with *force* it is renamed to a backup. The notebook and its
`pdkernel.yaml` are written together or not at all. Steps of the platform's first version may be rewritten in the notebook; the
imported folder stays as it is.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pdkernel.actions import Catalog
from pdkernel.common.encode import JsonStruct
from pdkernel.errors import DefinitionError, NotebookError, PdkernelError, RequestError
from pdkernel.files.definition import (
    AccountChoice,
    DefinitionFile,
    Sidecar,
    get_notebook_sidecar_path,
    read_sidecar,
    write_definition_files,
)
from pdkernel.files.definition.archive import MANIFEST
from pdkernel.files.definition.folder_write import complete_write
from pdkernel.files.definition.sidecar import parse_sidecar
from pdkernel.files.notebook import MAX_CELLS_BYTES, METADATA_KEY
from pdkernel.files.source import WORKFLOW_FILE, iter_workflow_paths
from pdkernel.language.analysis.old_code import find_old_uses, format_old_uses, modernize
from pdkernel.model import Workflow
from pdkernel.operations.importer.import_report import ImportReport, build_import_report
from pdkernel.operations.importer.notebook_texts import (
    AccountAnswer,
    AccountQuestion,
    AskTrigger,
    ImportSource,
    NotebookTexts,
    build_notebook_texts,
    read_for_import,
)

NOTEBOOK_SUFFIX = ".ipynb"
ImportState = Literal["new", "unchanged", "replaced"]

AskAccounts = Callable[[Sequence[AccountQuestion]], Mapping[tuple[str, str], AccountAnswer]]
"""Returns the answers to a workflow's questions, by app and id; a missing answer means unanswered."""


class ImportResult(JsonStruct, frozen=True):
    """
    The result for one workflow.

    Attributes:
        folder: The workflow's folder.
        notebook: The notebook's path, even if it was not written.
        state: `new`, `unchanged` (the notebook had the same content) or `replaced`; None after an error.
        report: The requirements of the workflow; None after an error.
        backups: Paths of the replaced files' backups.
        error: The error, or None.
        rewrites: The steps of the platform's first version that were rewritten.
    """

    folder: Path
    notebook: Path
    state: ImportState | None = None
    report: ImportReport | None = None
    backups: tuple[Path, ...] = ()
    error: PdkernelError | None = None
    rewrites: tuple[StepRewrite, ...] = ()

    def json_form(self) -> object:
        """Return `{"folder", "notebook", "state", "kept", "report", "rewrites", "error"}`."""
        error = self.error
        return {
            "folder": self.folder,
            "notebook": self.notebook,
            "state": self.state or "failed",
            "kept": self.backups,
            "report": self.report,
            "rewrites": self.rewrites,
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
    Every workflow's folder in *root*, including *root* itself, by path; links and hidden folders are not followed.

    Raises:
        NotebookError: There is no workflow, or *root* is not a folder.
    """
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise NotebookError(f"{root} {what}.", fix="Name a workflow's folder, or a repository that Pipedream synced.")
    found = list(iter_workflow_paths(root, include_notebooks=False))
    if not found:
        is_unpacked = (root / MANIFEST).is_file()
        raise NotebookError(
            f"{root} holds no workflow: no folder in it has a {WORKFLOW_FILE}.",
            fix="If it is an unpacked archive of Pipedream, name the ZIP itself."
            if is_unpacked
            else "Name the folder of a repository that Pipedream synced.",
        )
    return found


def plan_notebook_paths(root: Path, folders: Sequence[Path], target: Path) -> list[tuple[Path, Path]]:
    """
    Return the notebook path for each of *folders*: *target* if it is a notebook's name, else a path below it as in *root*.

    Raises:
        RequestError: *target* is one notebook for several workflows, or a path is inside *root*.
    """
    if target.suffix == NOTEBOOK_SUFFIX:
        if len(folders) > 1:
            raise RequestError(
                f"{root} holds {len(folders)} workflows, and {target} is one notebook.",
                fix="Give --to a folder's name.",
            )
        paths = [(folders[0], target)]
    else:
        paths = [(folder, target / _name(root, folder)) for folder in folders]
    within = root.resolve()
    for _, notebook in paths:
        if notebook.parent.resolve().is_relative_to(within):
            raise RequestError(
                f"{notebook} is inside {root}; an import does not write into the folder that it imports.",
                fix="Choose a path outside that folder.",
            )
        if target.suffix != NOTEBOOK_SUFFIX and not notebook.parent.resolve().is_relative_to(target.resolve()):
            raise RequestError(f"{notebook.parent} is a link that leads out of {target}.", fix="Choose another folder.")
    return paths


def _name(root: Path, folder: Path) -> Path:
    inside = folder.relative_to(root)
    if not inside.parts:
        return Path(f"{folder.resolve().name or 'workflow'}{NOTEBOOK_SUFFIX}")
    return inside.with_name(f"{inside.name}{NOTEBOOK_SUFFIX}")


@dataclass(frozen=True)
class ImportOptions:
    """
    How workflows are imported.

    Attributes:
        build_catalog: Builds the catalog of pre-built actions for the notebook's `pdkernel.yaml` and the workflow.
        ask_accounts: Answers the account questions.
        ask_trigger: Answers for trigger settings that Pipedream's files do not hold, at the first import; None asks nothing.
        force: Replace an existing notebook and keep a backup.
        asks_undefined_props: Ask for accounts of app props that only code declares; else they are the external user's.
        modernizes: Rewrite steps that are written for the platform's first version, as far as that is mechanical.
    """

    build_catalog: Callable[[Sidecar, Workflow], Catalog]
    ask_accounts: AskAccounts
    ask_trigger: AskTrigger | None
    force: bool
    asks_undefined_props: bool = False
    modernizes: bool = False


def import_folder(folder: Path, notebook: Path, options: ImportOptions) -> ImportResult:
    """Import the workflow in *folder* as *notebook*; an error is part of the result and not raised."""
    return import_workflow(
        folder, notebook, lambda earlier: read_for_import(folder, earlier_sidecar=earlier), options=options
    )


def import_workflow(
    source: Path,
    notebook: Path,
    read: Callable[[Sidecar | None], ImportSource],
    *,
    options: ImportOptions,
    staged: Path | None = None,
) -> ImportResult:
    """
    Import one workflow as *notebook*; an error is part of the result and not raised.

    Args:
        source: Where the workflow is, for the result.
        notebook: The notebook's path.
        read: Reads the workflow, with the `pdkernel.yaml` of an earlier import or None.
        options: How the workflow is imported.
        staged: Where the notebook is written until a whole import is complete; None writes it at once.
    """
    rewrites: tuple[StepRewrite, ...] = ()
    try:
        earlier = read_sidecar(get_notebook_sidecar_path(notebook))
        found = read(earlier)
        if options.modernizes:
            found, rewrites = modernize_steps(found)
        sidecar = (earlier if earlier and earlier.actions else found.synced.sidecar) or Sidecar()
        catalog = options.build_catalog(sidecar, found.workflow)
        found = found.with_declared_apps(catalog.find_app_bindings, include_undefined=options.asks_undefined_props)
        if options.ask_trigger is not None and earlier is None:
            found = found.with_triggers(options.ask_trigger)

        def report(workflow: Workflow, choices: Mapping[str, Mapping[str, AccountChoice]]) -> ImportReport:
            return build_import_report(
                workflow, catalog, choices=choices, assumed_triggers=found.assumed_triggers, notes=found.notes
            )

        answers = options.ask_accounts(found.questions) if found.questions else {}
        texts, import_report = build_notebook_texts(
            found, answers, notebook_folder=notebook.parent.resolve(), build_report=report, earlier_sidecar=earlier
        )
        _check_size(texts, notebook)
        state, backups = write_notebook_files(texts, staged or notebook, force=options.force)
    except PdkernelError as error:
        return ImportResult(source, notebook, error=error)
    return ImportResult(source, notebook, state, import_report, backups, rewrites=rewrites)


def _check_size(texts: NotebookTexts, notebook: Path) -> None:
    """Raise `RequestError` for a notebook that would be too large to be read."""
    if (size := len(texts.notebook.encode())) > MAX_CELLS_BYTES:
        raise RequestError(
            f"The notebook {notebook} would have {size / 1024**2:.1f} MB, and may have {MAX_CELLS_BYTES // 1024**2} MB; "
            "nothing was written.",
            fix="Run and serve the folder itself, or move data out of the code of its steps.",
        )


def write_notebook_files(texts: NotebookTexts, notebook: Path, *, force: bool) -> tuple[ImportState, tuple[Path, ...]]:
    """
    Write *texts* as *notebook* and its `pdkernel.yaml`. A write into the folder that a kill has interrupted is completed first.

    Returns:
        The state, and the paths of the backups.

    Raises:
        RequestError: A notebook with other content exists and *force* is False, or the files cannot be written.
    """
    sidecar = get_notebook_sidecar_path(notebook)
    try:
        complete_write(notebook.parent)
        existing = [path for path in (notebook, sidecar) if path.exists() or path.is_symlink()]
        if existing and _has_same_content(texts, notebook, sidecar):
            return "unchanged", ()
        if existing and not force:
            raise RequestError(
                f"{existing[0]} exists already, and its content differs from this import; nothing was changed.",
                fix="Import to another name, or pass --force: the existing file is kept as a backup beside the new notebook.",
            )
        kept: list[Path] = []
        try:
            for path in existing:
                kept.append(_rename_to_backup(path))  # noqa: PERF401 - must know the backups before a failure
            notebook.parent.mkdir(parents=True, exist_ok=True)
            # The notebook comes last: if it exists, its pdkernel.yaml exists too.
            files = [DefinitionFile(sidecar.name, texts.sidecar), DefinitionFile(notebook.name, texts.notebook)]
            write_definition_files(files, notebook.parent)
        except BaseException:
            for path, backup in zip(existing, kept, strict=False):
                backup.rename(path)
            raise
    except OSError as error:
        raise RequestError(
            f"{notebook} cannot be written: {error.strerror or error}.", fix="Import into a writable folder."
        ) from None
    return "replaced" if kept else "new", tuple(kept)


def _rename_to_backup(path: Path) -> Path:
    number = 1
    while (kept := path.with_name(f"{path.name}.before-import-{number}")).exists():
        number += 1
    return path.rename(kept)


def _has_same_content(texts: NotebookTexts, notebook: Path, sidecar: Path) -> bool:
    """Return whether the existing files hold the same workflow and answers; outputs and the import report may differ."""
    try:
        existing = parse_sidecar(sidecar.read_text(encoding="utf-8"))
        cells = _cells(json.loads(notebook.read_text(encoding="utf-8")))
    except (OSError, ValueError, DefinitionError):
        return False
    return existing == parse_sidecar(texts.sidecar) and cells == _cells(json.loads(texts.notebook))


def _cells(notebook: Any) -> list[Any] | None:
    cells = notebook.get("cells") if isinstance(notebook, dict) else None
    if not isinstance(cells, list):
        return None
    found = [
        (cell.get("cell_type"), _text(cell), _get_pdkernel_metadata(cell)) for cell in cells if isinstance(cell, dict)
    ]
    return [cell for cell in found if not (isinstance(cell[2], Mapping) and cell[2].get("report"))]


def _text(cell: Mapping[str, Any]) -> str:
    source = cell.get("source", "")
    return "".join(source) if isinstance(source, list) else str(source)


def _get_pdkernel_metadata(cell: Mapping[str, Any]) -> Any:
    metadata = cell.get("metadata")
    return metadata.get(METADATA_KEY) if isinstance(metadata, dict) else None


class StepRewrite(JsonStruct, frozen=True):
    """
    The translation of one step.

    Attributes:
        step: The step's name.
        difference: The unified difference of its code; empty if nothing was rewritten.
        left: What a person has to rewrite, a line for each place of the new code.
    """

    step: str
    difference: str
    left: str

    def json_form(self) -> object:
        """Return `{"step", "difference", "left"}`."""
        return {"step": self.step, "difference": self.difference, "left": self.left.splitlines()}


def modernize_steps(read: ImportSource) -> tuple[ImportSource, tuple[StepRewrite, ...]]:
    """Return *read* with the code of its old steps rewritten, and what was rewritten."""
    workflow = read.synced.workflow
    steps, rewrites = [], []
    for step in workflow.steps:
        if step.language != "node" or step.uses or not find_old_uses(step.source):
            steps.append(step)
            continue
        modern = modernize(step.source)
        before, after = (text.splitlines(keepends=True) for text in (step.source, modern.source))
        changes = difflib.unified_diff(before, after, f"{step.name} before", step.name)
        difference = "".join(line if line.endswith("\n") else f"{line}\n" for line in changes)
        rewrites.append(StepRewrite(step.name, difference, format_old_uses(modern.left)))
        steps.append(replace(step, source=modern.source))
    written = replace(workflow, steps=tuple(steps))
    return replace(read, synced=replace(read.synced, workflow=written)), tuple(rewrites)

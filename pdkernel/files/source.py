"""
Finds and loads workflows. A SOURCE is a notebook, a workflow's folder, or a folder that contains both.

`pdkernel.yaml` is applied to each workflow.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Literal, Self

from pdkernel.common.safe_files import SCRATCH_PREFIX, STEP_PATHS_VARIABLE, find_step_paths
from pdkernel.egress import PolicyCell
from pdkernel.errors import NotebookError, PdkernelError, UnsupportedError
from pdkernel.files.definition import (
    SIDECAR_FILE_NAME,
    Sidecar,
    StepSidecar,
    UnansweredPolicy,
    apply_sidecar,
    describe_assumptions,
    get_notebook_sidecar_path,
    read_folder_workflow,
    read_sidecar,
    slugify,
)
from pdkernel.files.definition.entry_file import build_file_reader
from pdkernel.files.definition.file_plan import WORKFLOW_FILE
from pdkernel.files.definition.sidecar import resolve_account
from pdkernel.files.notebook import find_policy_cells, is_notebook_file, read_cells, read_notebook
from pdkernel.language.analysis import check_import_complete, count_parents, with_step_files
from pdkernel.model import Step, Workflow

__all__ = [
    "EVENTS_FOLDER",
    "WORKFLOW_FILE",
    "RefusedSource",
    "WorkflowSource",
    "check_active",
    "file_stamps",
    "find_sibling_workflow",
    "find_sources",
    "has_workflow",
    "is_workflow_called",
    "iter_workflow_paths",
    "load_served_source",
    "load_source",
    "load_workflow",
    "reload_source",
    "slugify",
    "with_files_beside",
]

EVENTS_FOLDER = "events"
"""Name of the folder beside a source with saved events, `NAME.json`, and their recordings, `NAME.recorded.jsonl`."""
_NOTEBOOK_SUFFIX = ".ipynb"
_WORKFLOW_ID = re.compile(r"p_[A-Za-z0-9]+")
_MAX_SIBLING_DEPTH = 4
"""Levels of subfolders that are searched for another workflow while a step waits."""
_MAX_STAMPED_DEPTH = 4
_MAX_STAMPED_FILES = 1000
"""Maximum number of files of a workflow's folder that are checked for changes, because the folder may also contain data."""


@dataclass(frozen=True, slots=True, repr=False)
class WorkflowSource:
    """
    A loaded workflow with its files.

    Attributes:
        path: The notebook or the workflow's folder.
        kind: The kind of *path*.
        workflow: The workflow with `pdkernel.yaml` applied.
        sidecar: The content of `pdkernel.yaml`, or None.
        assumed_settings: For a synced folder without `pdkernel.yaml`, sentences about the settings that are assumed.
        served_id: The id with which a server serves the workflow that a step triggers; else None.
        policy_cells: The cells of the notebook that set the outbound policy.
    """

    path: Path
    kind: Literal["notebook", "folder"]
    workflow: Workflow
    sidecar: Sidecar | None = None
    assumed_settings: tuple[str, ...] = ()
    served_id: str | None = None
    policy_cells: tuple[PolicyCell, ...] = ()

    def __repr__(self) -> str:
        steps = ", ".join(step.name for step in self.workflow.steps)
        return f"WorkflowSource({self.workflow.name!r}, path={str(self.path)!r}, steps=[{steps}])"

    @property
    def folder(self) -> Path:
        """The folder in which imports and files of steps are resolved."""
        return self.path.parent if self.kind == "notebook" else self.path


@dataclass(frozen=True, slots=True)
class RefusedSource:
    """
    A workflow that is not served.

    Attributes:
        path: The notebook or the workflow's folder.
        name: The workflow's name; if it cannot be read, the name of the file or folder.
        error: Why the workflow is not served.
    """

    path: Path
    name: str
    error: PdkernelError

    @classmethod
    def build(cls, path: Path, error: PdkernelError) -> Self:
        """Return the workflow at *path*, which *error* keeps from being served."""
        try:
            name = _load(path, "keep").workflow.name
        except PdkernelError:
            name = _name_of(path)
        return cls(path, name, error)

    @property
    def reason(self) -> str:
        """Why the workflow is not served, and what to do, on one line, without the path at its start."""
        return " ".join(str(self.error).split()).removeprefix(f"{self.path}/").removeprefix(f"{self.path}: ")


def load_workflow(path: Path) -> Workflow:
    """
    Load the one workflow at *path*.

    Raises:
        NotebookError: There is no workflow, or there are several.
        DefinitionError: The workflow is invalid.
        RequestError: Its `pdkernel.yaml` has unanswered entries.
    """
    return load_source(path).workflow


def load_source(
    path: Path, *, unanswered: UnansweredPolicy = "refuse", pinned_steps: Collection[str] = (), lenient: bool = False
) -> WorkflowSource:
    """
    Load the one workflow at *path* with its sidecar; see `load_workflow` for the errors.

    Args:
        path: A notebook, a workflow's folder, or a folder with one workflow.
        unanswered: `refuse` for callers that run the workflow. `keep` accepts unanswered app props, steps without code and
            unsupported entries.
        pinned_steps: Steps whose exports are pinned: they may have no code and unanswered app props.
        lenient: Whether step cells with errors become steps with a `problem`, so that other steps can run.
    """
    found = [path] if (path / WORKFLOW_FILE).is_file() else list(_iter_source_paths(path))
    if len(found) > 1:
        names = ", ".join(entry.name for entry in found[:5]) + (", ..." if len(found) > 5 else "")
        raise NotebookError(f"{path} contains {len(found)} workflows: {names}.", fix="Pass the path of one of them.")
    if not pinned_steps or unanswered == "keep":
        return _load(found[0], unanswered, lenient=lenient)
    source = _load(found[0], "keep", lenient=lenient)
    _check_unpinned(source, frozenset(pinned_steps))
    return source


def find_sources(path: Path) -> tuple[Path, ...]:
    """
    Return the path of every workflow at *path*: a notebook, or all workflows in a folder and its subfolders, by name.

    Raises:
        NotebookError: There is no workflow.
    """
    return tuple(_iter_source_paths(path))


def load_served_source(path: Path) -> WorkflowSource:
    """
    Load the workflow at *path*, one of `find_sources`, for a server.

    Raises:
        NotebookError: The source cannot be read.
        DefinitionError: The workflow is invalid or inactive.
        RequestError: Its `pdkernel.yaml` has unanswered entries.
    """
    source = _load(path)
    check_active(source)
    return source


def check_active(source: WorkflowSource) -> None:
    """
    Check that the workflow is turned on.

    Raises:
        UnsupportedError: The workflow is inactive.
    """
    if source.workflow.is_inactive:
        where = (
            f"{source.path / WORKFLOW_FILE}" if source.kind == "folder" else f"the %%pdworkflow cell of {source.path}"
        )
        raise UnsupportedError(
            f"{source.workflow.name!r} is inactive: it is turned off on Pipedream.",
            fix=f"To serve it, remove `inactive: true` from {where}.",
        )


def reload_source(source: WorkflowSource) -> WorkflowSource:
    """
    Load *source* again from disk.

    Raises:
        NotebookError: The source was removed, or cannot be read.
        DefinitionError: The workflow is invalid.
        RequestError: Its `pdkernel.yaml` has unanswered entries.
    """
    if not source.path.exists():
        raise NotebookError(f"{source.path} does not exist any more.", fix="Restore it, or pass its new path.")
    return _load(source.path)


def file_stamps(path: Path, workflow: Workflow | None = None) -> tuple[tuple[str, int, int], ...]:
    """
    Return names, times and sizes of the files of the workflow at *path*. If they differ from earlier ones, it may have changed.

    Args:
        path: The notebook or the workflow's folder.
        workflow: The workflow as it was loaded, for the files that its steps import; None if it could not be loaded.
    """
    if not path.is_dir():
        imported = {path.parent / file for step in (workflow.steps if workflow else ()) for file in step.files}
        files = [path, get_notebook_sidecar_path(path), *sorted(imported)]
    else:
        files = list(islice(_iter_files(path, _MAX_STAMPED_DEPTH), _MAX_STAMPED_FILES))
    stamps = []
    for file in files:
        with suppress(OSError):  # the file does not exist, or was removed
            status = file.stat()
            stamps.append((str(file), status.st_mtime_ns, status.st_size))
    return tuple(stamps)


def _iter_files(folder: Path, depth: int) -> Iterator[Path]:
    with suppress(OSError):
        for entry in sorted(folder.iterdir()):
            if entry.name.startswith(".") or entry.name in ("node_modules", "__pycache__"):
                continue
            if entry.is_dir() and not entry.is_symlink():
                yield from _iter_files(entry, depth - 1) if depth > 0 else ()
            else:
                yield entry


def has_workflow(folder: Path) -> bool:
    """Return whether there is a workflow in *folder* or its subfolders."""
    return any(True for _ in iter_workflow_paths(folder))


def iter_workflow_paths(
    folder: Path, *, include_notebooks: bool = True, max_depth: int | None = None
) -> Iterator[Path]:
    """
    Yield the workflows in *folder* and its subfolders in the order of their paths.

    A folder with a `workflow.yaml` is a workflow, and so is a notebook outside of such folders: a `.ipynb` file, or a `.py`
    file in percent format, unless a `.ipynb` file of the same name is beside it (Jupytext pairs them). Links, hidden folders
    (checkpoints, caches, Git's own files), `node_modules`, folders that cannot be read, and the paths below *folder* that steps
    may change (`PDKERNEL_STEP_PATHS`, their temporary files) are skipped.

    Args:
        folder: The folder to search; it may be a workflow's folder itself.
        include_notebooks: Whether notebooks are yielded.
        max_depth: Levels of subfolders to search, or None for all.
    """
    try:
        written = {path.resolve() for path in find_step_paths(os.environ.get(STEP_PATHS_VARIABLE, ""))}
        entries = sorted(entry for entry in folder.iterdir() if not _is_written_by_steps(entry, written))
    except OSError:
        return
    if any(entry.name == WORKFLOW_FILE for entry in entries):
        yield folder
        include_notebooks = False
    for entry in entries:
        if entry.name.startswith(".") or entry.name == "node_modules":
            continue
        if entry.is_dir() and not entry.is_symlink():
            if max_depth != 0:
                deeper = None if max_depth is None else max_depth - 1
                yield from iter_workflow_paths(entry, include_notebooks=include_notebooks, max_depth=deeper)
        elif include_notebooks and is_notebook_file(entry):
            if entry.suffix != _NOTEBOOK_SUFFIX and entry.with_suffix(_NOTEBOOK_SUFFIX) in entries:
                continue
            yield entry


def _is_written_by_steps(entry: Path, written: Collection[Path]) -> bool:
    return entry.name.startswith(SCRATCH_PREFIX) or (bool(written) and entry.resolve() in written)


def find_sibling_workflow(name: str, source: Path | None) -> WorkflowSource | None:
    """
    Load another workflow that a step of the workflow *source* names; None for an unknown name, or without a source.

    A name is an id or a name as for `is_workflow_called`, never a path: a step could otherwise write a notebook and run it. The
    search covers the parent folder of *source* and its subfolders, nearest first; for an id, also the rest of the repository or
    project. Links that lead out of the searched folder are skipped, and so is everything that `iter_workflow_paths` skips.
    """
    if source is None:
        return None
    root = source.resolve().parent
    repository = _find_repository(root) if _WORKFLOW_ID.fullmatch(name) else None
    for folder, depth in ((root, _MAX_SIBLING_DEPTH), (repository, None)):
        found = [
            entry
            for entry in (iter_workflow_paths(folder, max_depth=depth) if folder is not None else ())
            if is_workflow_called(entry, name) and folder is not None and entry.resolve().is_relative_to(folder)
        ]
        if found:
            return _load(min(found, key=lambda entry: (len(entry.parts), entry)))
    return None


def is_workflow_called(path: Path, name: str) -> bool:
    """
    Return whether *name* names the workflow at *path*.

    It is the id at the end of the name of the folder or the notebook (`p_...`), or this name, with or without `.ipynb` or `.py`.
    """
    own = _name_of(path)
    return name in (path.name, own) or (_WORKFLOW_ID.fullmatch(name) is not None and own.endswith(f"-{name}"))


def _name_of(path: Path) -> str:
    """Return the name of a workflow's folder, or of a notebook without its suffix."""
    return path.name if path.is_dir() else path.stem


def _find_repository(folder: Path) -> Path | None:
    """Return the nearest folder at or above *folder* with a Git repository or a local project, or None; never the home folder."""
    above = (folder.resolve(), *folder.resolve().parents)
    roots = (each for each in above if (each / ".git").exists() or (each / ".pdkernel").is_dir())
    return next((each for each in roots if each != Path.home()), None)


def _iter_source_paths(path: Path) -> Iterator[Path]:
    if not path.exists():
        raise NotebookError(
            f"{path} does not exist.", fix="Pass a notebook, a workflow's folder, or a folder that contains workflows."
        )
    if not path.is_dir():
        if path.name == WORKFLOW_FILE:
            path = path.parent
        elif path.suffix not in (_NOTEBOOK_SUFFIX, ".py"):
            raise NotebookError(
                f"{path} is neither a notebook nor a workflow's folder.",
                fix="Pass a file that ends with .ipynb, a .py file in percent format, or a folder.",
            )
        yield path
        return
    found = list(iter_workflow_paths(path))
    if not found:
        raise NotebookError(
            f"{path} contains no workflow: neither a {WORKFLOW_FILE} nor a notebook.",
            fix="Pass another folder, or create a notebook: pdkernel new NAME",
        )
    yield from found


def _load(path: Path, unanswered: UnansweredPolicy = "refuse", *, lenient: bool = False) -> WorkflowSource:
    if path.is_dir():
        read = read_folder_workflow(path, require_code=unanswered == "refuse", unanswered_policy=unanswered)
        workflow, sidecar = _require_complete(read, unanswered), read_sidecar(path / SIDECAR_FILE_NAME)
        return WorkflowSource(path, "folder", workflow, sidecar, describe_assumptions(path, workflow))
    sidecar = read_sidecar(get_notebook_sidecar_path(path))
    cells = read_cells(path)
    read = with_files_beside(read_notebook(path, cells=cells, lenient=lenient), path.parent)
    workflow = apply_sidecar(read, sidecar, unanswered_policy=unanswered)
    policy_cells = tuple(find_policy_cells(cells, path.parent))
    return WorkflowSource(path, "notebook", _require_complete(workflow, unanswered), sidecar, policy_cells=policy_cells)


def with_files_beside(workflow: Workflow, folder: Path) -> Workflow:
    """
    Return the *workflow* of a notebook with the files in the notebook's *folder* that its steps import.

    A cell imports `./x.mjs` as a file of the notebook's folder does. Files of the notebook's cells take precedence.

    Raises:
        NotebookError: A file may not be read; the message names the import's line.
    """
    read = build_file_reader(folder, "", outside="the notebook's folder")

    def with_files(step: Step) -> Step:
        depth = count_parents(step.files)

        def read_file(path: str) -> str | None:
            is_above = 0 < count_parents([path]) <= depth  # cells have the files of such folders
            return step.files[path] if path in step.files else None if is_above else read(path)

        return with_step_files(step, read_file, depth=depth)

    steps = tuple(map(with_files, workflow.steps))
    return workflow if steps == workflow.steps else replace(workflow, steps=steps)


def _check_unpinned(source: WorkflowSource, pinned: Collection[str]) -> None:
    """Raise the errors with which `_load` refuses a workflow, except those of *pinned* steps."""
    steps = [replace(step, disabled=step.disabled or step.name in pinned) for step in source.workflow.steps]
    check_import_complete(replace(source.workflow, steps=tuple(steps)))
    sidecar = source.sidecar or Sidecar()
    for step in steps:
        for prop, choice in sidecar.steps.get(step.name, StepSidecar()).accounts.items():
            resolve_account(choice, step=step, prop=prop, sidecar=sidecar)


def _require_complete(workflow: Workflow, unanswered: UnansweredPolicy) -> Workflow:
    """Return *workflow*. With `refuse`, raise an error if its import was incomplete."""
    if unanswered == "refuse":
        check_import_complete(workflow)
    return workflow

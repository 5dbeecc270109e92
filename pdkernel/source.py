"""
Opens a SOURCE: a notebook, a workflow's folder, or a folder of them.

Knows which is which, and that `pdkernel.yaml` belongs to either. Runs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from pdkernel.analysis import check_import_complete
from pdkernel.definition import (
    SIDECAR_FILE_NAME,
    Sidecar,
    UnansweredPolicy,
    apply_sidecar,
    describe_assumptions,
    get_notebook_sidecar_path,
    read_folder_workflow,
    read_sidecar,
    slugify,
)
from pdkernel.errors import NotebookError
from pdkernel.model import Workflow
from pdkernel.notebook import read_notebook

__all__ = [
    "EVENTS_FOLDER",
    "WorkflowSource",
    "file_stamps",
    "find_sources",
    "has_workflow",
    "load_source",
    "load_sources",
    "load_workflow",
    "reload_source",
    "sibling_workflow_finder",
    "slugify",
]

WORKFLOW_FILE = "workflow.yaml"
EVENTS_FOLDER = "events"
"""Beside a source: the saved events, `NAME.json`, and the recorded calls of each, `NAME.recorded.jsonl`."""
_MAX_DEPTH = 4
_MAX_STAMPED_FILES = 1000
"""Files of a folder that are looked at: it may hold data beside a workflow's own."""


@dataclass(frozen=True, slots=True)
class WorkflowSource:
    """
    An opened source.

    Attributes:
        path: The notebook or the workflow's folder.
        kind: Which.
        workflow: What it holds, `pdkernel.yaml` applied.
        sidecar: What `pdkernel.yaml` says, or None if there is none.
        assumed_settings: Sentences on what is assumed, for a synced folder without `pdkernel.yaml`.
    """

    path: Path
    kind: Literal["notebook", "folder"]
    workflow: Workflow
    sidecar: Sidecar | None = None
    assumed_settings: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """The folder that the steps' imports and files are looked up in."""
        return self.path.parent if self.kind == "notebook" else self.path


def load_workflow(path: Path) -> Workflow:
    """
    The one workflow at *path*.

    Raises:
        NotebookError: There is none, or several.
        DefinitionError: It is wrong.
        RequestError: Its `pdkernel.yaml` leaves something unanswered.
    """
    return load_source(path).workflow


def load_source(path: Path, *, unanswered: UnansweredPolicy = "refuse") -> WorkflowSource:
    """As `open_source`, with what was found beside the workflow; `keep` as *unanswered* is for what runs nothing.

    With it, app props that are `unanswered` stay, and so do steps without their code and entries that are no steps.
    """
    found = list(_iter_source_paths(path))
    if len(found) > 1:
        names = ", ".join(entry.name for entry in found[:5]) + (", ..." if len(found) > 5 else "")
        raise NotebookError(f"{path} holds {len(found)} workflows: {names}.", fix="Name one of them.")
    return _load(found[0], unanswered)


def find_sources(path: Path) -> tuple[Path, ...]:
    """
    Where every workflow at *path* is: a notebook, a workflow's folder, or all in a folder and its folders, by name.

    Raises:
        NotebookError: There is none.
    """
    return tuple(_iter_source_paths(path))


def load_sources(path: Path) -> tuple[WorkflowSource, ...]:
    """
    Every workflow at *path*: a notebook, a workflow's folder, or all in a folder and its folders, by name.

    Raises:
        NotebookError: There is none, or one cannot be read.
        DefinitionError: One is wrong.
        RequestError: The `pdkernel.yaml` of one leaves something unanswered.
    """
    return tuple(_load(entry) for entry in _iter_source_paths(path))


def reload_source(source: WorkflowSource) -> WorkflowSource:
    """
    *source* as it is on disk now.

    Raises:
        NotebookError: It is gone, or cannot be read.
        DefinitionError: It is wrong.
        RequestError: Its `pdkernel.yaml` leaves something unanswered.
    """
    if not source.path.exists():
        raise NotebookError(f"There is no {source.path} any more.")
    return _load(source.path)


def file_stamps(source: WorkflowSource) -> tuple[tuple[str, int, int], ...]:
    """Names, times and sizes of the files that *source* was read from; another value means that it may have changed."""
    if source.kind == "notebook":
        files = [source.path, get_notebook_sidecar_path(source.path)]
    else:
        files = list(islice(_iter_files(source.path, _MAX_DEPTH), _MAX_STAMPED_FILES))
    found = []
    for file in files:
        with suppress(OSError):  # gone, or none
            there = file.stat()
            found.append((str(file), there.st_mtime_ns, there.st_size))
    return tuple(found)


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
    """Whether *folder* is or holds a workflow."""
    return any(True for _ in _iter_workflow_paths(folder, _MAX_DEPTH))


def sibling_workflow_finder(source: Path) -> Callable[[str], WorkflowSource | None]:
    """
    The other workflows that a step of *source* may trigger: a function from what names one to it, or None.

    A name is the id at the end of a synced folder's name (`p_...`), the name of a folder or a notebook, or a path;
    looked for in the folder of *source* and the folders of it.
    """

    def find(name: str) -> WorkflowSource | None:
        root = (source if source.suffix == ".ipynb" else source.resolve()).parent
        direct = root / name
        if name.endswith(".ipynb") and direct.is_file():
            return _load(direct)
        for entry in _iter_workflow_paths(root, _MAX_DEPTH):
            if name in (entry.name, entry.stem) or entry.name.endswith(f"-{name}"):
                return _load(entry)
        return None

    return find


def _iter_source_paths(path: Path) -> Iterator[Path]:
    if not path.exists():
        raise NotebookError(f"There is no {path}.", fix="Name a notebook, a workflow's folder, or a folder of them.")
    if not path.is_dir():
        if path.name == WORKFLOW_FILE:
            path = path.parent
        elif path.suffix != ".ipynb":
            raise NotebookError(
                f"{path} is neither a notebook nor a workflow's folder.", fix="A notebook's name ends with .ipynb."
            )
        yield path
        return
    found = list(_iter_workflow_paths(path, _MAX_DEPTH))
    if not found:
        raise NotebookError(
            f"{path} holds no workflow: neither a {WORKFLOW_FILE} nor a notebook.",
            fix="`pdkernel new NAME` makes a notebook to start from.",
        )
    yield from found


def _iter_workflow_paths(folder: Path, depth: int) -> Iterator[Path]:
    if (folder / WORKFLOW_FILE).is_file():
        yield folder
        return
    for entry in sorted(folder.iterdir()):
        # Hidden folders hold checkpoints, caches and Git's own files.
        if entry.name.startswith(".") or entry.name == "node_modules":
            continue
        if entry.is_dir() and not entry.is_symlink() and depth > 0:
            yield from _iter_workflow_paths(entry, depth - 1)
        elif entry.suffix == ".ipynb" and entry.is_file():
            yield entry


def _load(path: Path, unanswered: UnansweredPolicy = "refuse") -> WorkflowSource:
    if path.is_dir():
        workflow = _require_complete(
            read_folder_workflow(path, require_code=unanswered == "refuse", unanswered_policy=unanswered), unanswered
        )
        return WorkflowSource(
            path, "folder", workflow, read_sidecar(path / SIDECAR_FILE_NAME), describe_assumptions(path, workflow)
        )
    sidecar = read_sidecar(get_notebook_sidecar_path(path))
    workflow = _require_complete(apply_sidecar(read_notebook(path), sidecar, unanswered_policy=unanswered), unanswered)
    return WorkflowSource(path, "notebook", workflow, sidecar)


def _require_complete(workflow: Workflow, unanswered: UnansweredPolicy) -> Workflow:
    """*workflow*, which is refused if it is to run and an import could not take everything of it."""
    if unanswered == "refuse":
        check_import_complete(workflow)
    return workflow

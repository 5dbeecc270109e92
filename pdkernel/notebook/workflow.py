"""
Reads cells as a workflow; the order of cells is the order of steps.

Every cell is read before an error is raised, so that the error lists all problems with their cells.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pdkernel.analysis import with_step_files
from pdkernel.analysis.combined_errors import raise_combined, with_message
from pdkernel.definition.file_plan import get_entry_path, iter_step_files
from pdkernel.directive import (
    WorkflowHeader,
    is_step_cell,
    is_workflow_cell,
    parse_step_cell,
    parse_workflow_cell,
)
from pdkernel.errors import DefinitionError, DirectiveError, DuplicateStepError
from pdkernel.model import Step, UnsupportedEntry, Workflow
from pdkernel.notebook.cell_metadata import decode_mapping, merge_stored_values, restore_source, restore_step
from pdkernel.notebook.cells import NotebookCell, enumerate_cells, read_cells


def read_notebook(path: Path) -> Workflow:
    """
    The workflow of the notebook at *path*; it may have no steps.

    Raises:
        NotebookError: The file is not a notebook.
        DefinitionError: A cell is invalid; the message names every such cell.
    """
    return workflow_from_cells(read_cells(path), name=path.stem, source=str(path))


def workflow_from_cells(cells: Sequence[NotebookCell], *, name: str, source: str | None = None) -> Workflow:
    """
    The workflow in *cells*.

    Args:
        cells: All cells of the notebook, in order; a step's `cell_index` is its index here.
        name: The workflow's name, unless a `%%pdworkflow` cell gives another.
        source: The origin of the cells, for messages.

    Raises:
        DefinitionError: A cell is invalid, or the files of cells import one another in a circle. One problem keeps its own class; several problems have the class of the
            first, and the message lists all of them.
    """
    steps: list[Step] = []
    headers: list[tuple[int, WorkflowHeader]] = []
    hidden: Mapping[str, Any] = {}
    problems: list[DefinitionError] = []
    notes = {
        str(cell.pdkernel_metadata["note"]): cell.source
        for cell in cells
        if cell.type != "code" and "note" in cell.pdkernel_metadata
    }
    kept: list[UnsupportedEntry] = []
    files: dict[str, str] = {}
    for index, cell in enumerate_cells(cells):
        if cell.type != "code":
            kept += _kept(cell, steps)
            if isinstance(path := cell.pdkernel_metadata.get("file"), str):
                files[path] = restore_source(cell.source, cell.pdkernel_metadata.get("source"))
            continue
        try:
            if is_step_cell(cell.source):
                steps.append(_step(cell, index, notes))
            elif is_workflow_cell(cell.source):
                headers.append((index, parse_workflow_cell(cell.source)))
                hidden = cell.pdkernel_metadata
        except DefinitionError as error:
            problems.append(_in_cell(error, index))
    problems += _find_duplicates(steps)
    if len(headers) > 1:
        numbers = " and ".join(str(index + 1) for index, _ in headers)
        problems.append(
            DirectiveError(
                f"Cells {numbers} are both %%pdworkflow.", fix="A notebook has one such cell: remove the other."
            )
        )
    raise_combined(problems)
    header = headers[0][1] if headers else WorkflowHeader()
    return Workflow(
        name=_name(header, hidden) or name,
        triggers=header.triggers,
        steps=_with_files(steps, files),
        settings=merge_stored_values(header.settings, hidden.get("settings")),
        origin=source,
        extra={**(decode_mapping(hidden.get("extra")) or {}), **({"inactive": True} if header.is_inactive else {})},
    ).with_unsupported_entries(kept)


def _name(header: WorkflowHeader, hidden: Mapping[str, Any]) -> str | None:
    """The workflow's name: the header's, or the one in the metadata that the header could not show."""
    kept = hidden.get("name")
    if isinstance(kept, dict) and isinstance(kept.get("is"), str) and header.name == kept.get("shown"):
        return str(kept["is"])
    return header.name


def _step(cell: NotebookCell, index: int, notes: Mapping[str, str]) -> Step:
    step = parse_step_cell(cell.source, cell=index).step
    return restore_step(step, cell.pdkernel_metadata, note=notes.get(step.name)) if cell.pdkernel_metadata else step


def _with_files(steps: Sequence[Step], files: Mapping[str, str]) -> tuple[Step, ...]:
    """*steps* with the *files* of cells, by path in the workflow's folder, that they import."""
    if not files:
        return tuple(steps)
    known = {**{path: text for step in steps for path, text in iter_step_files(step)}, **files}

    def with_files(step: Step) -> Step:
        folder = posixpath.dirname(posixpath.normpath(get_entry_path(step)))
        return with_step_files(
            step,
            lambda path: known.get(posixpath.normpath(posixpath.join(folder, path))),
            depth=folder.count("/") + 1 if folder else 0,
        )

    return tuple(map(with_files, steps))


def _kept(cell: NotebookCell, steps: Sequence[Step]) -> list[UnsupportedEntry]:
    """The unsupported entry that *cell* shows, if any; it follows the last of *steps*."""
    entry = decode_mapping(cell.pdkernel_metadata.get("kept"))
    return [] if entry is None else [UnsupportedEntry(steps[-1].name if steps else None, entry)]


def _in_cell(error: DefinitionError, index: int) -> DefinitionError:
    """*error* with the cell's number in its message."""
    return with_message(error, f"Cell {index + 1}: {error.message}")


def _find_duplicates(steps: Sequence[Step]) -> list[DefinitionError]:
    by_name: dict[str, list[Step]] = {}
    for step in steps:
        by_name.setdefault(step.name, []).append(step)
    return [
        DuplicateStepError(
            f"Cells {' and '.join(str((step.cell_index or 0) + 1) for step in same)} are both called {name!r}: "
            f"steps.{name} would be ambiguous.",
            fix="Rename one of them.",
            step=name,
        )
        for name, same in by_name.items()
        if len(same) > 1
    ]

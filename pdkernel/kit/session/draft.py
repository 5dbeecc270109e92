"""
The notebook's workflow as it is now, read from the front end, executed cells and the notebook's file.

A front end with pdkernel's extension sends the cells that it shows: they replace the file. The newest text of a cell
counts, shown, executed or saved. Steps and blocks are in the order of the notebook's cells. A cell that cannot be read is a step
or block with a `problem`. A header cell that cannot be read is replaced by its last readable text, unless a protection of runs
would be lost.

    edit, do not run            the shown text counts at once; without the extension, see below
    run a cell twice            the second text replaces the first, in the same position
    rename a step               same cell, other name: the old name is gone
    delete a cell               removed once Lab reports it, or once the file is saved without the cell
    run cells out of order      the file's order counts; without a file, the order of first runs
    edit and save, do not run   the saved text counts from then on; the step's old result is stale
    restart before saving       cells that the old kernel ran are still part of the draft, until the file is saved
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from pdkernel.common.encode import JsonStruct
from pdkernel.errors import DefinitionError, DuplicateStepError
from pdkernel.files.notebook import METADATA_KEY, CellType, NotebookCell, read_cells, workflow_from_cells
from pdkernel.language.directive import (
    build_unreadable_block,
    build_unreadable_step,
    is_block_cell,
    is_step_cell,
    is_workflow_cell,
    parse_block_cell,
    parse_step_cell,
)
from pdkernel.model import Workflow

HEADER_CELL_NAME = "%%pdworkflow"


class ExecutedCell(JsonStruct, frozen=True, omit_defaults=True):
    """
    An executed cell.

    Attributes:
        source: Its text.
        cell_id: Its id, if the front end sent it.
        name: The name of its step.
        at: The time in seconds since the epoch.
        execution_count: The number that JupyterLab shows beside the cell, or None.
    """

    source: str
    cell_id: str | None
    name: str
    at: float
    execution_count: int | None = None


class ShownCell(JsonStruct, frozen=True):
    """The cell of a step, block or header, or an imported part, as a front end sends it; *pdkernel* is its metadata under that key."""

    index: int
    id: str
    type: CellType
    source: str
    pdkernel: Mapping[str, Any] = {}


class ShownCells(JsonStruct, frozen=True):
    """
    A front end's message with the cells that it shows.

    Attributes:
        page: The id of the page; each page that shows the notebook has its own.
        revision: The number of the message, which increases: two shells of a kernel can receive messages in another order.
        cells: The cells that belong to the workflow, in the notebook's order; None if the page no longer shows the notebook.
    """

    page: str
    revision: int
    cells: tuple[ShownCell, ...] | None


@dataclass(frozen=True, slots=True)
class _Document:
    """The notebook's cells, and the time (seconds since the epoch) when a front end sent or saved them."""

    cells: Sequence[NotebookCell]
    at: float


class LiveNotebook:
    """
    The cells that front ends show. They outlive the sessions of their shell.

    Attributes:
        document: The cells that a page sent last, or None while no page shows the notebook.
        changes: A number that increases with every message.
        on_change: Called after a change of a cell, in the thread of the message.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # by page; the page of the newest message is the last key, and one that has left has no document
        self._pages: dict[str, tuple[int, _Document | None]] = {}
        self.document: _Document | None = None
        self.changes = 0
        self.on_change: Callable[[], None] = lambda: None

    def show(self, message: object, *, at: float) -> None:
        """
        Store the cells of a front end's *message*, or forget those of a page that leaves, unless a later message of the page has arrived.

        The page that sent last counts; without any page, the file.

        Raises:
            msgspec.ValidationError: The message is not a `ShownCells`.
        """
        shown = msgspec.convert(message, ShownCells)
        document = None if shown.cells is None else _Document(tuple(map(_read_shown_cell, shown.cells)), at)
        with self._lock:
            if shown.page in self._pages and shown.revision <= self._pages[shown.page][0]:
                return
            self._pages.pop(shown.page, None)
            self._pages[shown.page] = (shown.revision, document)
            before = self.document
            self.document = next((each for _, each in reversed(self._pages.values()) if each), None)
            self.changes += 1
            now = self.document
        if before is None or now is None or before.cells != now.cells:
            self.on_change()


def _read_shown_cell(cell: ShownCell) -> NotebookCell:
    metadata = {METADATA_KEY: dict(cell.pdkernel)} if cell.pdkernel else {}
    return NotebookCell(source=cell.source, type=cell.type, id=cell.id, metadata=metadata, index=cell.index)


class Draft:
    """
    Collects cells and parses them as a workflow.

    Args:
        path: The notebook's file, or None if the file is unknown; the file need not exist yet.
        name: The workflow's name if no header cell sets a name.
        live: The cells that a front end shows.
    """

    def __init__(self, path: Path | None = None, *, name: str = "notebook", live: LiveNotebook | None = None) -> None:
        self.path = path
        self._live = live or LiveNotebook()
        self._name = path.stem if path else name
        self._executed_cells: dict[str, ExecutedCell] = {}
        self._deleted: set[str] = set()
        self._changes = 0
        self._read: tuple[object, Workflow] | None = None  # the last workflow, and the state of its sources
        self._last_header = ""  # the text of the header cell when it could last be read

    def record_cell(self, source: str, *, cell_id: str | None, at: float, execution_count: int | None = None) -> None:
        """
        Record the cell of a step, block or header that was run.

        Raises:
            DefinitionError: Another cell has the step's name.
        """
        name = _name_of(source)
        self._changes += 1
        if cell_id is not None:
            self._deleted.discard(cell_id)
            if _is_readable(source):
                self._check_unique_name(name, cell_id)
        self._executed_cells[cell_id or name] = ExecutedCell(source, cell_id, name, at, execution_count)

    def remove_cells(self, cell_ids: Iterable[str]) -> None:
        """Remove cells that were deleted from the notebook."""
        for cell_id in cell_ids:
            self._executed_cells.pop(cell_id, None)
            self._deleted.add(cell_id)
        self._changes += 1

    def restorable_cells(self) -> tuple[ExecutedCell, ...]:
        """
        Return the executed cells, for the next kernel.

        Empty without a file. Cells without an id are left out: their deletion cannot be detected.
        """
        if self.path is None:
            return ()
        return tuple(ran for ran in self._executed_cells.values() if ran.cell_id is not None)

    def restore(self, cells: Iterable[ExecutedCell]) -> None:
        """Add the cells of an earlier kernel (`restorable_cells`); cells that this kernel has run take precedence."""
        self._executed_cells = {**{ran.cell_id: ran for ran in cells if ran.cell_id}, **self._executed_cells}
        self._changes += 1

    def workflow(self) -> Workflow:
        """
        Return the workflow, in the notebook's order; parsed again only after a change of a cell or the document.

        Raises:
            DefinitionError: The header is invalid and may set a protection.
        """
        version = self._file_version() if self._live.document is None else None
        state = (self._changes, self._live.changes, version)
        if self._read is None or self._read[0] != state:
            source = str(self.path) if self.path else None
            cells = self.cells()
            workflow = workflow_from_cells(
                cells, name=self._name, source=source, lenient=True, last_header=self._last_header
            )
            if workflow.problem is None:
                self._last_header = next((cell.source for cell in cells if is_workflow_cell(cell.source)), "")
            self._read = (state, workflow)
        return self._read[1]

    def cells(self) -> list[NotebookCell]:
        """Return the cells of steps, blocks and the header of the draft, each with its newest text."""
        document = self._live.document or self._saved()
        cells = [cell for cell in document.cells if _is_preserved_cell(cell) or _is_directive_cell(cell.source)]
        ids = {cell.id for cell in cells}
        unplaced = dict(self._executed_cells)
        found: list[NotebookCell] = []
        for cell in cells:
            key = self._key_of(cell, ids)
            ran = unplaced.pop(key, None) if key else None
            if ran is None:
                found.append(cell)
                continue
            source, number = cell.source if ran.at < document.at else ran.source, ran.execution_count
            found.append(replace(cell, source=source, execution_count=number or cell.execution_count))
        new = (ran for ran in unplaced.values() if ran.cell_id is None or ran.at >= document.at)
        return found + [
            NotebookCell(source=ran.source, id=ran.cell_id, execution_count=ran.execution_count) for ran in new
        ]

    def _file_version(self) -> tuple[int, int, int] | None:
        """Return the modification time (ns), size (bytes) and inode of the file; None without a file."""
        try:
            found = self.path.stat() if self.path is not None else None
        except OSError:
            return None
        return None if found is None else (found.st_mtime_ns, found.st_size, found.st_ino)

    def _saved(self) -> _Document:
        """Return the cells of the file without deleted cells; no cells without a file."""
        if self.path is None or not self.path.is_file():
            return _Document((), 0.0)
        try:
            cells = read_cells(self.path)
        except DefinitionError:
            return _Document((), 0.0)  # half-written, or not yet a notebook: only the executed cells are known
        kept = [cell for cell in cells if cell.id is None or cell.id not in self._deleted]
        return _Document(kept, self.path.stat().st_mtime)

    def _key_of(self, cell: NotebookCell, ids: set[str | None]) -> str | None:
        if cell.id is not None and cell.id in self._executed_cells:
            return cell.id
        if not _is_directive_cell(cell.source):
            return None
        name = _name_of(cell.source)
        for key, ran in self._executed_cells.items():
            # in a file without cell ids, the step's name identifies the cell
            if ran.name == name and (ran.cell_id is None or ran.cell_id not in ids):
                return key
        return None

    def _check_unique_name(self, name: str, cell_id: str) -> None:
        others = {ran.cell_id for key, ran in self._executed_cells.items() if ran.name == name and key != cell_id}
        existing = others & {
            cell.id for cell in self.cells() if _is_directive_cell(cell.source) and _name_of(cell.source) == name
        }
        if existing and name != HEADER_CELL_NAME:
            raise DuplicateStepError(
                f"Another cell already defines the step {name!r}: steps.{name} would be ambiguous.",
                fix="Rename one of the two, or delete the other cell. If it is deleted, save the notebook.",
                step=name,
            )


def _is_preserved_cell(cell: NotebookCell) -> bool:
    """Return whether *cell* is not code and holds a part of an imported workflow."""
    return cell.type != "code" and bool(cell.pdkernel_metadata)


def _is_directive_cell(source: str) -> bool:
    return is_step_cell(source) or is_block_cell(source) or is_workflow_cell(source)


def _name_of(source: str) -> str:
    """Return the name of a cell's step or block; of a cell that cannot be read, the name that it probably has."""
    if is_workflow_cell(source):
        return HEADER_CELL_NAME
    is_block = is_block_cell(source)
    try:
        return parse_block_cell(source).name if is_block else parse_step_cell(source).step.name
    except DefinitionError as error:
        build = build_unreadable_block if is_block else build_unreadable_step
        return build(source, error, cell=0).name


def _is_readable(source: str) -> bool:
    try:
        return (
            is_workflow_cell(source)
            or (parse_block_cell if is_block_cell(source) else parse_step_cell)(source) is not None
        )
    except DefinitionError:
        return False

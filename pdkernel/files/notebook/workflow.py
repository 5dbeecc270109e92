"""
Reads cells as a workflow; the order of cells is the order of steps and blocks.

Every cell is read before an error is raised, so that the error lists all problems with their cells.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pdkernel.errors import DefinitionError, DirectiveError, DuplicateStepError
from pdkernel.files.definition.file_plan import get_entry_path, iter_step_files
from pdkernel.files.notebook.cells import (
    NotebookCell,
    decode_mapping,
    enumerate_cells,
    merge_stored_values,
    read_cells,
    restore_block,
    restore_source,
    restore_step,
)
from pdkernel.language.analysis import describe_error_place, name_cell, raise_combined, with_message, with_step_files
from pdkernel.language.directive import (
    WorkflowHeader,
    build_unreadable_block,
    build_unreadable_step,
    is_block_cell,
    is_step_cell,
    is_workflow_cell,
    names_protective_setting,
    parse_block_cell,
    parse_step_cell,
    parse_workflow_cell,
)
from pdkernel.model import Block, Entry, Step, UnsupportedEntry, Workflow, find_structure_errors

EntryT = TypeVar("EntryT", Step, Block)


def read_notebook(path: Path, *, cells: Sequence[NotebookCell] | None = None, lenient: bool = False) -> Workflow:
    """
    Return the workflow of the notebook at *path*; it may have no steps.

    Args:
        path: The notebook.
        cells: The cells of the file, if the caller has read them.
        lenient: As for `workflow_from_cells`.

    Raises:
        NotebookError: The file is not a notebook.
        DefinitionError: A cell is invalid; the message names every such cell.
    """
    cells = read_cells(path) if cells is None else cells
    return workflow_from_cells(cells, name=path.stem, source=str(path), file=str(path), lenient=lenient)


def workflow_from_cells(
    cells: Sequence[NotebookCell],
    *,
    name: str,
    source: str | None = None,
    file: str | None = None,
    lenient: bool = False,
    last_header: str | None = None,
) -> Workflow:
    """
    Return the workflow in *cells*.

    Args:
        cells: All cells of the notebook, in order; the `cell_index` of a step or block is its index here.
        name: The workflow's name, unless a `%%pdworkflow` cell gives another.
        source: The origin of the cells, for messages.
        file: The path of the file with the cells, for the places of errors; None for a notebook that is open.
        lenient: Whether the cell of a step or block with an error, with the name of a cell above, or at a wrong place becomes a
            step or block with a `problem`, so that other steps can run.
        last_header: The last text of the header cell that could be read, or empty text. A header cell with an error then
            becomes the workflow's `problem`, unless runs would lose a protection; None raises the error.

    Raises:
        DefinitionError: A cell is invalid, or the files of cells import one another in a circle. One problem keeps its own
            class; several problems have the class of the first, and the message lists all of them.
    """
    entries: list[Entry] = []
    named: dict[str, Entry] = {}
    headers: list[tuple[int, NotebookCell]] = []
    problems: list[DefinitionError] = []
    kept: list[UnsupportedEntry] = []
    texts = [cell for cell in cells if cell.type != "code"]
    notes = {str(cell.pdkernel_metadata["note"]): cell.source for cell in texts if "note" in cell.pdkernel_metadata}
    files = {
        path: restore_source(cell.source, cell.pdkernel_metadata.get("source"))
        for cell in texts
        if isinstance(path := cell.pdkernel_metadata.get("file"), str)
    }
    for index, cell in enumerate_cells(cells):
        if cell.type != "code":
            kept += _kept(cell, entries)
        elif is_workflow_cell(cell.source):
            headers.append((index, cell))
        elif (is_block := is_block_cell(cell.source)) or is_step_cell(cell.source):
            try:
                entry: Entry = (_block if is_block else _step)(cell, index, notes, file)
                if lenient and (above := named.setdefault(entry.name, entry)) is not entry:
                    raise _build_duplicate_error([above, entry])
            except DefinitionError as error:
                if not lenient:
                    problems.append(_in_cell(error, cell, index, file))
                    if not is_block:
                        continue
                if is_block:
                    entry = _at(build_unreadable_block(cell.source, error, cell=index), cell, file)
                else:
                    entry = _at(build_unreadable_step(cell.source, error, cell=index), cell, file)
            entries.append(entry)
    entries, misplaced = _with_structure(_with_free_names(entries), lenient=lenient)
    problems += [*_find_duplicates(entries), *misplaced]
    header, errors = _read_headers(headers, file)
    replaced = None
    if errors and last_header is not None:
        header, replaced = _replace_header(headers, errors, last_header)
        errors = []
    raise_combined([*errors, *problems])
    hidden = headers[-1][1].pdkernel_metadata if headers else {}
    steps = [entry for entry in entries if isinstance(entry, Step)]
    return Workflow(
        name=_name(header, hidden) or name,
        triggers=header.triggers,
        steps=_with_files(steps, files),
        blocks=tuple(_iter_placed_blocks(entries)),
        settings=merge_stored_values(header.settings, hidden.get("settings")),
        origin=source,
        extra={**(decode_mapping(hidden.get("extra")) or {}), **({"inactive": True} if header.is_inactive else {})},
        problem=replaced,
    ).with_unsupported_entries(kept)


def _read_headers(
    cells: Sequence[tuple[int, NotebookCell]], file: str | None
) -> tuple[WorkflowHeader, list[DefinitionError]]:
    """Return the header in *cells*, each with its index, and the errors of these cells."""
    header, errors = WorkflowHeader(), []
    for index, cell in cells:
        try:
            header = parse_workflow_cell(cell.source)
        except DefinitionError as error:
            errors.append(_in_cell(error, cell, index, file))
    if len(cells) > 1:
        places = " and ".join(_name_place(_at(Step("cell", cell_index=index), cell, file)) for index, cell in cells)
        errors.append(
            DirectiveError(f"{places} are both %%pdworkflow.", fix="A notebook has one such cell: remove the other.")
        )
    return header, errors


def _replace_header(
    cells: Sequence[tuple[int, NotebookCell]], errors: Sequence[DefinitionError], last_header: str
) -> tuple[WorkflowHeader, tuple[str, str]]:
    """
    Return the header of *last_header* instead of cells with *errors*, and the workflow's `problem`.

    Raises:
        DefinitionError: The cells may set a protection that the replacement lacks.
    """
    header = parse_workflow_cell(last_header) if last_header else WorkflowHeader()
    if header.settings.get("share_workers") == "always" or any(
        names_protective_setting(cell.source) for _, cell in cells
    ):
        raise_combined(
            [
                with_message(
                    error,
                    f"{error.message} No step runs before the cell is corrected: it may set `network` or `share_workers`.",
                )
                for error in errors
            ]
        )
    which = "the cell's last readable text has" if last_header else "a notebook without this cell has"
    places = " and ".join(
        name_cell(Step("cell", cell_index=index, execution_count=cell.execution_count)) for index, cell in cells
    )
    note = f"Until the error in {places} is corrected, steps run with the trigger and the settings that {which}."
    return header, ("\n".join(map(str, errors)), note)


def _name(header: WorkflowHeader, hidden: Mapping[str, Any]) -> str | None:
    """Return the workflow's name: the header's, or the one in the metadata that the header could not show."""
    kept = hidden.get("name")
    if isinstance(kept, dict) and isinstance(kept.get("is"), str) and header.name == kept.get("shown"):
        return str(kept["is"])
    return header.name


def _step(cell: NotebookCell, index: int, notes: Mapping[str, str], file: str | None) -> Step:
    step = _at(parse_step_cell(cell.source, cell=index).step, cell, file)
    return restore_step(step, cell.pdkernel_metadata, note=notes.get(step.name)) if cell.pdkernel_metadata else step


def _block(cell: NotebookCell, index: int, notes: Mapping[str, str], file: str | None) -> Block:
    block = _at(parse_block_cell(cell.source, cell=index), cell, file)
    return restore_block(block, cell.pdkernel_metadata, note=notes.get(block.name))


def _at(entry: EntryT, cell: NotebookCell, file: str | None) -> EntryT:
    """Return *entry* with the place of *cell*, which is in *file*."""
    return replace(
        entry, execution_count=cell.execution_count, file=file, file_line=None if file is None else cell.file_line
    )


def _iter_placed_blocks(entries: Sequence[Entry]) -> Iterator[Block]:
    """Yield the blocks of *entries*, each with its place among the steps."""
    above = 0
    for entry in entries:
        if isinstance(entry, Block):
            yield replace(entry, place=above)
        else:
            above += 1


def _with_structure(entries: Sequence[Entry], *, lenient: bool) -> tuple[list[Entry], list[DefinitionError]]:
    """
    Return *entries*, and the errors of those whose block is missing or elsewhere.

    With *lenient*, such an entry gets the error as its `problem`, and is in no branch.
    """
    errors = {id(entry): error for entry, error in find_structure_errors(entries)}
    if not lenient:
        placed = ((entry, errors[id(entry)]) for entry in entries if id(entry) in errors)
        return list(entries), [
            with_message(error, f"{_name_place(entry, entry.line_offset)}: {error.message}", line=entry.line_offset)
            for entry, error in placed
        ]
    return [
        entry
        if (error := errors.get(id(entry))) is None
        else replace(entry, inside=None, problem=(str(error), entry.line_offset))
        for entry in entries
    ], []


def _with_files(steps: Sequence[Step], files: Mapping[str, str]) -> tuple[Step, ...]:
    """Return *steps* with the *files* of cells, by path in the workflow's folder, that they import."""
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


def _kept(cell: NotebookCell, entries: Sequence[Entry]) -> list[UnsupportedEntry]:
    """Return the unsupported entry that *cell* shows, if any; it follows the last step of *entries*."""
    hidden = cell.pdkernel_metadata
    kept = decode_mapping(hidden.get("kept"))
    if kept is None:
        return []
    path, above = hidden.get("path"), next((each.name for each in reversed(entries) if isinstance(each, Step)), None)
    if not isinstance(path, str):
        return [UnsupportedEntry(above, kept)]
    return [UnsupportedEntry(above, kept, path, str(hidden.get("why", "")))]


def _in_cell(error: DefinitionError, cell: NotebookCell, index: int, file: str | None) -> DefinitionError:
    """Return *error* with the cell's number, or the line of a `.py` file, in its message."""
    return with_message(
        error, f"{_name_place(_at(Step('cell', cell_index=index), cell, file), error.line)}: {error.message}"
    )


def _name_place(step: Entry, line: int | None = None) -> str:
    """`Cell [3]` at the start of a sentence; for a `.py` file, `work.py:27`."""
    if step.file_line is not None:
        return describe_error_place(step, step.name, line or 1)
    return name_cell(step).capitalize()


def _with_free_names(entries: Sequence[Entry]) -> list[Entry]:
    """Return *entries* with the positions of unreadable cells as their names, where another cell has the name that they seem to have."""
    taken = {entry.name for entry in entries if entry.problem is None}
    named: list[Entry] = []
    for entry in entries:
        is_free = entry.problem is None or entry.name not in taken
        named.append(entry if is_free else replace(entry, name=f"cell_{(entry.cell_index or 0) + 1}"))
        taken.add(named[-1].name)
    return named


def _build_duplicate_error(entries: Sequence[Entry]) -> DuplicateStepError:
    name = entries[0].name
    return DuplicateStepError(
        f"{' and '.join(map(_name_place, entries))} are both called {name!r}: steps.{name} would be ambiguous.",
        fix="Rename one of them.",
        step=name,
    )


def _find_duplicates(entries: Sequence[Entry]) -> list[DefinitionError]:
    by_name: dict[str, list[Entry]] = {}
    for entry in entries:
        by_name.setdefault(entry.name, []).append(entry)
    return [_build_duplicate_error(same) for same in by_name.values() if len(same) > 1]

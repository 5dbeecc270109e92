"""
The files of an import, compared with what stands there and written.

Knows that a notebook is a person's work: one that says something else is never written over, and with force it is kept
beside the new one. Both files are written whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pdkernel.definition import DefinitionFile, get_notebook_sidecar_path, write_definition_files
from pdkernel.definition.sidecar_yaml import parse_sidecar
from pdkernel.errors import DefinitionError, RequestError
from pdkernel.importer.notebook_texts import NotebookTexts
from pdkernel.notebook import METADATA_KEY

ImportState = Literal["new", "unchanged", "replaced"]


def write_notebook_files(texts: NotebookTexts, notebook: Path, *, force: bool) -> tuple[ImportState, tuple[Path, ...]]:
    """
    Write *texts* as *notebook* and the file beside it.

    Returns:
        What became of it, and where files that stood there are kept now.

    Raises:
        RequestError: There is a notebook that says something else, and *force* is not given; or it cannot be written.
    """
    sidecar = get_notebook_sidecar_path(notebook)
    try:
        there = [path for path in (notebook, sidecar) if path.exists() or path.is_symlink()]
        if there and _says_the_same(texts, notebook, sidecar):
            return "unchanged", ()
        if there and not force:
            raise RequestError(
                f"{there[0]} exists already, and is not what this import would write; nothing was changed.",
                fix="Import to another name, or give --force: what is there is kept beside the new notebook.",
            )
        kept = tuple(_rename_to_backup(path) for path in there)
        notebook.parent.mkdir(parents=True, exist_ok=True)
        # The notebook comes last: where it stands, the answers stand too.
        files = [DefinitionFile(sidecar.name, texts.sidecar), DefinitionFile(notebook.name, texts.notebook)]
        write_definition_files(files, notebook.parent)
    except OSError as error:
        raise RequestError(f"{notebook} cannot be written: {error.strerror or error}.") from None
    return "replaced" if kept else "new", kept


def _rename_to_backup(path: Path) -> Path:
    number = 1
    while (kept := path.with_name(f"{path.name}.before-import-{number}")).exists():
        number += 1
    return path.rename(kept)


def _says_the_same(made: NotebookTexts, notebook: Path, sidecar: Path) -> bool:
    """Whether what is there holds the same workflow and answers: outputs, and our own report, may differ."""
    try:
        said = parse_sidecar(sidecar.read_text(encoding="utf-8"))
        cells = _cells(json.loads(notebook.read_text(encoding="utf-8")))
    except (OSError, ValueError, DefinitionError):
        return False
    return said == parse_sidecar(made.sidecar) and cells == _cells(json.loads(made.notebook))


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

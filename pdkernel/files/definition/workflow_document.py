"""
Reads the `workflow.yaml` of a synced folder, with its format version and the workflow's id.

`synced_folder` builds the workflow from it.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pdkernel.common.safe_files import BYTE_ORDER_MARK
from pdkernel.errors import NotebookError, UnsupportedError
from pdkernel.files.definition.entry_file import get_error_line, is_outside
from pdkernel.files.definition.file_plan import STATE_FILE, WORKFLOW_FILE, WORKFLOW_SCHEMA
from pdkernel.language.directive import LocatedYaml, parse_yaml

_STATE_ID = re.compile(r"^id:[ \t]*[\"']?(p_\w+)", re.MULTILINE)
MAX_WORKFLOW_FILE_BYTES = 4 * 1024 * 1024
"""Size limit of a `workflow.yaml`; the largest observed one has a few thousand bytes."""


@dataclass(frozen=True, slots=True)
class WorkflowDocument:
    """
    A folder's `workflow.yaml`.

    Attributes:
        folder: The folder of the file.
        text: The file's text, without a byte order mark.
        byte_order_mark: The byte order mark, or an empty text.
        located: The parsed YAML; its value is a mapping.
        id: The workflow's id (`p_...`) in `.workflow.state`, or None.
    """

    folder: Path
    text: str
    byte_order_mark: str
    located: LocatedYaml
    id: str | None = None

    @property
    def data(self) -> dict[str, Any]:
        """The file's mapping."""
        return cast("dict[str, Any]", self.located.value)


def read_document(folder: Path) -> WorkflowDocument:
    """
    Return the `workflow.yaml` in *folder*.

    Raises:
        NotebookError: The file does not exist or cannot be read; the message names file and line.
        UnsupportedError: The format is unknown to this version.
    """
    path = folder / WORKFLOW_FILE
    whole = _text(path, folder)
    text = whole.removeprefix(BYTE_ORDER_MARK)
    located = parse_yaml(
        text, allow_expressions=False, error_class=NotebookError, document_name=str(path), as_psych=True
    )
    if not isinstance(located.value, dict):
        raise NotebookError(
            f"{path} is not a workflow: it is not a mapping of keys (line {located.get_line(()) or 1})."
        )
    _check_format(located.value, path, located)
    return WorkflowDocument(folder, text, whole[: len(whole) - len(text)], located, _state_id(folder))


def _state_id(folder: Path) -> str | None:
    """Return the id in `.workflow.state`, or None if the file is missing or has no id."""
    path = folder / STATE_FILE
    if not path.is_file() or is_outside(path, folder):
        return None
    try:
        with path.open("rb") as stream:
            found = _STATE_ID.search(stream.read(10_000).decode("utf-8", "replace"))
    except OSError:
        return None
    return None if found is None else found[1]


def _text(path: Path, folder: Path) -> str:
    try:
        found = path.stat()
        if is_outside(path, folder):
            raise NotebookError(f"{path} is a link that leads out of its folder.", fix="Put the file itself there.")
        if not stat.S_ISREG(found.st_mode):
            raise NotebookError(f"{path} is not a file.")
        if found.st_size > MAX_WORKFLOW_FILE_BYTES:
            raise NotebookError(f"{path} has {found.st_size} bytes; the limit is {MAX_WORKFLOW_FILE_BYTES} bytes.")
        return path.read_bytes().decode("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise NotebookError(f"{folder} is not a workflow's folder: it has no {WORKFLOW_FILE}.") from None
    except UnicodeDecodeError as fault:
        line = get_error_line(fault)
        raise NotebookError(f"{path} is not UTF-8 text (byte {fault.start + 1}, line {line}).", line=line) from None
    except OSError as fault:
        raise NotebookError(f"{path} cannot be read: {fault.strerror or fault}.") from None


def _check_format(data: Mapping[str, Any], path: Path, located: LocatedYaml) -> None:
    found = data.get("schema", WORKFLOW_SCHEMA)
    if found != WORKFLOW_SCHEMA:
        line = located.get_line(("schema",))
        raise UnsupportedError(
            f"{path} has the schema {found!r}, and this version reads {WORKFLOW_SCHEMA!r} (line {line}).", line=line
        )

"""The places where two JSON values differ. The values 1, 1.0 and true are different."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pdkernel.annex.proof.report import Difference
from pdkernel.common.redaction import Redactor

_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_$-")


class _Missing:
    """Marks a place where one side has no value."""


MISSING: Final = _Missing()


@dataclass(frozen=True, slots=True)
class ValueDifference:
    """A place where two values differ: its path and the value of each side (`MISSING` for no value)."""

    path: str
    notebook: Any
    files: Any

    def to_difference(self, redactor: Redactor) -> Difference:
        """The difference as redacted JSON texts."""
        return Difference(redactor.redact_text(self.path), _text(self.notebook, redactor), _text(self.files, redactor))


def find_differences(path: str, notebook: Any, files: Any) -> Iterator[ValueDifference]:
    """
    Yield every place below *path* where *notebook* and *files* differ.

    For texts of several lines, only the first differing line is reported.
    """
    match notebook, files:
        case Mapping(), Mapping():
            for key in dict.fromkeys((*notebook, *files)):
                yield from find_differences(_child_path(path, key), notebook.get(key, MISSING), files.get(key, MISSING))
        case list(), list():
            for index in range(max(len(notebook), len(files))):
                yield from find_differences(f"{path}[{index}]", _item(notebook, index), _item(files, index))
        case str(), str() if "\n" in notebook or "\n" in files:
            yield from _lines(path, notebook, files)
        case _ if type(notebook) is not type(files) or notebook != files:
            yield ValueDifference(path, notebook, files)


def _lines(path: str, notebook: str, files: str) -> Iterator[ValueDifference]:
    if notebook == files:
        return
    one, other = notebook.splitlines(keepends=True), files.splitlines(keepends=True)
    for number in range(max(len(one), len(other))):
        notebook_line, files_line = _item(one, number), _item(other, number)
        if notebook_line != files_line:
            yield ValueDifference(f"{path} line {number + 1}", notebook_line, files_line)
            return


def _item(values: list[Any], index: int) -> Any:
    return values[index] if index < len(values) else MISSING


def _child_path(path: str, key: object) -> str:
    name = str(key)
    if name and set(name) <= _WORD:
        return f"{path}.{name}" if path else name
    return f"{path}[{json.dumps(name, ensure_ascii=False)}]"


def _text(value: Any, redactor: Redactor) -> str | None:
    return None if value is MISSING else redactor.redact_text(json.dumps(value, ensure_ascii=False))

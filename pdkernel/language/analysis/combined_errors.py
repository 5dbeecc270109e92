"""Messages of errors: the place of an error in a step, and several errors as one error with a list."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pdkernel.errors import DefinitionError
from pdkernel.model import Step

_MAX_LISTED_ERRORS = 10
"""Maximum number of errors that one message lists, so that a message has at most 15 lines."""


def describe_place(step: Step, line: int | None) -> str:
    """The cell of *step* and *line* for a message: ` (cell [3], line 12)` or ` (work.py:12)`; empty if neither is known."""
    if step.file is not None and step.file_line is not None and (line is not None or step.cell_index is not None):
        return f" ({step.file}:{step.file_line + (line or 1) - 1})"
    parts = [name_cell(step), f"line {line}" if line is not None else ""]
    return f" ({', '.join(filter(None, parts))})" if any(parts) else ""


def name_cell(step: Step) -> str:
    """`cell [3]`, by the number beside the cell of *step*, else `cell 5`, by its position; empty without a notebook."""
    if step.execution_count is not None:
        return f"cell [{step.execution_count}]"
    return f"cell {step.cell_index + 1}" if step.cell_index is not None else ""


def describe_error_place(step: Step | None, name: str, line: int | None) -> str:
    """
    The place of an error: `line 4 of cell [3]`, `line 4 of cell [3] of work.ipynb`, or `work.py:27`.

    Args:
        step: The step, or None if only its name is known.
        name: The name of the step, for a cell without a number.
        line: The line of the cell, or None.
    """
    if step is not None and step.file is not None and step.file_line is not None:
        return f"{step.file}:{step.file_line + line - 1}" if line is not None else step.file
    cell = (name_cell(step) if step is not None else "") or f"the cell `{name}`"
    where = f"{cell} of {step.file}" if step is not None and step.file is not None else cell
    return f"line {line} of {where}" if line is not None else where


def translate_places(step: Step, text: str) -> str:
    """*text* of an error or stack of *step* with `cell [3]`, or lines of its file, for the places that the language reports."""
    name, file = re.escape(step.name), step.file
    python, other = rf'File "<step {name}>", line (\d+)', rf"(?:<step {name}>|(?<![\w/]){name}\.go):(\d+)"
    if file is not None and (first := step.file_line) is not None:
        text = re.sub(python, lambda found: f'File "{file}", line {first + int(found[1]) - 1}', text)
        return re.sub(other, lambda found: f"{file}:{first + int(found[1]) - 1}", text)
    if not (cell := name_cell(step)):
        return text
    text = re.sub(python, lambda found: f"{cell.capitalize()}, line {found[1]}", text)
    return re.sub(other, lambda found: f"{cell}:{found[1]}", text)


def with_message(error: DefinitionError, message: str, *, fix: str | None = None) -> DefinitionError:
    """A copy of *error* with another message and fix."""
    return type(error)(message, fix=error.fix if fix is None else fix, step=error.step, line=error.line)


def raise_combined(problems: Sequence[DefinitionError]) -> None:
    """
    Raise *problems* as one error; return if there are none.

    Raises:
        DefinitionError: A single problem unchanged; for several problems, the class of the first with all messages.
    """
    if not problems:
        return
    if len(problems) == 1:
        raise problems[0]
    lines = [f"- {_on_one_line(problem)}" for problem in problems[:_MAX_LISTED_ERRORS]]
    if len(problems) > _MAX_LISTED_ERRORS:
        lines.append(f"- and {len(problems) - _MAX_LISTED_ERRORS} more")
    raise with_message(problems[0], "\n".join([f"{len(problems)} problems:", *lines]), fix="")


def _on_one_line(problem: DefinitionError) -> str:
    fix = "" if "\n" in problem.fix else problem.fix  # a list has no space for code
    return " ".join(f"{problem.message} {fix}".split())

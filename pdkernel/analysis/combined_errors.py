"""Messages of errors: the place of an error in a step, and several errors as one error with a list."""

from __future__ import annotations

from collections.abc import Sequence

from pdkernel.errors import DefinitionError
from pdkernel.model import Step

_MAX_LISTED_ERRORS = 10
"""Maximum number of errors that one message lists, so that a message has at most 15 lines."""


def describe_place(step: Step, line: int | None) -> str:
    """The cell of *step* and *line* for a message: ` (cell 3, line 12)`; empty if neither is known."""
    parts = [f"cell {step.cell_index + 1}"] if step.cell_index is not None else []
    parts += [f"line {line}"] if line is not None else []
    return f" ({', '.join(parts)})" if parts else ""


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

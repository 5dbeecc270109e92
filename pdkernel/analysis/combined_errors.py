"""
Several problems, raised as one error.

Knows how to list them. Knows nothing of what they are.
"""

from __future__ import annotations

from collections.abc import Sequence

from pdkernel.errors import DefinitionError

_MAX_LISTED_ERRORS = 10
"""Problems that one message lists: a refusal has at most 15 lines."""


def with_message(error: DefinitionError, message: str, *, fix: str | None = None) -> DefinitionError:
    """An error of the same class, step and line, in other words."""
    return type(error)(message, fix=error.fix if fix is None else fix, step=error.step, line=error.line)


def raise_combined(problems: Sequence[DefinitionError]) -> None:
    """
    Raise *problems* as one error; nothing if there are none.

    Raises:
        DefinitionError: One problem as it is; of several, the first one's class with all in its message.
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
    fix = "" if "\n" in problem.fix else problem.fix  # code to paste does not fit in a list
    return " ".join(f"{problem.message} {fix}".split())

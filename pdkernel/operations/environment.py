"""Environment variables of the project. `project` encrypts and stores the values."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING

from pdkernel.errors import RequestError

if TYPE_CHECKING:
    from pdkernel.project import Project


def set_variable(project: Project, name: str, read_value: Callable[[], str]) -> None:
    """
    Set the variable *name* to the value that *read_value* returns, such as the answer to a prompt.

    Raises:
        RequestError: *name* includes a value, or the name or the value is invalid. *read_value* is not called for a
            name with a value.
    """
    name, separator, _ = name.partition("=")
    if separator:
        raise RequestError(
            "The value of a variable must not be part of the line: others can read a command line and a saved notebook.",
            fix=f"Pass {name} without a value; pdkernel prompts for the value.",
        )
    value = read_value()
    if not value:
        raise RequestError(
            f"The value of {name} is empty; the variable is unchanged.",
            fix=f"Type or pipe a value. To remove the variable: pdkernel env remove {shlex.quote(name)}",
        )
    project.variables.set(name, value)

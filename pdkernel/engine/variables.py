"""
Environment variables and secret props for steps: those of the project, and of a `.env` file beside the notebook.

The values are secrets, like credentials: only steps get them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from pdkernel.common.safe_files import read_file
from pdkernel.errors import RequestError

if TYPE_CHECKING:  # the project imports SQLAlchemy, which the magics must not load
    from pdkernel.storage import Project


def load_variables(project: Project, folder: Path) -> dict[str, str]:
    """
    Return the variables, and the values of secret props, by name. The `.env` in *folder* takes precedence over the project.

    A line of `.env` without a value is ignored.

    Raises:
        RequestError: The `.env` cannot be read; the message names file and line.
    """
    return {**project.variables.values(), **read_variables_file(folder)}


def read_variables_file(folder: Path) -> dict[str, str]:
    """Return the variables in the `.env` of *folder*; empty without the file. Raises `RequestError` as `load_variables`."""
    file = folder / ".env"
    if not os.path.lexists(file):
        return {}
    from dotenv.parser import parse_stream

    try:
        text = read_file(file).decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        line = fault.object.count(b"\n", 0, fault.start) + 1
        raise RequestError(f"{file}, line {line}, is not UTF-8 text.", fix="Save the file as UTF-8.") from None
    except OSError as fault:
        raise RequestError(
            f"{file} cannot be read: {fault.strerror}.", fix="Make the file readable, or remove it."
        ) from None
    found = {}
    for binding in parse_stream(StringIO(text)):
        if binding.error or "\0" in binding.original.string:
            # the text of the line may be a secret, so the message leaves it out
            raise RequestError(f"{file}, line {binding.original.line}, is not NAME=VALUE.", fix="Correct the line.")
        if binding.key is not None and binding.value is not None:
            found[binding.key] = binding.value
    return found


def check_variables(variables: Mapping[str, str]) -> Mapping[str, str]:
    """Return *variables* of a caller. Raises `RequestError` if a value is not a string."""
    for name, value in variables.items():
        if not isinstance(value, str):
            raise RequestError(f"The variable {name} is not a string.", fix="Write the value in quotes.")
    return variables

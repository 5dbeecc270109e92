"""The commands that start the long-lived workers. A command line never contains a secret."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pdkernel import runtimes
from pdkernel.workers.interpreters import find_node

WorkerLanguage = Literal["python", "node"]
_RUNTIMES_FOLDER = Path(runtimes.__file__).parent


@dataclass(frozen=True)
class WorkerCommand:
    """
    How a worker is started.

    Attributes:
        argv: The command.
        is_forked: The zygote of the interpreter in *argv* forks the worker instead of executing *argv*, if there is one.
    """

    argv: Sequence[str]
    is_forked: bool = False


def build_worker_command(
    language: WorkerLanguage, *, python: Path | None, node: Path | None, ignore_environment: bool = True
) -> WorkerCommand:
    """
    Return how a worker is started.

    Args:
        language: The language.
        python: The interpreter for Python steps; `sys.executable` by default.
        node: The interpreter for Node.js steps; `find_node()` by default.
        ignore_environment: Whether Python ignores the `PYTHON*` variables of its environment.

    Raises:
        InterpreterMissingError: Node.js is not installed.
    """
    if language == "python":
        alone = ["-I"] if ignore_environment else ["-s", "-P"]
        program = str(_RUNTIMES_FOLDER / "python" / "main.py")
        argv = [str(python or sys.executable), *alone, "-X", "utf8", program]
        return WorkerCommand(argv, is_forked=ignore_environment)
    return WorkerCommand(
        [
            str(node or find_node()),
            "--experimental-vm-modules",
            "--experimental-import-meta-resolve",
            "--no-warnings",
            str(_RUNTIMES_FOLDER / "node" / "main.mjs"),
        ]
    )

"""The commands that start the long-lived workers. A command line never contains a secret."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pdkernel import runtimes
from pdkernel.workers.interpreters import find_node

WorkerLanguage = Literal["python", "node"]
_RUNTIMES_FOLDER = Path(runtimes.__file__).parent


def build_worker_command(
    language: WorkerLanguage, *, python: Path | None, node: Path | None, ignore_environment: bool = True
) -> Sequence[str]:
    """
    Return the command that starts a worker.

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
        return [str(python or sys.executable), *alone, "-X", "utf8", str(_RUNTIMES_FOLDER / "python" / "main.py")]
    return [
        str(node or find_node()),
        "--experimental-vm-modules",
        "--experimental-import-meta-resolve",
        "--no-warnings",
        str(_RUNTIMES_FOLDER / "node" / "main.mjs"),
    ]

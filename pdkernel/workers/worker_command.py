"""The commands that start the long-lived workers. A command line never contains a secret."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pdkernel import runtimes
from pdkernel.workers.interpreters import find_node

WorkerLanguage = Literal["python", "node"]
_RUNTIMES_FOLDER = Path(runtimes.__file__).parent
_NODE_FOLDER = _RUNTIMES_FOLDER / "node"


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
    found = node or find_node()
    cache = find_code_cache(found)
    return WorkerCommand([*_build_node_start(found, _NODE_FOLDER), *([str(cache)] if cache else [])])


@lru_cache(maxsize=16)
def find_code_cache(node: Path, folder: Path = _NODE_FOLDER) -> Path | None:
    """
    Return the code cache of the runtime in *folder* for *node*. If it is not current, return None and write it in the background.

    It is where Python caches the code of this package, so only a process that can change the package can change the cache.
    """
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.mjs")):
        digest.update(b"%b %d\n%b" % (file.name.encode(), file.stat().st_size, file.read_bytes()))
    cache = folder / "__pycache__" / f"{hashlib.sha256(bytes(node)).hexdigest()[:16]}.v8"
    try:
        with cache.open("rb") as opened:
            if json.loads(opened.readline())["stamp"] == digest.hexdigest():
                return cache
    except (OSError, ValueError, LookupError):
        pass
    command = [*_build_node_start(node, folder), "--write", str(cache), digest.hexdigest()]
    threading.Thread(target=_write_code_cache, args=(command, cache), daemon=True).start()
    return None


def _build_node_start(node: Path, folder: Path) -> list[str]:
    flags = ["--experimental-vm-modules", "--experimental-import-meta-resolve", "--no-warnings"]
    return [str(node), *flags, str(folder / "start.mjs")]


def _write_code_cache(command: Sequence[str], cache: Path) -> None:
    """Run *command*, which writes *cache*. If that fails, workers start more slowly."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        cache.parent.mkdir(exist_ok=True)
        environment = {"PATH": os.defpath}
        subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=60)
        find_code_cache.cache_clear()

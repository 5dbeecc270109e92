"""Finding interpreters."""

from __future__ import annotations

from pathlib import Path

import pytest

from pdkernel.common.version import INSTALL_COMMANDS
from pdkernel.errors import InterpreterMissingError
from pdkernel.workers import find_bash, find_go, find_node


def program(path: Path, output: str) -> Path:
    """Write a program that prints *output*."""
    path.write_text(f"#!/bin/sh\necho '{output}'\n")
    path.chmod(0o755)
    return path


def test_node_is_found() -> None:
    """Node.js of the wheel, or Node.js on PATH, is found."""
    assert find_node().name == "node"


def test_pdkernel_node_has_precedence(tmp_path: Path) -> None:
    """PDKERNEL_NODE has precedence over the wheel, and the wheel over PATH; version 20 is enough."""
    node = program(tmp_path / "mynode", "v20.0.0")
    on_path = program(tmp_path / "node", "v99.0.0")

    assert find_node({"PDKERNEL_NODE": str(node), "PATH": ""}) == node
    assert find_node({"PATH": str(tmp_path)}) == find_node({"PATH": ""}) != on_path


def test_old_node_is_refused(tmp_path: Path) -> None:
    """The error for a version below 20 names the version and the command that installs another."""
    node = program(tmp_path / "old", "v18.20.1")

    with pytest.raises(
        InterpreterMissingError, match=r"its version is 18\.20\.1, and steps need Node\.js 20 or newer"
    ) as caught:
        find_node({"PDKERNEL_NODE": str(node)})

    assert caught.value.fix == INSTALL_COMMANDS["node"]


def test_program_that_is_not_node_is_refused(tmp_path: Path) -> None:
    """A chosen program must print a version."""
    with pytest.raises(InterpreterMissingError, match="this program is not Node"):
        find_node({"PDKERNEL_NODE": str(program(tmp_path / "odd", "hello"))})


def test_missing_bash_is_an_error(tmp_path: Path) -> None:
    """A PATH without bash is an error."""
    with pytest.raises(InterpreterMissingError, match="bash is not on PATH"):
        find_bash({"PATH": str(tmp_path)})


def go(path: Path, version: str) -> Path:
    """A program that answers as the Go of *version*."""
    path.parent.mkdir(exist_ok=True)
    return program(path, f'{{"GOROOT": "{path.parent}", "GOVERSION": "{version}"}}')


def test_go_of_the_wheel_is_found() -> None:
    """If PATH has no Go, the compiler of the wheel is found, not its script."""
    found = find_go({"PATH": ""})

    assert found.command == found.root / "bin" / "go"
    assert found.version.startswith("go1.")


def test_go_on_path_has_precedence_over_the_wheel(tmp_path: Path) -> None:
    """Go on PATH has precedence over the wheel, and PDKERNEL_GO over both."""
    on_path = go(tmp_path / "bin" / "go", "go1.99.1")
    chosen = go(tmp_path / "mine", "go1.21")

    assert find_go({"PATH": str(on_path.parent)}).version == "go1.99.1"
    assert find_go({"PATH": str(on_path.parent), "PDKERNEL_GO": str(chosen)}).version == "go1.21"


def test_a_script_that_calls_go_is_replaced_by_go(tmp_path: Path) -> None:
    """If the chosen program is a script, the compiler in its root folder is used."""
    own = program(tmp_path / "go", "")
    own.parent.joinpath("bin").mkdir()
    own = own.rename(tmp_path / "bin" / "go")

    assert find_go({"PDKERNEL_GO": str(go(tmp_path / "script", "go1.22.1"))}).command == own


def test_wheel_replaces_an_old_go_on_path(tmp_path: Path) -> None:
    """If Go on PATH is too old, Go of the wheel is used."""
    old = go(tmp_path / "bin" / "go", "go1.20.14")

    assert find_go({"PATH": str(old.parent)}).command != old


@pytest.mark.parametrize(
    ("answer", "why"),
    [("go1.20.14", r"its version is go1\.20\.14, and steps need Go 1\.21 or newer"), ("tip", "steps need Go 1.21")],
)
def test_unusable_pdkernel_go_is_refused(tmp_path: Path, answer: str, why: str) -> None:
    """The error has the reason and the command that installs Go."""
    with pytest.raises(InterpreterMissingError, match=why) as caught:
        find_go({"PDKERNEL_GO": str(go(tmp_path / "go", answer))})

    assert caught.value.fix == INSTALL_COMMANDS["go"]


def test_program_that_is_not_go_is_refused(tmp_path: Path) -> None:
    """A chosen program must answer as Go does."""
    for name, answer in (("odd", "hello"), ("json", "{}")):
        with pytest.raises(InterpreterMissingError, match="this program is not Go"):
            find_go({"PDKERNEL_GO": str(program(tmp_path / name, answer))})

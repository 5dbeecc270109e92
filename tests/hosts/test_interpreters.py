"""Finding interpreters."""

from __future__ import annotations

from pathlib import Path

import pytest

from pdkernel.errors import InterpreterMissingError
from pdkernel.hosts import find_bash, find_node


def program(path: Path, says: str) -> Path:
    """A program that prints *says*."""
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


def test_a_node_is_found() -> None:
    """The wheel's, or the one on PATH."""
    assert find_node().name == "node"


def test_the_chosen_node_wins(tmp_path: Path) -> None:
    """PDKERNEL_NODE comes first."""
    node = program(tmp_path / "mynode", "v22.15.0")

    assert find_node({"PDKERNEL_NODE": str(node), "PATH": ""}) == node


def test_a_node_that_is_too_old_is_refused_with_the_command(tmp_path: Path) -> None:
    """Older than 20 names its version and how to get another."""
    node = program(tmp_path / "old", "v18.20.1")

    with pytest.raises(InterpreterMissingError, match=r"Node\.js 18\.20\.1; steps need Node\.js 20 or newer") as caught:
        find_node({"PDKERNEL_NODE": str(node)})

    assert caught.value.fix == "pip install 'pdkernel[node]'"


def test_something_that_is_not_node_is_refused(tmp_path: Path) -> None:
    """A chosen program must say a version."""
    with pytest.raises(InterpreterMissingError, match="does not run as Node"):
        find_node({"PDKERNEL_NODE": str(program(tmp_path / "odd", "hello"))})


def test_no_bash_is_a_clear_error(tmp_path: Path) -> None:
    """A PATH without bash is told."""
    with pytest.raises(InterpreterMissingError, match="there is none on PATH"):
        find_bash({"PATH": str(tmp_path)})

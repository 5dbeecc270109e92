"""A registry with packages of the test, and a project that installs from the registry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pdkernel.packages import NPM_LOCK_NAME, NpmPackages
from pdkernel.workers import find_node
from tests.npm_registry import NpmRegistry, npm_registry

Open = Callable[..., NpmPackages]


@pytest.fixture
def registry() -> Iterator[NpmRegistry]:
    """An empty registry."""
    with npm_registry() as running:
        yield running


@pytest.fixture
def opened(registry: NpmRegistry, tmp_path: Path) -> Open:
    """Opens the packages of the project in `tmp_path`, as a new process does."""

    def open_packages(folder: str = "packages", **environ: str) -> NpmPackages:
        return NpmPackages(
            tmp_path / folder,
            lock=tmp_path / NPM_LOCK_NAME,
            node=find_node,
            environ={**registry.environ(tmp_path), **environ},
        )

    return open_packages

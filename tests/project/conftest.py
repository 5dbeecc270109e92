"""A project in a folder of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pdkernel.clock import CountingIds, FrozenClock
from pdkernel.project import Project


@pytest.fixture
def clock() -> FrozenClock:
    """A clock that a test moves."""
    return FrozenClock()


@pytest.fixture
def project(tmp_path: Path, clock: FrozenClock) -> Iterator[Project]:
    """A fresh project."""
    with Project.open(tmp_path / ".pdkernel", clock=clock, ids=CountingIds()) as project:
        yield project

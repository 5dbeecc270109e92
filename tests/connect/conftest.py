"""A Connect API in another process, and a local project that is logged in to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pdkernel.clock import CountingIds, FrozenClock
from pdkernel.project import Project
from tests.connect.upstream import Upstream, running_upstream


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """The API."""
    with running_upstream() as api:
        yield api


@pytest.fixture
def moving() -> FrozenClock:
    """A clock that a test moves."""
    return FrozenClock()


@pytest.fixture
def home(tmp_path: Path, moving: FrozenClock) -> Iterator[Project]:
    """A fresh local project."""
    with Project.open(tmp_path / ".pdkernel", clock=moving, ids=CountingIds()) as project:
        yield project

"""A Connect API in another process, and a local project that is logged in to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pdkernel.clock import ManualClock, SequentialIds
from pdkernel.project import Project
from tests.connect.upstream import Upstream, running_upstream


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """The API."""
    with running_upstream() as api:
        yield api


@pytest.fixture
def moving() -> ManualClock:
    """A clock that a test moves."""
    return ManualClock()


@pytest.fixture
def home(tmp_path: Path, moving: ManualClock) -> Iterator[Project]:
    """A fresh local project."""
    with Project.open(tmp_path / ".pdkernel", clock=moving, ids=SequentialIds()) as project:
        yield project

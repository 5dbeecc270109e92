"""A project in a temporary folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pdkernel.clock import ManualClock, SequentialIds
from pdkernel.project import Project


@pytest.fixture
def clock() -> ManualClock:
    """A clock that the test controls."""
    return ManualClock()


@pytest.fixture
def project(tmp_path: Path, clock: ManualClock) -> Iterator[Project]:
    """A new project."""
    with Project.open(tmp_path / ".pdkernel", clock=clock, ids=SequentialIds()) as project:
        yield project

"""A local project."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pdkernel.common.clock import ManualClock, SequentialIds
from pdkernel.storage import Project


@pytest.fixture
def moving() -> ManualClock:
    """A clock that a test advances."""
    return ManualClock()


@pytest.fixture
def home(tmp_path: Path, moving: ManualClock) -> Iterator[Project]:
    """A new local project."""
    with Project.open(tmp_path / ".pdkernel", clock=moving, ids=SequentialIds()) as project:
        yield project

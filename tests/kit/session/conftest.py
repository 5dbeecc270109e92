"""Sessions on a temporary project."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pdkernel.kit.session import Session
from tests.notebook_files import notebook_of


@pytest.fixture
def make_session(tmp_path: Path) -> Iterator[Callable[..., Session]]:
    """Makes sessions of the same folder; each is like a newly started kernel."""
    made: list[Session] = []

    def make(notebook: str | None = None) -> Session:
        session = Session(
            folder=tmp_path,
            notebook=tmp_path / notebook if notebook else None,
            environ={"PDKERNEL_EGRESS": "stand-in=slack"},
        )
        made.append(session)
        return session

    yield make
    for session in made:
        session.close()


@pytest.fixture
def session(make_session: Callable[..., Session]) -> Session:
    """A session without a notebook's file."""
    return make_session()


@pytest.fixture
def save_notebook(tmp_path: Path) -> Callable[..., Path]:
    """Writes a notebook whose cells are (id, source) pairs."""

    def save(*cells: tuple[str, str], name: str = "work.ipynb") -> Path:
        return notebook_of(tmp_path / name, *({"id": cell_id, "source": source} for cell_id, source in cells))

    return save

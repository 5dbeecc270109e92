"""Sessions on a temporary project."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pdkernel.kit.session import Session


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
        value: dict[str, Any] = {
            "cells": [
                {
                    "cell_type": "code",
                    "id": cell_id,
                    "metadata": {},
                    "outputs": [],
                    "execution_count": None,
                    "source": source,
                }
                for cell_id, source in cells
            ],
            "metadata": {},
            "nbformat": 4,
            "nbformat_minor": 5,
        }
        path = tmp_path / name
        path.write_text(json.dumps(value), encoding="utf-8")
        return path

    return save

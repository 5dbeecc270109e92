"""Notebooks written as files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pdkernel.kit.session.state import SessionState
from pdkernel.storage import Project


def notebook_of(path: Path, *cells: str) -> Path:
    """Write a notebook of code cells at *path*."""
    written: list[dict[str, Any]] = [
        {"cell_type": "code", "id": f"c{n}", "metadata": {}, "outputs": [], "execution_count": None, "source": source}
        for n, source in enumerate(cells)
    ]
    path.write_text(
        json.dumps({"cells": written, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}), encoding="utf-8"
    )
    return path


def pin_steps(project: Path, notebook: Path, *steps: str) -> None:
    """Pin *steps* as the session of *notebook* does, in the project folder *project*."""
    state = SessionState(
        event=None,
        event_name=None,
        external_user_id=None,
        environment="development",
        pins={step: {"$return_value": 1} for step in steps},
        results={},
    )
    with Project.open(project) as opened:
        opened.notebook_states.save(str(notebook.resolve()), state.to_json())

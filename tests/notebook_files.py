"""Notebooks written as files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pdkernel.kit.session.state import SessionState
from pdkernel.storage import Project


def notebook_of(path: Path, *cells: str | dict[str, Any], **top: Any) -> Path:
    """
    Write a notebook at *path*, and create its folder; *top* are further keys of the file.

    A text is the source of a code cell; a mapping has fields of a code cell, or is a whole cell with its `cell_type`.
    """
    written: list[dict[str, Any]] = []
    for number, cell in enumerate(cells):
        given = {"source": cell} if isinstance(cell, str) else cell
        code: dict[str, Any] = {
            "cell_type": "code",
            "id": f"c{number}",
            "metadata": {},
            "outputs": [],
            "execution_count": None,
        }
        written.append(given if "cell_type" in given else code | given)
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {"cells": written, "metadata": {}, "nbformat": 4, "nbformat_minor": 5, **top}
    path.write_text(json.dumps(whole), encoding="utf-8")
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

"""Notebooks written as files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


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

"""Views in golden files; PDKERNEL_UPDATE=1 writes them."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).parent / "golden"


def assert_golden(name: str, drawn: str, *, folder: Path = FOLDER) -> None:
    """Fail unless *drawn* equals the golden file *name* in *folder*."""
    path = folder / name
    if os.environ.get("PDKERNEL_UPDATE") == "1":
        path.write_text(drawn, encoding="utf-8")
    assert drawn == path.read_text(encoding="utf-8")

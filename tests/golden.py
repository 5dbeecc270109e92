"""
Golden files: texts that a test compares with a file of this checkout.

With `PDKERNEL_UPDATE=1` a test writes the file that differs, and then fails: only a run that writes nothing can pass.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

VARIABLE = "PDKERNEL_UPDATE"
UPDATES = os.environ.get(VARIABLE) == "1"  # read at the import: a test may remove the variables of pdkernel
WRITTEN = "golden file written; run again"


def assert_golden(path: Path, text: str) -> None:
    """Fail unless *text* equals the golden file at *path*."""
    if (path.read_text(encoding="utf-8") if path.exists() else None) != text:
        write_golden(path, text)
    assert path.exists(), f"There is no golden file {path.name}. To write the file: {VARIABLE}=1"
    assert text == path.read_text(encoding="utf-8")


def write_golden(path: Path, text: str) -> None:
    """Write the changed *text* to *path* and fail, if this run updates golden files; otherwise do nothing."""
    if UPDATES:
        path.write_text(text, encoding="utf-8")
        pytest.fail(f"{path.name}: {WRITTEN}", pytrace=False)

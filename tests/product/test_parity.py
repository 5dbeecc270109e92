"""Differences from the platform have a comment in the code and a row in the documentation's parity table."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
GRADES = {"documented", "observed", "inferred", "ours"}


def in_code() -> set[str]:
    """Ids of the `parity[id]` comments of the package."""
    files = [path for path in (ROOT / "pdkernel").rglob("*") if path.suffix in (".py", ".mjs", ".go")]
    return {found for path in files for found in re.findall(r"parity\[([a-z-]+)\]: ", path.read_text(encoding="utf-8"))}


def in_table() -> dict[str, str]:
    """The grade of each row of the table, by id."""
    page = (ROOT / "docs" / "reference" / "parity.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^\| `([a-z-]+)` \|.*\| (\w+) \|$", page, re.MULTILINE))


def test_table_and_code_name_the_same_differences() -> None:
    """Each parity comment has a row in the table, and each row has a comment."""
    assert set(in_table()) == in_code()


def test_comments_carry_an_id() -> None:
    """Every parity comment has an id."""
    files = [path for path in (ROOT / "pdkernel").rglob("*") if path.suffix in (".py", ".mjs", ".go")]
    nameless = [path.name for path in files if re.search(r"parity: ", path.read_text(encoding="utf-8"))]

    assert nameless == []


def test_each_row_has_a_grade() -> None:
    """Each row's grade is one of four words."""
    assert set(in_table().values()) <= GRADES

"""Where we differ from the platform, or copy a quirk of it, is said in the code and in the README alike."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
GRADES = {"documented", "observed", "inferred", "ours"}


def in_code() -> set[str]:
    """Ids of the `parity[id]` comments of the package."""
    files = [path for path in (ROOT / "pdkernel").rglob("*") if path.suffix in (".py", ".mjs", ".go")]
    return {found for path in files for found in re.findall(r"parity\[([a-z-]+)\]: ", path.read_text(encoding="utf-8"))}


def in_readme() -> dict[str, str]:
    """Id to grade of the README's rows."""
    rows = re.findall(
        r"^\| `([a-z-]+)` \|.*\| (\w+) \|$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    return dict(rows)


def test_readme_and_code_name_the_same_differences() -> None:
    """Each parity comment has its row in the README, and each row its comment."""
    assert set(in_readme()) == in_code()


def test_comments_carry_an_id() -> None:
    """No parity comment is without an id."""
    files = [path for path in (ROOT / "pdkernel").rglob("*") if path.suffix in (".py", ".mjs", ".go")]
    nameless = [path.name for path in files if re.search(r"parity: ", path.read_text(encoding="utf-8"))]

    assert nameless == []


def test_each_row_says_how_it_is_known() -> None:
    """Each row's grade is one of four words."""
    assert set(in_readme().values()) <= GRADES

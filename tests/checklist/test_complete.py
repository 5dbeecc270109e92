"""Every case and every golden file is used."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checklist.case_files import ABOVE, FOLDER, case_names, sections
from tests.checklist.conftest import GOLDEN
from tests.checklist.languages import ALL

TESTS = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))

ENDS = {*ALL, "action"}


@pytest.mark.parametrize("name", case_names())
def test_every_case_is_run(name: str) -> None:
    """A test contains the name of the case."""
    assert f'"{name}"' in TESTS


@pytest.mark.parametrize("name", [name for name in case_names() if (FOLDER / f"{name}.txt").is_file()])
def test_every_language_of_a_case_is_run(name: str) -> None:
    """Each section of a case has a golden file, and each golden file has a section."""
    written = set(sections(name)) - {ABOVE}
    compared = {path.stem.rpartition("-")[2] for path in GOLDEN.iterdir() if case_of(path) == name}
    assert written == compared


def test_every_golden_file_belongs_to_a_case() -> None:
    """The name of a golden file starts with the name of a case and ends with a language."""
    left = [path.name for path in GOLDEN.iterdir() if case_of(path) is None or path.stem.rpartition("-")[2] not in ENDS]
    assert left == []


def case_of(golden: Path) -> str | None:
    """The case of a golden file: the longest name of a case at the start of the file's name."""
    return max((name for name in case_names() if golden.stem.startswith(f"{name}-")), key=len, default=None)

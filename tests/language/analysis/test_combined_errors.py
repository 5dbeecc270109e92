"""Places in messages of errors, and several errors as one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pdkernel.errors import DefinitionError, StepOrderError
from pdkernel.language.analysis.combined_errors import (
    describe_error_place,
    describe_place,
    raise_combined,
    translate_places,
)
from pdkernel.model import Step

CELL = Step("send", cell_index=4)
RUN_CELL = replace(CELL, execution_count=3)
NOTEBOOK = replace(RUN_CELL, file="work.ipynb")
FILE = Step("send", file="work.py", file_line=20)


@pytest.mark.parametrize(
    ("step", "line", "place"),
    [
        (CELL, None, " (cell 5)"),
        (CELL, 12, " (cell 5, line 12)"),
        (RUN_CELL, 12, " (cell [3], line 12)"),
        (FILE, 12, " (work.py:31)"),
        (replace(FILE, cell_index=4), None, " (work.py:20)"),
        (FILE, None, ""),
        (Step("send"), None, ""),
    ],
)
def test_the_place_of_a_problem(step: Step, line: int | None, place: str) -> None:
    """A place is a cell, by its number or its position, and a line; or a line of the workflow's file."""
    assert describe_place(step, line) == place


@pytest.mark.parametrize(
    ("step", "line", "place"),
    [
        (None, 4, "line 4 of the cell `send`"),
        (Step("send"), None, "the cell `send`"),
        (RUN_CELL, 4, "line 4 of cell [3]"),
        (NOTEBOOK, 4, "line 4 of cell [3] of work.ipynb"),
        (FILE, 4, "work.py:23"),
        (FILE, None, "work.py"),
    ],
)
def test_the_place_of_an_error(step: Step | None, line: int | None, place: str) -> None:
    """The place of an error has the cell or its name, and the file if it is known."""
    assert describe_error_place(step, "send", line) == place


@pytest.mark.parametrize(
    ("step", "translated"),
    [
        (FILE, 'File "work.py", line 21, in f; work.py:22; work.py:23'),
        (RUN_CELL, "Cell [3], line 2, in f; cell [3]:3; cell [3]:4"),
        (Step("send"), 'File "<step send>", line 2, in f; <step send>:3; send.go:4'),
    ],
)
def test_places_that_a_language_reports(step: Step, translated: str) -> None:
    """The places of Python, Node.js and Go become those of the notebook or the file; places of other code stay."""
    others = "; <step send_all>:5; resend.go:6; lib/send.go:7"

    text = translate_places(step, f'File "<step send>", line 2, in f; <step send>:3; send.go:4{others}')

    assert text == translated + others


def test_one_problem_is_unchanged() -> None:
    """A single problem is raised as it is, and none raises nothing."""
    problem = StepOrderError("One.", fix="Fix it.", step="a", line=3)
    raise_combined([])

    with pytest.raises(StepOrderError) as caught:
        raise_combined([problem])

    assert caught.value is problem


@pytest.mark.parametrize(("count", "last"), [(10, "- Problem 10. Fix 10."), (11, "- and 1 more"), (13, "- and 3 more")])
def test_several_problems_are_listed(count: int, last: str) -> None:
    """Ten problems are listed with their fixes, without code, and the others are counted; class and place are those of the first."""
    first = StepOrderError("Problem 1,\nin two lines.", fix="Write\ncode()", step="a", line=3)
    more = [DefinitionError(f"Problem {number}.", fix=f"Fix {number}.") for number in range(2, count + 1)]

    with pytest.raises(StepOrderError) as caught:
        raise_combined([first, *more])

    lines = caught.value.message.splitlines()
    assert lines[:3] == [f"{count} problems:", "- Problem 1, in two lines.", "- Problem 2. Fix 2."]
    assert (len(lines), lines[-1]) == (min(count, 11) + 1, last)
    assert (caught.value.fix, caught.value.step, caught.value.line) == ("", "a", 3)

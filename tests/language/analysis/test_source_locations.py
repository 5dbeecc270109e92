"""Lines for messages: the only return of a step, and the declaration of a prop."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pdkernel.errors import DefinitionError, StepOrderError
from pdkernel.language.analysis.source_locations import (
    describe_error_place,
    describe_place,
    find_return_line,
    locate_missing_prop,
    raise_combined,
    translate_places,
)
from pdkernel.model import Step
from tests.builders import a_step, bash_step, node_step, python_step

FOLDER_CODE = """\
const other = { props: ["db"] };
export default defineComponent({
  props: {
    db,
    slack: { type: "app", app: "slack" },
    "api key": { type: "string" },
  },
  async run() {},
});
"""


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("x = 1\nreturn x", 4),
        ("if pd:\n    return 1\nreturn 2", None),
        ("return", None),
        ("return\nreturn 2", 4),
        ("def inner():\n    return 1\nreturn 2", 5),
        ("x = lambda: 1\nclass A:\n    def f(self):\n        return 1\nreturn 2", 7),
        ("for x in []:\n    with x:\n        return 1", 5),
        ("pass", None),
    ],
)
def test_the_return_of_a_python_step(body: str, line: int | None) -> None:
    """The line of the cell, if the handler returns a value in one place; inner functions do not count."""
    assert find_return_line(python_step(body=body)) == line


def test_only_the_handler_counts() -> None:
    """The return of another function is not that of the step; a handler may be asynchronous."""
    step = a_step("%%pdstep a\ndef helper():\n    return 1\n\nasync def handler(pd):\n    return 2\n")

    assert find_return_line(step) == 6
    assert find_return_line(a_step("%%pdstep a\ndef helper():\n    return 1\n")) is None
    assert find_return_line(a_step("%%pdstep a\ndef handler(pd:\n    return 1\n")) is None


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("const x = 1;\nreturn x;", 5),
        ("if (steps) {\nreturn 1;\n}\nreturn 2;", None),
        ("return;", None),
        ("[1].map((x) => { return x; });\nreturn 2;", 5),
        ("function inner() { return 1; }\nreturn 2;", 5),
        ("if (steps) {\nreturn 1;\n}", 5),
    ],
)
def test_the_return_of_a_node_step(body: str, line: int | None) -> None:
    """The line of the cell, if `run` returns a value in one place; inner functions do not count."""
    assert find_return_line(node_step(body=body)) == line


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("export default {\n  run: async () =>\n    1,\n};", 3),
        ("export default {\n  run: async function () {\n    return 1;\n  },\n};", 3),
        ("export default {\n  go() { return 1; },\n};", None),
        ("export default {\n  run: 1,\n};", None),
    ],
)
def test_forms_of_run(code: str, line: int | None) -> None:
    """`run` is a method or a function; the value of an arrow function without braces is its return."""
    assert find_return_line(Step("a", "node", code)) == line


def test_steps_without_a_return_line() -> None:
    """An action has no code here, and a Bash step no `return` with a value."""
    assert find_return_line(Step("a", "node", "export default { run: () => 1 };", uses="a-b@1.0.0")) is None
    assert find_return_line(bash_step(body="return 1")) is None


@pytest.mark.parametrize(("prop", "line"), [("slack", 5), ("db", 4), ("api key", 6), ("gone", None)])
def test_the_declaration_of_a_prop(prop: str, line: int | None) -> None:
    """For code of a synced folder, the place is the line of the entry file that declares the prop."""
    step = Step("a", "node", FOLDER_CODE, props_file="workflow.yaml")

    assert locate_missing_prop(step, prop)[0] == line


def test_the_place_of_a_prop_in_a_cell() -> None:
    """A cell has its directive line; an action of a folder has its place in the folder's file."""
    step = node_step(props='{ slack: { type: "app", app: "slack" } }')
    action = Step("a", "node", FOLDER_CODE, uses="a-b@1.0.0", props_file="workflow.yaml")

    assert locate_missing_prop(step, "slack") == step.locate_prop("slack")
    assert locate_missing_prop(action, "slack") == action.locate_prop("slack")
    python = replace(action, language="python", uses=None)
    assert locate_missing_prop(python, "slack") == python.locate_prop("slack")


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

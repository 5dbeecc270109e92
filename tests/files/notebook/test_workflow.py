"""Reading notebooks as workflows."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import jupytext
import pytest

from pdkernel.errors import (
    BlockError,
    DefinitionError,
    DirectiveError,
    DuplicateStepError,
    NotebookError,
    StepNameError,
)
from pdkernel.files.notebook import NotebookCell, read_cells, read_notebook, workflow_from_cells
from pdkernel.language.analysis import check_readable
from pdkernel.model import JSON, Trigger, Workflow
from tests.branch_workflows import WORKFLOWS
from tests.notebook_files import notebook_of


def test_steps_have_the_files_order(tmp_path: Path) -> None:
    """Steps have the file's order; Markdown cells and other code cells are not steps; a cell's text may be a list of lines."""
    markdown = {"cell_type": "markdown", "source": ["%%pdstep not_me\n"], "metadata": {}}
    lines = {"source": ["%%pdstep a\n", "one\n", "two"]}
    path = notebook_of(tmp_path / "flow.ipynb", "%load_ext pdkernel", "%%pdstep b\n1", markdown, "x = 1", lines)

    workflow = read_notebook(path)

    assert [(step.name, step.source, step.cell_index) for step in workflow.steps] == [
        ("b", "1", 1),
        ("a", "one\ntwo", 4),
    ]
    assert (workflow.name, workflow.origin) == ("flow", str(path))
    assert workflow.triggers == (Trigger(),)


def test_header_names_the_workflow(tmp_path: Path) -> None:
    """The header's name wins over the file's."""
    path = notebook_of(tmp_path / "flow.ipynb", "%%pdworkflow\nname: My flow\nsettings: {memory: 512}", "%%pdstep a")

    workflow = read_notebook(path)

    assert (workflow.name, workflow.settings) == ("My flow", {"memory": 512})


def test_metadata_holds_what_a_cell_cannot_show() -> None:
    """A step's note and unknown keys come from the cell's metadata."""
    hidden: dict[str, JSON] = {"pdkernel": {"notes": "Why", "extra": {"_props_cursor": "dyp_1"}}, "tags": ["x"]}

    step = workflow_from_cells([NotebookCell("%%pdstep a", metadata=hidden)], name="n").steps[0]

    assert (step.notes, step.extra) == ("Why", {"_props_cursor": "dyp_1"})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("<<<<<<< HEAD\n{}", "it is not JSON (Expecting value at line 1, column 1)"),
        ('{"cells": [\n}', "at line 2"),
        ("[]", "not an object"),
        ('{"method": "POST"}', "it has no list of cells"),
        ('{"cells": 5}', "it has no list of cells"),
        ('{"cells": []}', "has no nbformat"),
        ('{"cells": [], "nbformat": 9}', "not a notebook that can be read"),
        (b"\x89PNG\xff", "not UTF-8 text (byte 1)"),
    ],
)
def test_not_a_notebook(tmp_path: Path, text: str | bytes, says: str) -> None:
    """A file that is not a notebook is refused with the reason."""
    path = tmp_path / "n.ipynb"
    path.write_bytes(text.encode() if isinstance(text, str) else text)

    with pytest.raises(NotebookError) as caught:
        read_notebook(path)

    assert says in caught.value.message
    assert str(path) in caught.value.message


def test_no_file(tmp_path: Path) -> None:
    """A missing file and a folder have errors of their own."""
    with pytest.raises(NotebookError, match="There is no notebook"):
        read_notebook(tmp_path / "none.ipynb")
    with pytest.raises(NotebookError, match="cannot be read"):
        read_notebook(tmp_path)


def test_old_format(tmp_path: Path) -> None:
    """A notebook of format 3 is converted to format 4."""
    cell = {"cell_type": "code", "language": "python", "input": ["%%pdstep a\n", "1"], "outputs": [], "metadata": {}}
    path = tmp_path / "old.ipynb"
    path.write_text(
        json.dumps({"nbformat": 3, "nbformat_minor": 0, "metadata": {"name": ""}, "worksheets": [{"cells": [cell]}]})
    )

    assert [(cell.type, cell.source) for cell in read_cells(path)] == [("code", "%%pdstep a\n1")]


def test_two_steps_of_one_name() -> None:
    """Two steps of one name are refused; the message names both cells."""
    cells = [NotebookCell("%%pdstep a"), NotebookCell("x"), NotebookCell("%%pdstep a")]

    with pytest.raises(DuplicateStepError, match="Cell 1 and Cell 3 are both called 'a'"):
        workflow_from_cells(cells, name="n")


def test_one_problem_keeps_its_message() -> None:
    """A single problem names its cell, its line and its fix."""
    with pytest.raises(StepNameError) as caught:
        workflow_from_cells([NotebookCell("x"), NotebookCell("# c\n%%pdstep my-step")], name="n")

    assert caught.value.message.startswith("Cell 2: 'my-step' is not a valid step name")
    assert (caught.value.line, caught.value.fix) == (2, "Call it 'my_step'.")


def test_all_problems_at_once() -> None:
    """One message of at most fifteen lines names every invalid cell."""
    cells = [
        NotebookCell("%%pdstep a --lang cobol"),
        NotebookCell("%%pdworkflow\nnme: x"),
        NotebookCell("%%pdstep b"),
        NotebookCell("%%pdstep b"),
    ]
    cells += [NotebookCell("%%pdstep x-y")] * 20

    with pytest.raises(DefinitionError) as caught:
        workflow_from_cells(cells, name="n")

    assert isinstance(caught.value, DirectiveError)
    for part in ("23 problems", "Cell 1: ", "Cell 2: ", "and 13 more"):
        assert part in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 15


def test_unreadable_cells_are_steps_with_a_problem() -> None:
    """A lenient reading keeps the steps that can be read, and names the others by their first word if it is free, or their position."""
    cells = [
        NotebookCell("%%pdstep a"),
        NotebookCell("%%pdstep a --lng x\ncode", execution_count=7),
        NotebookCell("# c\n%%pdstep my-step"),
        NotebookCell("%%pdstep --lng"),
        NotebookCell("%%pdstep a"),
        NotebookCell("%%pdstep my_step --lng y"),
    ]

    steps = workflow_from_cells(cells, name="n", lenient=True).steps

    assert [step.name for step in steps] == ["a", "cell_2", "my_step", "cell_4", "cell_5", "cell_6"]
    assert [step.problem and step.problem[1] for step in steps] == [None, 1, 2, 1, 1, 1]
    assert steps[4].problem is not None
    assert steps[4].problem[0].startswith("Cell 1 and Cell 5 are both called 'a'")
    assert (steps[1].execution_count, steps[1].source) == (7, "code")
    with pytest.raises(DirectiveError, match="unknown key 'nme'"):  # a wrong header concerns every step
        workflow_from_cells([*cells, NotebookCell("%%pdworkflow\nnme: x")], name="n", lenient=True)


def test_two_headers() -> None:
    """A notebook with two headers is refused."""
    with pytest.raises(DirectiveError, match="Cell 1 and Cell 2 are both %%pdworkflow"):
        workflow_from_cells([NotebookCell("%%pdworkflow"), NotebookCell("%%pdworkflow")], name="n")


def test_an_unreadable_header_stops_no_step() -> None:
    """The last readable header, or the default one, replaces a header cell with an error or a second header cell."""
    good, bad = "%%pdworkflow\nname: Work\ntrigger: {type: http, response: custom}", "%%pdworkflow\nnme: x"
    step = NotebookCell("%%pdstep a")

    kept = workflow_from_cells([NotebookCell(bad, execution_count=3), step], name="n", last_header=good)
    default = workflow_from_cells([NotebookCell(bad), NotebookCell("%%pdworkflow"), step], name="n", last_header="")

    assert (kept.name, kept.trigger.response, [each.name for each in kept.steps]) == ("Work", "custom", ["a"])
    assert kept.problem == (
        "Cell [3]: %%pdworkflow has an unknown key 'nme' (line 2).\nDid you mean name?",
        "Until the error in cell [3] is corrected, steps run with the trigger and the settings that the cell's last readable text has.",
    )
    assert (default.name, default.trigger) == ("n", Trigger())
    assert default.problem is not None
    assert "Cell 1 and Cell 2 are both" in default.problem[0]
    assert "that a notebook without this cell has" in default.problem[1]
    with pytest.raises(DirectiveError, match="unknown key 'nme'"):
        check_readable(kept)


@pytest.mark.parametrize(
    ("bad", "last"),
    [
        ("settings:\n  share_workrs: never", ""),
        ("settings: {network: net_abc", ""),
        ("settings:\n  netwrk: net_abc", ""),
        ("nme: x", "%%pdworkflow\nsettings: {share_workers: always}"),
    ],
)
def test_a_header_with_a_protection_is_not_replaced(bad: str, last: str) -> None:
    """No step runs if the unreadable cell may set the network, or workers of one external user only."""
    with pytest.raises(DirectiveError, match=r"No step runs before the cell is corrected: it may set `network` or"):
        workflow_from_cells([NotebookCell(f"%%pdworkflow\n{bad}")], name="n", last_header=last)


@pytest.mark.parametrize("source", [5, None, {}, ["a", 1], [None]])
def test_a_source_that_is_not_text_is_refused(tmp_path: Path, source: JSON) -> None:
    """The error names a cell whose source is neither a text nor a list of texts."""
    path = notebook_of(tmp_path / "n.ipynb", "x = 1", {"cell_type": "code", "source": source, "metadata": {}})

    with pytest.raises(NotebookError, match=r"n\.ipynb is not a notebook: the source of its cell 2 is not text"):
        read_notebook(path)


def test_a_number_with_too_many_digits_is_refused_with_its_line(tmp_path: Path) -> None:
    """A notebook with a number that is too long for Python is refused with file and line."""
    path = notebook_of(tmp_path / "n.ipynb", "x = 1")
    path.write_text('{\n"nbformat": ' + "4" * 5000 + ', "cells": []}')

    with pytest.raises(
        NotebookError, match=r"n.ipynb is not a notebook: it holds a number that is too long \(line 2\)"
    ):
        read_notebook(path)


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    """A FIFO with a notebook's name is refused without waiting."""
    os.mkfifo(tmp_path / "n.ipynb")

    with pytest.raises(NotebookError, match=r"n\.ipynb cannot be read: Not a regular file"):
        read_notebook(tmp_path / "n.ipynb")


PERCENT = """\
# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # Greet

# %%
# %%pdworkflow
name: Greet
trigger: {type: http, auth: bearer, token_env: TOKEN}

# %%
import os

# %%
# %%pdstep build
def handler(pd):
    # a comment stays
    return f"Hi {pd.steps['trigger']['event']['body']}"


# %% vscode={"languageId": "javascript"}
# %%pdstep send --lang node
export default {};

# %% pdkernel={"notes": "for the team"}
# %%pdstep route --lang bash
# echo "a=1" >> "$PIPEDREAM_EXPORTS"
"""


def test_python_file_in_percent_format(tmp_path: Path) -> None:
    """A Python file in percent format is a notebook: magics and shell lines are commented there, comments of steps are not."""
    path = tmp_path / "flow.py"
    path.write_text(PERCENT)

    workflow = read_notebook(path)

    assert (workflow.name, workflow.trigger.auth) == ("Greet", "bearer")
    assert [(step.name, step.language) for step in workflow.steps] == [
        ("build", "python"),
        ("send", "node"),
        ("route", "bash"),
    ]
    assert workflow.steps[0].source.splitlines()[1] == "    # a comment stays"
    assert workflow.steps[2].source == 'echo "a=1" >> "$PIPEDREAM_EXPORTS"'
    assert workflow.steps[2].notes == "for the team"
    assert read_notebook(path) == workflow


def test_percent_format_has_the_notebooks_workflow(tmp_path: Path) -> None:
    """The notebook and what Jupytext makes of it are the same workflow."""
    saved = Path(__file__).parents[3] / "notebooks" / "02_languages_and_actions.ipynb"
    notebook = jupytext.read(saved)
    jupytext.write(notebook, tmp_path / "same.py", fmt="py:percent")

    ours, same = read_notebook(saved), read_notebook(tmp_path / "same.py")

    assert replace(same, origin=ours.origin, name=ours.name) == ours
    assert len(same.steps) > 3


def test_python_file_without_cells(tmp_path: Path) -> None:
    """A Python file that is not in percent format is refused, with the formats that are read."""
    path = tmp_path / "tool.py"
    path.write_text("print('%%pdstep')\n")

    with pytest.raises(NotebookError, match="is a Python file without `# %%` cells") as raised:
        read_notebook(path)

    assert raised.value.fix == "Pass a notebook (.ipynb), or a .py file in percent format, as Jupytext writes."


def test_python_file_with_a_wrong_header(tmp_path: Path) -> None:
    """A header that Jupytext cannot read is named as the reason."""
    path = tmp_path / "flow.py"
    path.write_text("# ---\n# jupyter:\n# ---\n\n# %%\n# %%pdstep a\nreturn 1\n")

    with pytest.raises(NotebookError, match=r"its header is not Jupytext's"):
        read_notebook(path)


def test_files_in_raw_cells(tmp_path: Path) -> None:
    """Steps import files of raw cells by their place in the workflow's folder, after an edit and a renaming, too."""
    extra = {"pdkernel": {"extra": {"pdkernel": {"entry": "./score/entry.mjs"}}}}
    files = {"score/a.mjs": "import '../lib/b.mjs'", "lib/b.mjs": "edited", "unused.mjs": "1"}
    cells: list[dict[str, Any]] = [
        {
            "cell_type": "raw",
            "source": text,
            "metadata": {"pdkernel": {"file": path, "source": "import '../lib/b.mjs'\r\n"}},
        }
        for path, text in files.items()
    ]
    cells[0]["source"] += "\n"
    step = {
        "cell_type": "code",
        "source": "%%pdstep renamed --lang node\nimport './a.mjs'",
        "outputs": [],
        "metadata": extra,
    }

    (found,) = read_notebook(notebook_of(tmp_path / "n.ipynb", *cells, step)).steps

    assert found.files == {"../lib/b.mjs": "edited", "a.mjs": "import '../lib/b.mjs'\r\n"}


def test_a_renamed_workflow_has_its_new_name() -> None:
    """The name in the metadata counts as long as the header shows the replacement of that name."""
    hidden = {"pdkernel": {"name": {"is": "Odd {{ name", "shown": "Odd"}}}
    names = [
        workflow_from_cells([NotebookCell(f"%%pdworkflow\nname: {shown}", metadata=hidden)], name="file").name
        for shown in ("Odd", "Mine")
    ]

    assert names == ["Odd {{ name", "Mine"]


PLACES = {
    "orders": "check triage triage.large.ask triage.large.tell triage.large.tell.sales.to_sales "
    "triage.large.tell.finance.to_finance triage.export.declare answer",
    "support": "classify route route.billing.find_invoice route.bug.reproduce route.bug.how_bad route.bug.how_bad.crash.page "
    "route.leaving.keep report",
    "fan_out": "collect collect.sales.get_sales collect.sales.double collect.weather.get_weather collect.stocks.get_stocks send "
    "send.big.channel send.big.channel.weekend.sms send.big.channel.default.mail",
}
"""The paths of the steps and blocks of the three workflows, in the order of their cells."""


@pytest.mark.parametrize("name", WORKFLOWS)
def test_blocks_have_the_files_order(tmp_path: Path, name: str) -> None:
    """Blocks and their steps have the order of the cells, and are read from `.ipynb` files and Python files in percent format."""
    notebook = notebook_of(tmp_path / "work.ipynb", *WORKFLOWS[name])
    percent = tmp_path / "work.py"
    jupytext.write(jupytext.read(notebook), percent, fmt="py:percent")

    for path in (notebook, percent):
        workflow = read_notebook(path)
        assert [workflow.path(entry.name) for entry in workflow.all_entries] == PLACES[name].split()
        assert workflow.all_entries[0].cell_index == 2
    assert Workflow.from_versioned_content(workflow.versioned_content()).version == workflow.version


def cells_of(*texts: str) -> list[NotebookCell]:
    """Cells that stand at these places of a file."""
    return [NotebookCell(text, index=index) for index, text in enumerate(texts)]


TRIAGE = "%%pdif triage\nurgent: steps.a\nelse:"


@pytest.mark.parametrize(
    ("texts", "cls", "message", "line"),
    [
        (
            ("%%pdstep a --in triage.urgent",),
            BlockError,
            "Cell 1: Step a is in triage.urgent, and the workflow has no block 'triage'.\nWrite a cell %%pdif triage",
            1,
        ),
        (
            (TRIAGE, "# x\n%%pdstep a --in triage.urgnt"),
            BlockError,
            "Cell 2: Step a is in triage.urgnt, and the block",
            2,
        ),
        (
            (TRIAGE, "%%pdstep a --in triage.urgent", "%%pdstep b", "%%pdstep c --in triage.urgent"),
            BlockError,
            "Cell 4: Step c is in triage.urgent, but that block ended above: b is outside of it.\nMove b below",
            1,
        ),
        ((f"{TRIAGE.replace('triage', 'triage --in triage.else', 1)}",), BlockError, "which is itself", 1),
        ((TRIAGE, "%%pdstep triage"), DuplicateStepError, "Cell 1 and Cell 2 are both called 'triage'", None),
        ((TRIAGE, TRIAGE), DuplicateStepError, "Cell 1 and Cell 2 are both called 'triage'", None),
        (
            ("# x\n%%pdif triage\nurgent", "%%pdstep a --in triage.x"),
            DirectiveError,
            "Cell 1: The body of the block",
            3,
        ),
    ],
)
def test_cells_of_blocks_that_are_refused(
    texts: tuple[str, ...], cls: type[DefinitionError], message: str, line: int | None
) -> None:
    """A cell whose block is missing, elsewhere, or a name used twice is refused with its place, once, and what to do."""
    with pytest.raises(DefinitionError) as caught:
        workflow_from_cells(cells_of(*texts), name="n")

    assert type(caught.value) is cls
    assert message in str(caught.value)
    assert caught.value.line == line


def test_all_misplaced_cells_are_named() -> None:
    """One error lists each cell at a wrong place."""
    with pytest.raises(BlockError, match=r"(?s)2 problems:.*Cell 2: Step a is in x\.y.*Cell 3: Step b is in triage\.z"):
        workflow_from_cells(cells_of(TRIAGE, "%%pdstep a --in x.y", "%%pdstep b --in triage.z"), name="n")


def test_a_moved_cell_does_not_break_the_others() -> None:
    """Read leniently, a misplaced or unreadable cell alone has a problem, and the steps around it stay in their branches."""
    texts = (
        TRIAGE,
        "%%pdstep a --in triag.urgent",
        "%%pdif inner --in triage.x\nb: 1",
        "%%pdstep c --in inner.b",
        "%%pdstep d --lan python",
        "%%pdstep e --in triage.urgent",
        TRIAGE,
        "%%pdstep f",
    )

    workflow = workflow_from_cells(cells_of(*texts), name="n", lenient=True)

    problems = {entry.name: entry.problem[0].partition("\n")[0] for entry in workflow.all_entries if entry.problem}
    assert problems == {
        "a": "Step a is in triag.urgent, and the workflow has no block 'triag'.",
        "inner": "Block inner is in triage.x, and the block triage has no branch 'x'.",
        "d": "%%pdstep: there is no option --lan.",
        "cell_7": "Cell 1 and Cell 7 are both called 'triage': steps.triage would be ambiguous.",
    }
    assert [workflow.path(name) for name in ("c", "e", "f")] == ["inner.b.c", "triage.urgent.e", "f"]
    with pytest.raises(DirectiveError, match=r"(?s)4 problems.*cell 3"):
        check_readable(workflow)

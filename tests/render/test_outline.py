"""The outline of a workflow with blocks."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from pdkernel.files.notebook import NotebookCell, workflow_from_cells
from pdkernel.model import Block, Branch, Workflow
from pdkernel.render.outline import render_outline
from tests.branch_workflows import WORKFLOWS

SUPPORT = """\
  classify          Python
▸ route             switch steps.classify.$return_value.kind
    billing:        = "invoice"
      find_invoice  Python
    bug:            = "bug"
      reproduce     Bash
      how_bad       if
        crash:      steps.classify.$return_value.text.includes("crash")
          page      Python
        slow:       steps.classify.$return_value.text.includes("slow") || steps.classify.$return_value.text.includes(... (no steps)
    leaving:        = "cancel"
      keep          Python
    unknown:        = null (no steps)
    default:        otherwise (no steps)
  report            Python
"""


def workflow(name: str) -> Workflow:
    """One of the three workflows."""
    return workflow_from_cells([NotebookCell(text) for text in WORKFLOWS[name]], name="n")


def test_the_outline_as_text() -> None:
    """Steps and branches are indented below their block, with their conditions, and one block is marked."""
    assert render_outline(workflow("support"), "route").text == SUPPORT


def test_the_outline_as_html() -> None:
    """Names and conditions are escaped; the marked block says so to a screen reader."""
    shown = workflow("support")
    hostile = replace(shown.blocks[0], branches=(Branch("a", "<script>"), *shown.blocks[0].branches))

    html = str(render_outline(replace(shown, blocks=(hostile, *shown.blocks[1:])), "route").html)

    assert "&lt;script&gt;" in html
    assert "<script>" not in html
    assert html.count('aria-current="true"') == 1
    assert html.index("find_invoice") < html.index("reproduce") < html.index("report")


def test_the_actions_of_the_marked_block() -> None:
    """Only the marked block can be renamed, and each of its branches gets a step below its last cell, or that of the branch above."""
    html = str(render_outline(workflow("support"), "route").html)

    assert re.findall(r'title="([^"]*)"', html) == [
        "Rename the block route",
        "Add a step to route.billing below find_invoice",
        "Add a step to route.bug below page",
        "Add a step to route.leaving below keep",
        "Add a step to route.unknown below keep",
        "Add a step to route.default below keep",
    ]


@pytest.mark.parametrize(
    ("change", "word"), [({"disabled": True}, "disabled"), ({"problem": ("x", 1)}, "cannot be read")]
)
def test_steps_that_do_not_run(change: dict[str, object], word: str) -> None:
    """A step that is disabled or cannot be read is marked in both forms."""
    shown = workflow("support")
    steps = (replace(shown.steps[0], **change), *shown.steps[1:])  # type: ignore[arg-type]

    outline = render_outline(replace(shown, steps=steps))

    assert f"classify          Python ({word})\n" in outline.text
    assert word in str(outline.html)


def test_deeply_nested_blocks() -> None:
    """A thousand blocks in one another have an outline."""
    blocks = [
        Block(f"b{n}", "if", (Branch("else", runs="always"),), inside=f"b{n - 1}.else" if n else None)
        for n in range(1000)
    ]

    assert render_outline(Workflow("W", blocks=tuple(blocks))).text.count("\n") == 2000

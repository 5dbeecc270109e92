"""The text and metadata of the cells of an imported workflow."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import pytest
from hypothesis import given

from pdkernel.files.notebook import NotebookCell, read_notebook, workflow_from_cells
from pdkernel.files.notebook.notebook_text import build_workflow_cell, format_notebook
from pdkernel.model import JSON, ROUND_TRIP_KEY, Block, Branch, Entry, Step, Trigger, UnsupportedEntry, Workflow
from tests.branch_workflows import WORKFLOWS
from tests.notebook_files import notebook_of
from tests.test_model import nested_workflows

HTTP = "trigger:\n  type: http\n  auth: none\n  response: default"
ONE = (Trigger(),)


@pytest.mark.parametrize(
    ("workflow", "text", "hidden"),
    [
        (Workflow("W", triggers=ONE), f"name: W\n{HTTP}", {}),
        (
            Workflow("W", triggers=ONE, settings={"lambda_timeout": 40, "odd": [1], "error_notification": True}),
            f"name: W\n{HTTP}\nsettings:\n  lambda_timeout: 40\n  error_notification: true",
            {"settings": {"values": {"odd": [1]}, "order": ["lambda_timeout", "odd", "error_notification"]}},
        ),
        (Workflow("", triggers=ONE), f"name: Workflow\n{HTTP}", {"name": {"is": "", "shown": "Workflow"}}),
        (
            Workflow("W", triggers=(Trigger(), Trigger("email", config={"id": "e1"}))),
            "name: W\ntriggers:\n- type: http\n  auth: none\n  response: default\n- type: email\n  id: e1",
            {},
        ),
        (
            Workflow("W", triggers=ONE, extra={"schema": "x", ROUND_TRIP_KEY: {"kept": [], "n": 1}}),
            f"name: W\n{HTTP}",
            {"extra": {"schema": "x", ROUND_TRIP_KEY: {"n": 1}}},
        ),
        (Workflow("W", triggers=ONE, extra={ROUND_TRIP_KEY: {"kept": []}}), f"name: W\n{HTTP}", {}),
    ],
    ids=["plain", "settings", "name", "triggers", "extra", "kept"],
)
def test_the_workflow_cell(workflow: Workflow, text: str, hidden: dict[str, Any]) -> None:
    """The cell shows what its YAML can hold; the rest is in its metadata."""
    shown, kept = build_workflow_cell(workflow)

    assert shown == f"%%pdworkflow\n{text}"
    assert {key: json.loads(value) if key == "extra" else value for key, value in kept.items()} == hidden


def cells_of(workflow: Workflow) -> list[dict[str, Any]]:
    """The cells of the notebook of *workflow*."""
    found: list[dict[str, Any]] = json.loads(format_notebook(workflow))["cells"]
    return found


def test_a_notebook_reads_back_as_the_workflow(tmp_path: Path) -> None:
    """Header, steps, their files and the places of unsupported entries read back unchanged; a shared file has one cell."""
    files = {"../lib/x.mjs": "export const x = 1\r\n"}
    steps = tuple(
        Step(name, "node", "import '../lib/x.mjs'\nexport default {}", files=files, notes=f"about {name}")
        for name in ("a", "b")
    )
    entries = [UnsupportedEntry(after, {"namespace": f"below {after}", "type": "loop"}) for after in (None, "a", "b")]
    triggers = (Trigger(response="custom"), Trigger("email", config={"id": "e1"}))
    settings: dict[str, JSON] = {"lambda_timeout": 40, "odd": [1]}
    workflow = Workflow("W", triggers, steps, settings, extra={"inactive": True, "schema": "x"})
    workflow = workflow.with_unsupported_entries(entries)
    path = tmp_path / "work.ipynb"
    path.write_text(format_notebook(workflow))

    read = read_notebook(path)

    plain = [replace(step, line_offset=0, cell_index=None) for step in read.steps]
    assert (read.name, read.triggers, read.settings, plain) == ("W", triggers, settings, list(steps))
    assert (read.is_inactive, read.unsupported_entries) == (True, tuple(entries))
    assert [cell["id"][:5] for cell in cells_of(workflow)].count("file-") == 1


def test_the_text_is_the_one_that_nbformat_writes() -> None:
    """Jupyter saves an unchanged notebook as the same text, also with the line ends of other systems."""
    step = Step("a", "node", "x = '\u2028\x0c'\r\nreturn 'é'\n", notes="one\ntwo\n", props={"a": "\x85"})
    written = format_notebook(Workflow("W", triggers=ONE, steps=(step, Step("b"))), about="é\n", report="r\n")

    notebook = nbformat.reads(written, 4)

    nbformat.validate(notebook)
    assert nbformat.v4.writes(notebook) + "\n" == written


def test_ids_of_cells_with_long_names() -> None:
    """An id has at most 64 characters; two steps have different ids, although their names begin alike."""
    names = [f"{'a' * 70}{end}" for end in ("x", "y")]
    ids = [cell["id"] for cell in cells_of(Workflow("W", triggers=ONE, steps=tuple(map(Step, names))))]

    assert len(set(ids)) == len(ids)
    assert max(map(len, ids)) == 64


def test_a_kept_entry_with_a_fence_is_one_block() -> None:
    """The fence of the block is longer than any fence in the entry."""
    entry = {"namespace": "loop", "type": "loop", "text": "a\n````\nb"}
    workflow = Workflow("W", triggers=ONE).with_unsupported_entries([UnsupportedEntry(None, entry)])

    (kept,) = [cell for cell in cells_of(workflow) if cell["id"] == "kept-1"]

    text = "".join(kept["source"])
    assert text.count("`````") == 2
    assert text.endswith("\n`````")


def test_an_unknown_part_and_its_steps_are_explained() -> None:
    """The cells show the part without the code of its steps, and say why a step is disabled and what to do."""
    step = Step("page", source="x = 1\n", disabled=True, extra={ROUND_TRIP_KEY: {"condition": "$.steps[0].branches"}})
    inner = {"namespace": "page", "code": "x = 1", "runs_if": {"op": "="}}
    entry = UnsupportedEntry(None, {"namespace": "triage", "branches": [inner]}, "$.steps[0]", "is unknown")
    cells = cells_of(Workflow("W", triggers=ONE, steps=(step,)).with_unsupported_entries([entry]))

    texts = {cell["id"]: "".join(cell["source"]) for cell in cells}

    assert "triage is unknown. No step runs while this cell is here." in texts["kept-1"]
    assert texts["kept-1"].endswith('namespace: triage\nbranches:\n- namespace: page\n  runs_if:\n    op: "="\n```')
    assert "`page` depends on `$.steps[0].branches`" in texts["condition-page"]
    assert texts["step-page"].startswith("%%pdstep page --disabled")


def test_a_step_without_its_code_is_explained() -> None:
    """A Markdown cell above the step reports that its code was missing at the import."""
    gone = Step("gone", extra={ROUND_TRIP_KEY: {"missing": True}})
    cells = cells_of(Workflow("W", triggers=ONE, steps=(gone, Step("here", source="x = 1\n"))))
    about = [cell for cell in cells if "about" in cell["metadata"].get("pdkernel", {})]

    assert [cell["metadata"]["pdkernel"]["about"] for cell in about] == ["gone"]
    assert "".join(about[0]["source"]).startswith("**No code:** the entry file of `gone` was missing")


def test_props_that_a_cell_cannot_show_are_visible() -> None:
    """A Markdown cell above the step shows the props that are in the cell's metadata only."""
    step = Step("send", uses="a-b@1.0.0", props={"text": "{{ not closed", "plain": 1})
    cells = cells_of(Workflow("W", triggers=ONE, steps=(step,)))
    (about,) = [cell for cell in cells if cell["metadata"].get("pdkernel", {}).get("about") == "send"]

    text = "".join(about["source"])
    assert text.startswith("Props of `send` that a cell cannot show are kept in the cell's metadata:")
    assert "{{ not closed" in text
    assert "plain" not in text


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_notebook_with_blocks_reads_back_as_the_workflow(tmp_path: Path, name: str) -> None:
    """The cells of blocks and of the steps in their branches keep their order, and are written the same again."""
    workflow = read_notebook(notebook_of(tmp_path / "work.ipynb", *WORKFLOWS[name]))
    text = format_notebook(workflow)
    (tmp_path / "again.ipynb").write_text(text)

    read = read_notebook(tmp_path / "again.ipynb")

    assert replace(read, name=workflow.name, origin=workflow.origin).versioned_content() == workflow.versioned_content()
    assert format_notebook(read) == text
    assert [cell["metadata"]["vscode"] for cell in cells_of(workflow) if cell["id"].startswith("block-")]


@given(nested_workflows())
def test_nested_blocks_in_cells(drawn: tuple[Workflow, list[Entry]]) -> None:
    """The cells of any nested blocks read back as the same blocks and branches, in the same order."""
    workflow, entries = drawn
    written = [NotebookCell("".join(cell["source"]), type=cell["cell_type"]) for cell in cells_of(workflow)]

    read = workflow_from_cells(written, name="W")

    assert [entry.name for entry in read.all_entries] == [entry.name for entry in entries]
    assert [replace(block, line_offset=0, cell_index=None) for block in read.blocks] == list(workflow.blocks)
    assert [step.inside for step in read.steps] == [step.inside for step in workflow.steps]


def test_the_note_and_fields_of_a_block(tmp_path: Path) -> None:
    """A block's note is a Markdown cell above it, and fields that only an archive knows are in its metadata."""
    block = Block("triage", "if", (Branch("else", runs="always"),), notes="Why", extra={"z": 1, "a": 2}, place=1)
    path = tmp_path / "work.ipynb"
    path.write_text(format_notebook(Workflow("W", steps=(Step("a"), Step("b", inside="triage.else")), blocks=(block,))))

    read = read_notebook(path).blocks[0]

    assert (read.notes, dict(read.extra), list(read.extra), read.place) == ("Why", {"z": 1, "a": 2}, ["z", "a"], 1)

"""Blocks in `pdkernel.yaml`: what is written, what is read back, and what does not fit the steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given

from pdkernel.errors import NotebookError
from pdkernel.files.definition import (
    Sidecar,
    export_to_folder,
    export_to_synced_folder,
    plan_files,
    read_folder_workflow,
    read_sidecar,
)
from pdkernel.files.definition.control_flow import apply_control_flow, build_control_flow
from pdkernel.files.definition.sidecar import dump_sidecar, parse_sidecar
from pdkernel.files.notebook import read_notebook
from pdkernel.model import Entry, Step, Workflow
from tests.branch_workflows import WORKFLOWS
from tests.notebook_files import notebook_of
from tests.test_model import NESTED, nested_workflows


def without_blocks(workflow: Workflow) -> Workflow:
    """The workflow as `workflow.yaml` has it: all steps in one list."""
    return replace(workflow, steps=tuple(replace(step, inside=None) for step in workflow.steps), blocks=())


def plain(workflow: Workflow) -> Workflow:
    """The workflow without the lines of its cells."""
    blocks = tuple(replace(block, line_offset=0, cell_index=None) for block in workflow.blocks)
    steps = tuple(replace(step, line_offset=0, cell_index=None, extra={}) for step in workflow.steps)
    return replace(workflow, steps=steps, blocks=blocks, extra={}, origin=None, variables=(), settings={})


def notebook_workflow(folder: Path, name: str) -> Workflow:
    """One of the three workflows, read from a notebook in *folder*."""
    return read_notebook(notebook_of(folder / "work.ipynb", *WORKFLOWS[name]))


@given(nested_workflows())
def test_blocks_round_trip(drawn: tuple[Workflow, list[Entry]]) -> None:
    """Any nested blocks, empty ones too, are read back at their places from the text of the file, which is stable."""
    workflow, _ = drawn
    text = dump_sidecar(Sidecar(control_flow=build_control_flow(workflow)))
    read = parse_sidecar(text)

    again = apply_control_flow(without_blocks(workflow), read.control_flow, file="pdkernel.yaml")

    assert again == workflow
    assert dump_sidecar(Sidecar(control_flow=build_control_flow(again))) == text


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_folder_reads_back_as_the_notebook(tmp_path: Path, name: str) -> None:
    """An exported folder has the same blocks and branches, and a second export changes no byte."""
    workflow = notebook_workflow(tmp_path, name)
    export_to_folder(workflow, tmp_path / "out")

    read = read_folder_workflow(tmp_path / "out")

    assert plain(read) == plain(workflow)
    assert {file.state for file in export_to_folder(read, tmp_path / "out").files} == {"unchanged"}
    assert len(read_sidecar(tmp_path / "out/pdkernel.yaml").control_flow) == len(workflow.blocks)  # type: ignore[union-attr]


def test_the_written_form() -> None:
    """Each branch has its steps and blocks in order; a workflow without blocks has no key."""
    assert build_control_flow(NESTED) == (
        {
            "name": "triage",
            "type": "if",
            "branches": [
                {"name": "urgent", "condition": "a > 1", "steps": ["page", "route", "close"]},
                {"name": "else", "runs": "always", "steps": ["note"]},
            ],
        },
        {
            "name": "route",
            "type": "switch",
            "expression": "steps.check.plan",
            "branches": [
                {"name": "free", "condition": "free", "steps": ["offer"]},
                {"name": "default", "runs": "always", "steps": ["renew"]},
            ],
        },
    )
    empty = replace(NESTED, steps=NESTED.steps[:1], blocks=NESTED.blocks[:1])
    assert build_control_flow(empty)[0]["after"] == "check"  # type: ignore[index,call-overload]
    assert "control_flow" not in plan_files(without_blocks(NESTED))[1].text


def test_an_export_into_a_synced_folder(tmp_path: Path) -> None:
    """Without `pdkernel.yaml`, all branches would run there: the file is written, and the checklist and the lint say so."""
    workflow = notebook_workflow(tmp_path, "orders")
    folder = tmp_path / "synced"
    export_to_folder(without_blocks(workflow), folder)
    (folder / "pdkernel.yaml").unlink()

    result = export_to_synced_folder(workflow, folder)

    assert [file.state for file in result.files if file.path == "pdkernel.yaml"] == ["new"]
    assert plain(read_folder_workflow(folder)) == plain(workflow)
    assert next(sentence for sentence in result.checklist if "branches" in sentence).startswith(
        "Git does not hold branches (triage, tell): pdkernel.yaml has them, and workflow.yaml has their steps in one list, so "
        "Pipedream runs ask, to_sales, to_finance, declare for every event."
    )
    assert [finding.message for finding in result.findings if "Branches" in finding.message] == [
        "Branches (triage, tell) have no known form in Git: on Pipedream, the steps in them run for every event."
    ]
    assert {file.state for file in export_to_synced_folder(workflow, folder).files} == {"unchanged"}


def test_changed_blocks_replace_those_of_the_folder(tmp_path: Path) -> None:
    """A block that the notebook no longer has is gone from the folder's file, whose other keys stay."""
    workflow = notebook_workflow(tmp_path, "orders")
    export_to_folder(workflow, tmp_path / "out")
    text = (tmp_path / "out/pdkernel.yaml").read_text()
    (tmp_path / "out/pdkernel.yaml").write_text(text + "endpoint: eo1-kept\n")

    export_to_synced_folder(without_blocks(workflow), tmp_path / "out")

    sidecar = read_sidecar(tmp_path / "out/pdkernel.yaml")
    assert sidecar is not None
    assert (sidecar.control_flow, sidecar.endpoint) == ((), "eo1-kept")


@pytest.mark.parametrize(
    ("steps", "text", "message"),
    [
        (
            "a",
            "- {name: t, type: if, branches: [{name: else, runs: always, steps: [aa]}]}",
            "pdkernel.yaml: control_flow: the branch t.else has the step 'aa', and workflow.yaml has no such step.",
        ),
        (
            "a",
            "- {name: t, type: if, branches: [{name: x, condition: y, steps: [a]}, {name: else, runs: always, steps: [a]}]}",
            "the branches t.x and t.else both have the step 'a'.\nRemove it from one",
        ),
        (
            "abc",
            "- {name: t, type: if, branches: [{name: else, runs: always, steps: [a, c]}]}",
            "pdkernel.yaml: control_flow: Step c is in t.else, but that block ended above: b is outside of it.\nMove b below",
        ),
        (
            "a",
            "- {name: t, type: if, branches: [{name: x}]}",
            "has a condition for x that is neither JavaScript nor rules",
        ),
        ("a", "- {name: a, type: if}", "A step and a block are called 'a'"),
        (
            "a",
            "- {name: t, type: if, branches: [{name: else, runs: always, steps: [t, a]}]}",
            "Block t is in t.else, which is itself",
        ),
    ],
)
def test_blocks_that_do_not_fit_the_steps(steps: str, text: str, message: str) -> None:
    """After a change in the builder, a branch may have a step that is gone or elsewhere: the error names the file and the branch."""
    sidecar = parse_sidecar(f"control_flow:\n{text}\n")
    workflow = Workflow("W", steps=tuple(map(Step, steps)))

    with pytest.raises(NotebookError) as caught:
        apply_control_flow(workflow, sidecar.control_flow, file="pdkernel.yaml")

    assert message in str(caught.value)


def test_an_unknown_key_of_a_block_is_refused() -> None:
    """The schema refuses a key that a block does not have, with its place."""
    with pytest.raises(
        NotebookError, match=r"control_flow\.0\.branch: Additional properties .*'branch' was unexpected.*line 4"
    ):
        parse_sidecar("control_flow:\n- name: t\n  type: if\n  branch: []\n")

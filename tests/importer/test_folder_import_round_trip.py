"""Imported notebooks read back as the folder."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pdkernel.definition import export_to_synced_folder, plan_files, write_files
from pdkernel.definition.file_plan import WORKFLOW_SCHEMA
from pdkernel.importer import find_workflow_folders
from pdkernel.model import Workflow
from pdkernel.notebook import read_notebook
from pdkernel.session.draft import Draft
from tests.definition.builders import synced
from tests.definition.test_synced_folder import workflows
from tests.importer.import_helpers import HEAD, PROJECTS, as_written, check_round_trip, import_one, without_places

SAMPLES = os.environ.get("PDKERNEL_SAMPLES", "")


@pytest.mark.parametrize("folder", find_workflow_folders(PROJECTS), ids=lambda folder: folder.name)
def test_projects(folder: Path, tmp_path: Path) -> None:
    """A synced folder's notebook is valid and holds the folder's whole content, in order."""
    check_round_trip(folder, tmp_path / "n.ipynb")

    notebook = nbformat.read(tmp_path / "n.ipynb", 4)
    nbformat.validate(notebook)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)


@pytest.mark.parametrize("folder", find_workflow_folders(PROJECTS), ids=lambda folder: folder.name)
def test_saved_by_jupyter(folder: Path, tmp_path: Path) -> None:
    """Jupyter sorts the keys of a saved notebook, which changes nothing in the workflow."""
    import_one(folder, tmp_path / "n.ipynb")
    before = plan_files(*_planned(tmp_path / "n.ipynb"))

    nbformat.write(nbformat.read(tmp_path / "n.ipynb", 4), tmp_path / "n.ipynb")

    assert plan_files(*_planned(tmp_path / "n.ipynb")) == before


def _planned(notebook: Path) -> tuple[Workflow]:
    return (as_written(notebook)[0],)


@pytest.mark.parametrize(
    "code",
    [
        b"",
        b"\n",
        b"x = 1",
        b"x = 1\n\n\n",
        b"x = 1\r\ny = 2\r\n",
        b"x = 1\r\ny = 2",
        b"x = 1\ry = 2\n",
        b"a\r\nb\nc\r\r\nd",
        b"\xef\xbb\xbfx = 1\n",
        b"\xef\xbb\xbfx\r\n",
        b"\tif True:\n\t\tpass\n  ",
        b"# %%pdstep other\n%%pdstep inner\n",
        b"%load_ext evil\n!ls\n?\n",
        b"// a comment\n\n#!/usr/bin/env node\n",
        "é = '\U0001f600\u2028\x0c\x0b\x85'\n".encode(),
        b"a\x00b",
        b"\\\n\\n",
    ],
)
@pytest.mark.parametrize("name", ["entry.py", "entry.js"])
def test_code_is_kept_byte_for_byte(code: bytes, name: str, tmp_path: Path) -> None:
    """An entry file's content is in its cell, or in the cell's metadata if a cell cannot show it."""
    folder = synced(tmp_path / "w", f"{HEAD}- namespace: a\n  runtime: python3.12\n  uses: ./a/{name}\n")
    (folder / "a").mkdir()
    (folder / "a" / name).write_bytes(code)

    back = check_round_trip(folder, tmp_path / "n.ipynb")

    assert back.steps[0].source.encode() == code
    shown = json.loads((tmp_path / "n.ipynb").read_text())["cells"][-1]["source"]
    assert "\r" not in "".join(shown)


def test_an_edit_keeps_the_other_lines(tmp_path: Path) -> None:
    """In code with other line ends, only the lines that were edited in the notebook change."""
    folder = synced(tmp_path / "w", f"{HEAD}- namespace: a\n  runtime: python3.12\n  uses: ./a/entry.py\n")
    (folder / "a").mkdir()
    (folder / "a/entry.py").write_bytes(b"\xef\xbb\xbfone\r\ntwo\nthree\r\nfour\r\n")
    import_one(folder, tmp_path / "n.ipynb")
    text = (tmp_path / "n.ipynb").read_text()

    (tmp_path / "n.ipynb").write_text(text.replace('"three\\n"', '"3\\n",\n    "and\\n"'))

    source = as_written(tmp_path / "n.ipynb")[0].steps[0].source
    assert source.encode() == b"\xef\xbb\xbfone\r\ntwo\n3\r\nand\r\nfour\r\n"


def test_an_edited_note_is_used(tmp_path: Path) -> None:
    """A note is in a Markdown cell, whose text is the step's note."""
    folder = synced(tmp_path / "w", f"{HEAD}- namespace: a\n  notes: before\n  uses: k-x@1.0.0\n")
    import_one(folder, tmp_path / "n.ipynb")
    notebook = nbformat.read(tmp_path / "n.ipynb", 4)
    next(cell for cell in notebook.cells if cell.id == "note-a").source = "after"

    nbformat.write(notebook, tmp_path / "n.ipynb")

    assert as_written(tmp_path / "n.ipynb")[0].steps[0].notes == "after"


def test_a_note_is_not_a_step(tmp_path: Path) -> None:
    """A note that looks like a step's cell is still a note."""
    folder = synced(tmp_path / "w", f'{HEAD}- namespace: a\n  notes: "%%pdstep b"\n  uses: k-x@1.0.0\n')

    assert [step.name for step in check_round_trip(folder, tmp_path / "n.ipynb").steps] == ["a"]


def test_unpaired_surrogates(tmp_path: Path) -> None:
    """Text that UTF-8 cannot encode, but YAML can escape, is imported."""
    folder = synced(tmp_path / "w", f'{HEAD}- namespace: a\n  uses: k-x@1.0.0\n  props:\n    t: "\\uD83D"\n')

    assert check_round_trip(folder, tmp_path / "n.ipynb").steps[0].props == {"t": "\ud83d"}


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(workflows(), st.data())
def test_generated_workflows(tmp_path: Path, workflow: Workflow, data: st.DataObject) -> None:
    """Any workflow that a definition can hold survives a notebook round trip."""
    braces = st.sampled_from(
        ["{{steps.trigger.event.x}}", "{{", "a {{ `}}` }} b", "{{ }}", "# {{x}}", "\n{{x}}: - ", "}}"]
    )
    for step in workflow.steps:
        for name in step.props:
            if data.draw(st.booleans()):
                assert isinstance(step.props, dict)
                step.props[name] = data.draw(
                    braces | st.lists(braces, max_size=2) | st.dictionaries(braces, braces, max_size=1)
                )
    folder = tmp_path / "w"
    shutil.rmtree(folder, ignore_errors=True)
    for file in tmp_path.glob("n.*"):
        file.unlink()
    write_files(plan_files(replace(workflow, extra={"schema": WORKFLOW_SCHEMA})), folder)

    check_round_trip(folder, tmp_path / "n.ipynb")


@pytest.mark.skipif(not SAMPLES, reason="PDKERNEL_SAMPLES names no folder of real workflow.yaml files")
def test_real_files(tmp_path: Path) -> None:
    """Every real workflow.yaml survives a notebook round trip."""
    samples = sorted(Path(SAMPLES).glob("*.workflow.yaml"))
    for number, sample in enumerate(samples):
        folder = synced(tmp_path / str(number), sample.read_text())

        back = check_round_trip(folder, tmp_path / f"{number}.ipynb")

        assert back.steps
    assert samples


@pytest.mark.parametrize("folder", find_workflow_folders(PROJECTS), ids=lambda folder: folder.name)
@pytest.mark.parametrize("accounts", ["ask", "external-user", "own"])
def test_back_into_the_folder(folder: Path, accounts: str, tmp_path: Path) -> None:
    """An unchanged notebook, exported into its original folder, changes no byte there, for every account choice."""
    copy = Path(shutil.copytree(folder, tmp_path / folder.name))
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    import_one(copy, tmp_path / "n.ipynb", accounts=accounts)
    back, sidecar = as_written(tmp_path / "n.ipynb")

    export_to_synced_folder(back, copy, sidecar=sidecar)

    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("folder", find_workflow_folders(PROJECTS), ids=lambda folder: folder.name)
def test_a_session_sees_the_same(folder: Path, tmp_path: Path) -> None:
    """The workflow of an open notebook includes the notes, the metadata and the unsupported entries."""
    import_one(folder, tmp_path / "n.ipynb")

    draft = Draft(tmp_path / "n.ipynb").workflow()

    assert without_places(draft) == without_places(read_notebook(tmp_path / "n.ipynb"))
    assert draft.unsupported_entries == read_notebook(tmp_path / "n.ipynb").unsupported_entries

"""Texts of workflows compared: what a plan writes and reading gives back is what was written."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings

from pdkernel.cli import main
from pdkernel.definition import export_into, graded, plan, write
from pdkernel.errors import DefinitionError
from pdkernel.model import Step, Workflow
from pdkernel.proof.definitions import compare_workflows
from pdkernel.proof.readback import as_run, read_back
from pdkernel.source import read_source
from tests.definition.test_grades import workflows

PROJECTS = Path(__file__).parents[1] / "definition" / "projects"


@settings(deadline=None)
@given(workflows())
def test_a_plan_reads_back_the_same(workflow: Workflow) -> None:
    """Of any workflow that a notebook can hold, nothing differs, and both sides are run as equal workflows."""
    with tempfile.TemporaryDirectory() as folder:
        write(plan(workflow), Path(folder) / "flow")
        read = read_back(Path(folder) / "flow", workflow, None)

    assert list(compare_workflows(workflow, read.workflow, theirs=read.sidecar)) == []
    assert read.unquoted == ()
    assert as_run(read.workflow, workflow).to_json() == as_run(workflow, workflow).to_json()


@pytest.mark.parametrize("name", sorted(path.name for path in PROJECTS.iterdir()))
def test_synced_projects(tmp_path: Path, name: str) -> None:
    """A synced folder that was imported differs nowhere after it is patched, unchanged or changed."""
    folder = Path(shutil.copytree(PROJECTS / name, tmp_path / name))
    notebook = tmp_path / "made.ipynb"
    ended = CliRunner().invoke(_command(), ["--project", str(tmp_path), "import", str(folder), "--to", str(notebook)])
    assert ended.exit_code == 0, ended.output
    opened = read_source(notebook, unanswered="keep")
    changed = opened.workflow.with_step(Step("added", source="def handler(pd):\n    return 1\n", props={"n": "1"}))

    for workflow in (opened.workflow, changed):
        export_into(workflow, folder, sidecar=opened.sidecar)
        read = read_back(folder, workflow, opened.sidecar)
        differing = compare_workflows(workflow, read.workflow, ours=opened.sidecar, theirs=read.sidecar, into=True)
        assert list(differing) == []
        assert {field.grade for field in graded(read.files, workflow)} <= {"observed", "inferred", "documented"}


def _command() -> object:
    from pdkernel.cli.commands import pdkernel

    return pdkernel

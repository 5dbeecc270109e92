"""Exports, their options, and their proof."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pdkernel.accounts import LocalDirectory
from pdkernel.errors import DefinitionError, RequestError
from pdkernel.files.definition import Sidecar
from pdkernel.files.source import WorkflowSource
from pdkernel.operations.export import Export, check_export_options, export_workflow, prove_export
from pdkernel.storage import Project
from tests.builders import a_step, a_workflow, python_step

SYNCED = "name: Test # ours\ntriggers:\n- id: hi_1\n"


def a_notebook(folder: Path, body: str = "return pd.steps['trigger']['event']['body']") -> WorkflowSource:
    """A notebook with one step, beside a saved event."""
    (folder / "events").mkdir(exist_ok=True)
    (folder / "events" / "hello.json").write_text('{"method": "POST", "body": 1}')
    return WorkflowSource(folder / "work.ipynb", "notebook", a_workflow(python_step("one", body)))


@pytest.mark.parametrize(
    ("to", "into", "dry_run", "prove", "message"),
    [
        ("a", "b", False, False, "--to and --into exclude each other"),
        (None, None, False, True, "--prove needs written files"),
        ("a", None, True, True, "--prove needs written files"),
        (None, "flow", True, True, "--prove needs written files"),
        (None, "flow", False, True, "accepted"),
        ("a", None, False, True, "accepted"),
        (None, None, True, False, "accepted"),
    ],
)
def test_options_that_exclude_each_other_are_refused(
    to: str | None, into: str | None, dry_run: bool, prove: bool, message: str
) -> None:
    """Two targets are an error; a proof needs a target and no dry run."""
    try:
        check_export_options(to=to, into=into, dry_run=dry_run, prove=prove)
        answer = "accepted"
    except RequestError as error:
        answer = error.message

    assert answer.startswith(message)


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    """A dry run reports new files and creates no folder."""
    result = export_workflow(a_notebook(tmp_path), tmp_path / "flow", is_patch=False, dry_run=True)

    assert not result.is_written
    assert "one/entry.py" in result.paths("new")
    assert not (tmp_path / "flow").exists()


@pytest.mark.parametrize("is_patch", [False, True])
def test_an_export_has_the_sidecar_the_readme_and_the_pins(tmp_path: Path, is_patch: bool) -> None:
    """The written `pdkernel.yaml` is the notebook's, the README is written on request, and the checklist names pins."""
    folder = tmp_path / "flow"
    folder.mkdir()
    if is_patch:
        (folder / "workflow.yaml").write_text(SYNCED)
    source = replace(a_notebook(tmp_path), sidecar=Sidecar(test_users=("ada",)))

    plain = export_workflow(source, folder, is_patch=is_patch, dry_run=True)
    result = export_workflow(source, folder, is_patch=is_patch, include_docs=True, pinned_steps=["one"])

    assert "README.md" not in plain.paths("new")
    assert "README.md" in result.paths("new")
    assert "ada" in (folder / "pdkernel.yaml").read_text()
    pins = "Pins are not exported: one will run."
    assert [pins in each.checklist for each in (plain, result)] == [False, True]


def test_a_patch_keeps_the_synced_file(tmp_path: Path) -> None:
    """An export into a synced folder keeps the unchanged lines of `workflow.yaml`."""
    (tmp_path / "flow").mkdir()
    (tmp_path / "flow" / "workflow.yaml").write_text(SYNCED)

    export_workflow(a_notebook(tmp_path), tmp_path / "flow", is_patch=True)

    assert (tmp_path / "flow" / "workflow.yaml").read_text().startswith(SYNCED)


def test_an_invalid_workflow_is_not_exported(tmp_path: Path) -> None:
    """A step without a handler is an error, and no file is written."""
    source = WorkflowSource(tmp_path / "work.ipynb", "notebook", a_workflow(a_step("%%pdstep a\nx = 1\n")))

    with pytest.raises(DefinitionError):
        export_workflow(source, tmp_path / "flow", is_patch=False)

    assert not (tmp_path / "flow").exists()


def test_a_synced_workflow_is_exported_as_it_is(tmp_path: Path) -> None:
    """A step of a synced workflow that could not run is exported: the platform may accept the step."""
    workflow = replace(a_workflow(a_step("%%pdstep a\nx = 1\n")), extra={"schema": "workflow/2022.04"})

    source = WorkflowSource(tmp_path / "work.ipynb", "notebook", workflow)

    assert "a/entry.py" in export_workflow(source, tmp_path / "flow", is_patch=False, dry_run=True).paths("new")


def test_a_proof_runs_for_further_users(project: Project, directory: LocalDirectory, tmp_path: Path) -> None:
    """The proof of a workflow with accounts has a case for each external user that is named besides the test users."""
    workflow = a_workflow(python_step("one", options="--app slack"))
    source = replace(a_notebook(tmp_path), workflow=workflow, sidecar=Sidecar(test_users=("ada",)))
    for user in ("ada", "grace"):
        directory.add_account(app="slack", credentials={"oauth_access_token": "xoxb-0123456789"}, external_user_id=user)
    files = export_workflow(source, tmp_path / "flow", is_patch=False)

    proof = prove_export(
        source, files.folder, project=project, directory=directory, environ={}, is_patch=False, extra_users=["grace"]
    )

    assert {case.external_user for case in proof.cases} == {"ada", "grace"}


@pytest.mark.parametrize(("is_patch", "verdict"), [(True, "same"), (False, "differs")])
def test_what_a_synced_folder_keeps_is_no_difference(
    project: Project, directory: LocalDirectory, tmp_path: Path, is_patch: bool, verdict: str
) -> None:
    """The proof of a patch leaves out what the folder has and the notebook has not; any other proof reports that."""
    source = a_notebook(tmp_path)
    (tmp_path / "flow").mkdir()
    (tmp_path / "flow" / "workflow.yaml").write_text(f"{SYNCED}settings:\n  lambda_timeout: 40\n")
    export_workflow(source, tmp_path / "flow", is_patch=True)

    proof = prove_export(source, tmp_path / "flow", project=project, directory=directory, environ={}, is_patch=is_patch)

    assert proof.verdict == verdict


def test_an_export_is_proved(project: Project, directory: LocalDirectory, tmp_path: Path) -> None:
    """The written files behave as the notebook; pins are reported, and the JSON has the proof beside the files."""
    source = a_notebook(tmp_path)
    files = export_workflow(source, tmp_path / "flow", is_patch=False, pinned_steps=["one"])

    proof = prove_export(
        source, files.folder, project=project, directory=directory, environ={}, is_patch=False, pinned_steps=["one"]
    )

    assert proof.verdict == "same"
    assert "Pins are ignored: one ran." in proof.notes
    assert json.loads(json.dumps(Export(files, proof).to_json()))["proof"]["cases"][0]["event"] == "hello"
    assert "proof" not in Export(files).to_json()


def test_a_changed_file_differs(project: Project, directory: LocalDirectory, tmp_path: Path) -> None:
    """A file that was changed after the export has another result."""
    source = a_notebook(tmp_path)
    files = export_workflow(source, tmp_path / "flow", is_patch=False)
    (tmp_path / "flow" / "one" / "entry.py").write_text("def handler(pd):\n    return 2\n")

    proof = prove_export(source, files.folder, project=project, directory=directory, environ={}, is_patch=False)

    assert proof.verdict == "differs"

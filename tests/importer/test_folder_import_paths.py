"""The paths of imported notebooks, and the files that an import leaves alone."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest

from pdkernel.errors import NotebookError, RequestError
from pdkernel.importer import find_workflow_folders, plan_notebook_paths
from pdkernel.importer.folder_import import ImportResult
from pdkernel.render.import_report import ImportReport
from tests.definition.builders import synced
from tests.importer.import_helpers import HEAD, PROJECTS, import_one

CODE = "- namespace: a\n  runtime: python3.12\n  uses: ./a/entry.py\n"


def flow(folder: Path, code: str = "def handler(pd):\n    return 1\n") -> Path:
    """A folder of one workflow."""
    return synced(folder, HEAD + CODE, a__entry_DOT_py=code)


def test_a_repository_keeps_its_folders(tmp_path: Path) -> None:
    """Each workflow's notebook has the path of its folder; folders without a workflow are skipped."""
    found = plan_notebook_paths(PROJECTS, find_workflow_folders(PROJECTS), tmp_path)

    assert [str(notebook.relative_to(tmp_path)) for _, notebook in found] == [
        "empty-p_0000001.ipynb",
        "every-shape-p_Ab12Cd3.ipynb",
        "odd-entries-p_Qq11Ww2.ipynb",
        "team/nested/deploy-notes-p_Xy98Zw.ipynb",
    ]


def test_one_workflow(tmp_path: Path) -> None:
    """One workflow becomes the named notebook, or a notebook with its folder's name."""
    folder = flow(tmp_path / "w-p_1")

    assert plan_notebook_paths(folder, find_workflow_folders(folder), tmp_path / "x.ipynb") == [
        (folder, tmp_path / "x.ipynb")
    ]
    assert plan_notebook_paths(folder, find_workflow_folders(folder), tmp_path / "to") == [
        (folder, tmp_path / "to/w-p_1.ipynb")
    ]


def test_nothing_is_written_into_the_imported_folder(tmp_path: Path) -> None:
    """A path inside the imported folder, or a link that leads there or elsewhere, is refused."""
    repository = tmp_path / "repo"
    flow(repository / "team/w")
    (tmp_path / "link").symlink_to(repository)
    (tmp_path / "to").mkdir()
    (tmp_path / "to/team").symlink_to(tmp_path)

    for to in (repository / "n.ipynb", repository / "notebooks", tmp_path / "link/n.ipynb", tmp_path / "to"):
        with pytest.raises(RequestError):
            plan_notebook_paths(repository, find_workflow_folders(repository), to)


def test_no_workflow(tmp_path: Path) -> None:
    """A folder without a workflow is refused; so is one notebook name for several workflows."""
    with pytest.raises(NotebookError, match="holds no workflow"):
        find_workflow_folders(tmp_path)
    with pytest.raises(NotebookError, match="does not exist"):
        find_workflow_folders(tmp_path / "x")
    with pytest.raises(RequestError, match="holds 4 workflows"):
        plan_notebook_paths(PROJECTS, find_workflow_folders(PROJECTS), tmp_path / "n.ipynb")


def test_links_are_not_followed(tmp_path: Path) -> None:
    """A link to a parent folder does not cause an endless search."""
    flow(tmp_path / "r/w")
    (tmp_path / "r/up").symlink_to(tmp_path)

    assert find_workflow_folders(tmp_path / "r") == [tmp_path / "r/w"]


def test_an_equal_notebook_is_unchanged(tmp_path: Path) -> None:
    """A notebook with the same content, whatever its outputs, is left unchanged."""
    folder = flow(tmp_path / "w")
    import_one(folder, tmp_path / "n.ipynb")
    notebook = nbformat.read(tmp_path / "n.ipynb", 4)
    notebook.cells[-1].outputs = [nbformat.v4.new_output("stream", text="ran")]
    nbformat.write(notebook, tmp_path / "n.ipynb")
    before = (tmp_path / "n.ipynb").read_bytes()

    assert import_one(folder, tmp_path / "n.ipynb", force=True).state == "unchanged"
    assert (tmp_path / "n.ipynb").read_bytes() == before


def test_another_notebook_is_never_lost(tmp_path: Path) -> None:
    """A notebook with other content is refused, or with force renamed to a backup beside the new one."""
    folder = flow(tmp_path / "w")
    import_one(folder, tmp_path / "n.ipynb")
    before = (tmp_path / "n.ipynb").read_bytes()
    (folder / "a/entry.py").write_text("def handler(pd):\n    return 2\n")

    refused = import_one(folder, tmp_path / "n.ipynb")
    kept_then = (tmp_path / "n.ipynb").read_bytes()
    forced = import_one(folder, tmp_path / "n.ipynb", force=True)

    assert isinstance(refused.error, RequestError)
    assert "exists already" in refused.error.message
    assert kept_then == before
    assert forced.state == "replaced"
    assert [path.name for path in forced.backups] == ["n.ipynb.before-import-1", "n.pdkernel.yaml.before-import-1"]
    assert forced.backups[0].read_bytes() == before
    assert "return 2" in (tmp_path / "n.ipynb").read_text()


def test_the_folder_is_left_alone(tmp_path: Path) -> None:
    """An import creates, changes or touches nothing in the imported folder."""
    folder = flow(tmp_path / "w")
    before = {path: (path.stat().st_mtime_ns, path.is_dir()) for path in [folder, *folder.rglob("*")]}

    import_one(folder, tmp_path / "n.ipynb")

    assert {path: (path.stat().st_mtime_ns, path.is_dir()) for path in [folder, *folder.rglob("*")]} == before


def test_json_of_a_result(tmp_path: Path) -> None:
    """The JSON has the report of an imported workflow, or the error."""
    report = ImportReport("w")
    done = ImportResult(tmp_path / "w", tmp_path / "w.ipynb", "replaced", report, (tmp_path / "w.ipynb.bak",))
    failed = ImportResult(tmp_path, tmp_path / "w.ipynb", error=NotebookError("No.", fix="Do.", step="a", line=3))

    assert json.dumps(done.to_json()) == json.dumps(
        {
            "folder": f"{tmp_path}/w",
            "notebook": f"{tmp_path}/w.ipynb",
            "state": "replaced",
            "kept": [f"{tmp_path}/w.ipynb.bak"],
            "report": report.to_json(),
            "error": None,
        }
    )
    assert json.dumps(failed.to_json()) == json.dumps(
        {
            "folder": str(tmp_path),
            "notebook": f"{tmp_path}/w.ipynb",
            "state": "failed",
            "kept": [],
            "report": None,
            "error": {"code": "not_a_workflow", "message": "No.\nDo.", "step": "a", "line": 3},
        }
    )

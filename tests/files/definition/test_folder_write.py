"""Writing definition files into a folder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from pdkernel.errors import NotebookError, RequestError, UnsupportedError
from pdkernel.files.definition import (
    DefinitionFile,
    compare_files,
    export_to_folder,
    plan_files,
    read_folder_workflow,
    read_sidecar,
    write_files,
)
from pdkernel.files.definition.lint import Finding
from pdkernel.model import Step
from tests.builders import with_step
from tests.files.definition.builders import PYTHON, quickstart


def contents(folder: Path) -> dict[str, str]:
    """Every file under *folder* with its text."""
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_new_folder(tmp_path: Path) -> None:
    """An export into a new folder creates it and writes every file."""
    result = export_to_folder(quickstart(), tmp_path / "new/flow")

    assert contents(tmp_path / "new/flow") == {file.path: file.text for file in plan_files(quickstart())}
    assert result.is_written
    assert {file.state for file in result.files} == {"new"}
    assert result.checklist
    assert "+def handler(pd):\n" in next(file.diff for file in result.files if file.path == "check/entry.py")


def test_same_again(tmp_path: Path) -> None:
    """A second export of the same workflow changes nothing."""
    export_to_folder(quickstart(), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    result = export_to_folder(quickstart(), tmp_path)

    assert {file.state for file in result.files} == {"unchanged"}
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_changed_step(tmp_path: Path) -> None:
    """A changed step's file is changed, and the result has its diff."""
    export_to_folder(quickstart(), tmp_path)

    result = export_to_folder(with_step(quickstart(), Step("check", source=PYTHON.replace("hi", "ho"))), tmp_path)

    assert result.paths("changed") == ("check/entry.py",)
    diff = next(file.diff for file in result.files if file.state == "changed")
    assert diff.startswith("--- a/check/entry.py\n+++ b/check/entry.py\n")
    assert '-    return {"text": "hi"}\n\\ No newline at end of file\n+    return {"text": "ho"}\n' in diff
    assert "ho" in (tmp_path / "check/entry.py").read_text()


def test_dry_run(tmp_path: Path) -> None:
    """A comparison writes nothing."""
    result = export_to_folder(quickstart(), tmp_path / "flow", dry_run=True)

    assert not (tmp_path / "flow").exists()
    assert not result.is_written
    assert len(result.paths("new")) == 6


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    """Files that an export did not write are listed, without those of Git, and left alone."""
    export_to_folder(quickstart(), tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "app").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / "check/helper.py").write_text("mine")

    result = export_to_folder(quickstart(), tmp_path)

    assert result.paths("left alone") == ("app/", "notes.txt", "check/helper.py")
    assert (tmp_path / "check/helper.py").read_text() == "mine"


def test_half_a_surrogate_pair_is_written_as_it_is(tmp_path: Path) -> None:
    """Code that is not text is not changed by an export, so that the next export finds it unchanged."""
    workflow = with_step(quickstart(), Step("check", source=f"{PYTHON}  # \ud83d"))

    export_to_folder(workflow, tmp_path)

    assert (tmp_path / "check/entry.py").read_bytes().endswith(b"  # \xed\xa0\xbd")
    assert {file.state for file in export_to_folder(workflow, tmp_path).files} == {"unchanged"}


def test_values_of_the_folder_survive_an_export(tmp_path: Path) -> None:
    """An endpoint, test users and test events that were added to pdkernel.yaml by hand are kept."""
    export_to_folder(quickstart(), tmp_path)
    path = tmp_path / "pdkernel.yaml"
    path.write_text(path.read_text() + "endpoint: eo123\ntest_users:\n- ada\ntest_events:\n- new\n")

    export_to_folder(quickstart(), tmp_path)

    sidecar = read_sidecar(path)
    assert sidecar is not None
    assert (sidecar.endpoint, sidecar.test_users, sidecar.test_events) == ("eo123", ("ada",), ("new",))


def test_foreign_file(tmp_path: Path) -> None:
    """An existing file that an export did not write is not overwritten."""
    (tmp_path / "check").mkdir()
    (tmp_path / "check/entry.py").write_text("mine")

    with pytest.raises(RequestError, match=r"check/entry\.py exists and was not written by an export"):
        export_to_folder(quickstart(), tmp_path)

    assert contents(tmp_path) == {"check/entry.py": "mine"}


def test_synced_folder(tmp_path: Path) -> None:
    """A folder that Pipedream synced is refused; the fix names --into."""
    (tmp_path / ".workflow.state").write_text("id: p_1")

    with pytest.raises(UnsupportedError, match="synced") as caught:
        export_to_folder(quickstart(), tmp_path)

    assert "--into" in caught.value.fix


def test_workflow_yaml_without_pdkernel_yaml(tmp_path: Path) -> None:
    """A workflow.yaml without a pdkernel.yaml is not overwritten."""
    (tmp_path / "workflow.yaml").write_text("name: Open issue to Slack")

    with pytest.raises(UnsupportedError, match="was not written by an export"):
        export_to_folder(quickstart(), tmp_path)


def test_another_workflow(tmp_path: Path) -> None:
    """A folder of another workflow is not overwritten."""
    export_to_folder(quickstart(), tmp_path)

    with pytest.raises(UnsupportedError, match="it is called 'Open issue to Slack', and this one 'Other'"):
        export_to_folder(replace(quickstart(), name="Other"), tmp_path)


def test_a_folder_whose_workflow_is_not_yaml(tmp_path: Path) -> None:
    """A folder whose `workflow.yaml` cannot be read is not overwritten; the message names the file and the line."""
    export_to_folder(quickstart(), tmp_path)
    (tmp_path / "workflow.yaml").write_text("name: Open issue to Slack\nsteps: [\n")

    with pytest.raises(NotebookError, match=rf"^{tmp_path}/workflow\.yaml is not YAML: .*\(line 3\)"):
        export_to_folder(quickstart(), tmp_path)

    assert (tmp_path / "workflow.yaml").read_text() == "name: Open issue to Slack\nsteps: [\n"


def test_links_and_paths_outside(tmp_path: Path) -> None:
    """An export does not write through links or outside its folder."""
    folder = tmp_path / "flow"
    folder.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (folder / "check").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(RequestError, match="leads out of"):
        export_to_folder(quickstart(), folder)
    with pytest.raises(RequestError, match="leads out of"):
        compare_files([DefinitionFile("../x", "")], folder)

    assert contents(tmp_path) == {}


def test_a_link_in_the_place_of_a_file(tmp_path: Path) -> None:
    """A link in the place of a file is not followed, even inside the folder."""
    (tmp_path / "target").write_text("mine")
    (tmp_path / "workflow.yaml").symlink_to(tmp_path / "target")

    with pytest.raises(RequestError, match="is a link"):
        export_to_folder(quickstart(), tmp_path)


def test_no_folder(tmp_path: Path) -> None:
    """A file in the place of the folder, or a folder in the place of a file, is refused."""
    (tmp_path / "file").write_text("")
    (tmp_path / "flow/workflow.yaml").mkdir(parents=True)

    with pytest.raises(RequestError, match="is a file, and an export needs a folder"):
        export_to_folder(quickstart(), tmp_path / "file")
    with pytest.raises(RequestError, match="is a folder, and the export writes a file there"):
        export_to_folder(quickstart(), tmp_path / "flow")


def test_a_failed_write_changes_nothing(tmp_path: Path) -> None:
    """If a file cannot be written, no file is changed and nothing is left behind."""
    export_to_folder(quickstart(), tmp_path)
    before = contents(tmp_path)
    (tmp_path / "late").write_text("a file where a step's folder should be")
    workflow = with_step(with_step(quickstart(), Step("check", source="changed")), Step("late", source=PYTHON))

    with pytest.raises(RequestError):
        write_files(plan_files(workflow), tmp_path)

    assert contents(tmp_path) == {**before, "late": "a file where a step's folder should be"}


def test_written_files_are_readable(tmp_path: Path) -> None:
    """Written files have mode 0644 and read back as the workflow."""
    export_to_folder(quickstart(), tmp_path)

    assert (tmp_path / "workflow.yaml").stat().st_mode & 0o777 == 0o644
    assert read_folder_workflow(tmp_path).steps[0].source == PYTHON


def test_json_of_a_result(tmp_path: Path) -> None:
    """The JSON has the folder, whether it was written, each file with its state and diff, the checklist and findings."""
    file = DefinitionFile("workflow.yaml", "name: a\n")
    finding = Finding("limit", None, None, 3, "Too long.", file="workflow.yaml")

    result = msgspec.structs.replace(compare_files([file], tmp_path, checklist=["Do this."]), findings=(finding,))

    assert json.dumps(result.to_json()) == json.dumps(
        {
            "folder": str(tmp_path),
            "written": False,
            "files": [
                {
                    "path": "workflow.yaml",
                    "state": "new",
                    "diff": "--- /dev/null\n+++ b/workflow.yaml\n@@ -0,0 +1 @@\n+name: a\n",
                }
            ],
            "checklist": ["Do this."],
            "findings": [
                {
                    "rule": "limit",
                    "step": None,
                    "cell": None,
                    "line": 3,
                    "message": "Too long.",
                    "fix": "",
                    "file": "workflow.yaml",
                }
            ],
            "serve": None,
            "serve_notes": [],
        }
    )

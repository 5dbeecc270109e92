"""Writing definition files into a folder."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
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
    read_sidecar,
    write_files,
)
from pdkernel.files.definition.folder_write import PENDING_FILE, write_files_atomically
from pdkernel.files.definition.lint import Finding
from pdkernel.model import Step
from tests.builders import with_step
from tests.files.definition.builders import PYTHON, quickstart
from tests.privileges import drop_override


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


def test_a_folder_of_another_workflow(tmp_path: Path) -> None:
    """A folder that Pipedream synced, one without a pdkernel.yaml, and one of another workflow are not overwritten."""
    synced, bare, other = (tmp_path / name for name in ("synced", "bare", "other"))
    for folder, name in ((synced, ".workflow.state"), (bare, "workflow.yaml")):
        folder.mkdir()
        (folder / name).write_text("name: Open issue to Slack\n")
    export_to_folder(replace(quickstart(), name="Other"), other)

    with pytest.raises(UnsupportedError, match="synced") as caught:
        export_to_folder(quickstart(), synced)
    assert "--into" in caught.value.fix
    with pytest.raises(UnsupportedError, match="was not written by an export"):
        export_to_folder(quickstart(), bare)
    with pytest.raises(UnsupportedError, match="it is called 'Other', and this one 'Open issue to Slack'"):
        export_to_folder(quickstart(), other)


def test_a_folder_whose_workflow_is_not_yaml(tmp_path: Path) -> None:
    """A folder whose `workflow.yaml` cannot be read is not overwritten; the message names the file and the line."""
    export_to_folder(quickstart(), tmp_path)
    (tmp_path / "workflow.yaml").write_text("name: Open issue to Slack\nsteps: [\n")

    with pytest.raises(NotebookError, match=rf"^{tmp_path}/workflow\.yaml is not YAML: .*\(line 3\)"):
        export_to_folder(quickstart(), tmp_path)

    assert (tmp_path / "workflow.yaml").read_text() == "name: Open issue to Slack\nsteps: [\n"


def test_links_and_paths_outside(tmp_path: Path) -> None:
    """An export does not write outside its folder or through links, even if they lead to a place inside the folder."""
    folder = tmp_path / "flow"
    folder.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (folder / "check").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(RequestError, match="leads out of"):
        export_to_folder(quickstart(), folder)
    with pytest.raises(RequestError, match="leads out of"):
        compare_files([DefinitionFile("../x", "")], folder)
    assert contents(tmp_path) == {}
    (folder / "check").unlink()
    (folder / "target").write_text("mine")
    (folder / "workflow.yaml").symlink_to(folder / "target")
    with pytest.raises(RequestError, match="is a link"):
        export_to_folder(quickstart(), folder)


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


WRITE = """
import resource, sys
from pathlib import Path
from pdkernel.files.definition.folder_write import write_files_atomically
from pdkernel.errors import RequestError
if {limit}:
    import signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    write_files_atomically({{"a/one": b"new", "b/two": b"new" * 1000, "c/new": b"new"}}, Path(sys.argv[1]))
except RequestError as error:
    sys.exit(error.message)
"""


def contents_and_modes(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file under *folder* and its mode."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mode & 0o777)
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two files, one of them a program."""
    for name in ("a/one", "b/two"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"old")
    (tmp_path / "b/two").chmod(0o755)
    (tmp_path / "a/one").chmod(0o644)
    return tmp_path


def test_replaced_files_keep_their_modes(folder: Path) -> None:
    """A replaced file keeps its mode, and a new file is readable by all. No other file is left."""
    write_files_atomically({"a/one": b"1", "b/two": b"2", "new/deep/three": b"3"}, folder)

    assert contents_and_modes(folder) == {
        "a/one": (b"1", 0o644),
        "b/two": (b"2", 0o755),
        "new/deep/three": (b"3", 0o644),
    }


def test_a_rename_that_fails_midway_undoes_the_others(folder: Path) -> None:
    """If a rename fails after others, every file is restored and new folders are removed."""
    before = contents_and_modes(folder)
    # a file cannot take the place of a folder, which the last of the files makes
    files = {"a/one": b"1", "b/two": b"2", "new/deep/three": b"3", "z": b"4", "z/five": b"5"}

    with pytest.raises(RequestError, match="It is unchanged"):
        write_files_atomically(files, folder)

    assert contents_and_modes(folder) == before
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b"]


class InterruptedFiles(dict[str, bytes]):
    """Files whose writing is interrupted after the last one."""

    def items(self) -> Iterator[tuple[str, bytes]]:  # type: ignore[override]
        """Each file, then an interrupt."""
        yield from super().items()
        raise KeyboardInterrupt


def test_an_interrupt_changes_nothing(folder: Path) -> None:
    """An interrupt is passed on, and no temporary file and no new folder is left."""
    before = contents_and_modes(folder)

    with pytest.raises(KeyboardInterrupt):
        write_files_atomically(InterruptedFiles({"a/one": b"1", "new/deep/three": b"3"}), folder)

    assert contents_and_modes(folder) == before
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit for the size of files")
def test_a_full_disk_changes_nothing(folder: Path) -> None:
    """If the disk is full, no file is changed and nothing is left behind."""
    before = contents_and_modes(folder)

    ended = subprocess.run([sys.executable, "-c", WRITE.format(limit=1000), folder], capture_output=True, text=True)

    assert "cannot be written" in ended.stderr, ended.stderr
    assert contents_and_modes(folder) == before
    assert not (folder / "c").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no file modes")
def test_a_read_only_folder_changes_nothing(folder: Path) -> None:
    """If one step's folder is read-only, no file in the other folders is changed."""
    before = contents_and_modes(folder)
    (folder / "b").chmod(0o555)

    ended = subprocess.run(
        [sys.executable, "-c", WRITE.format(limit=0), folder], capture_output=True, text=True, preexec_fn=drop_override
    )
    (folder / "b").chmod(0o755)

    assert "Permission denied" in ended.stderr, ended.stderr
    assert contents_and_modes(folder) == before
    assert not (folder / "c").exists()


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_kill_between_two_renames_is_completed_by_the_next_write(tmp_path: Path, number: int) -> None:
    """Whichever rename a kill prevents, the next write makes the files those of one write, and says so; then writes work again."""
    folder = tmp_path / "flow"
    names = ("a.txt", "b.txt", "c.txt")
    write_files_atomically(dict.fromkeys(names, b"old"), folder)
    code = (
        "import sys; from pathlib import Path; from tests.durability.faults import kill_at_rename;"
        "from pdkernel.files.definition.folder_write import write_files_atomically;"
        "kill_at_rename(int(sys.argv[1]), sys.argv[2]);"
        "write_files_atomically(dict.fromkeys(('a.txt', 'b.txt', 'c.txt'), b'new'), Path(sys.argv[2]))"
    )
    root = Path(__file__).parents[3]
    killed = subprocess.run([sys.executable, "-c", code, str(number), str(folder)], cwd=root, check=False)
    if number > 1:
        with pytest.raises(RequestError, match="complete now"):
            write_files_atomically({"a.txt": b"last"}, folder)
    contents = {(folder / name).read_bytes() for name in names}
    write_files_atomically({"a.txt": b"last"}, folder)

    assert killed.returncode == -signal.SIGKILL
    assert contents == {b"old" if number == 1 else b"new"}
    assert not (folder / PENDING_FILE).exists()
    assert (folder / "a.txt").read_bytes() == b"last"


def test_a_list_of_renames_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    """A folder of another person cannot let an export move files outside of it."""
    folder, outside = tmp_path / "flow", tmp_path / "outside"
    folder.mkdir()
    outside.write_text("mine")
    (folder / PENDING_FILE).write_text('[["../outside", "a.txt"]]')

    with pytest.raises(RequestError):
        write_files_atomically({"a.txt": b"new"}, folder)

    assert outside.read_text() == "mine"


def test_a_folder_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several files are written into a folder that a person names from the current one."""
    monkeypatch.chdir(tmp_path)

    write_files_atomically({"a.txt": b"1", "deep/b.txt": b"2"}, Path("flow"))

    assert [(tmp_path / "flow" / name).read_bytes() for name in ("a.txt", "deep/b.txt")] == [b"1", b"2"]
    assert not (tmp_path / "flow" / PENDING_FILE).exists()

"""`pdkernel check`."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Shell
from tests.notebook_files import notebook_of

STEP = "%%pdstep one\ndef handler(pd):\n    return 1"


def outdated(path: Path) -> None:
    """Give the first step of the notebook at *path* an output of other code."""
    data = json.loads(path.read_text())
    cell = next(each for each in data["cells"] if "%%pdstep" in "".join(each["source"]))
    metadata = {"pdkernel": {"cell": "0" * 16}}
    cell["outputs"] = [{"output_type": "display_data", "data": {"text/plain": "x"}, "metadata": metadata}]
    path.write_text(json.dumps(data))


def test_check(pdkernel: Shell) -> None:
    """Each notebook of a folder is checked; one whose output is of other code ends the command with status 1."""
    notebook_of(pdkernel.folder / "a.ipynb", STEP)
    notebook_of(pdkernel.folder / "b.ipynb", STEP)
    passed = pdkernel("check", ".", "--markdown", "summary.md")
    outdated(pdkernel.folder / "b.ipynb")
    failed = pdkernel("check", ".", "--json", "--markdown", "summary.md")
    printed = pdkernel("check", "a.ipynb", "--markdown", "-")
    both = pdkernel("check", "a.ipynb", "--markdown", "-", "--json")
    no_revision = pdkernel("check", "a.ipynb", "--base", "main")

    assert (passed.status, passed.stdout.count("✓")) == (0, 2)
    summary = (pdkernel.folder / "summary.md").read_text()  # the second call has added its summary
    assert (summary.count("### ✅"), summary.count("### ❌")) == (3, 1)
    assert printed.stdout.startswith("### ✅")
    assert (both.status, "both write to standard output" in both.stdout) == (2, True)
    assert (no_revision.status, "main" in no_revision.stderr) == (2, True)
    assert failed.status == 1
    assert [(each["workflow"], each["passed"]) for each in failed.json] == [("a", True), ("b", False)]
    assert failed.json[1]["outdated_outputs"] == [{"cell": 1, "step": "one"}]


def test_check_with_a_proof(pdkernel: Shell) -> None:
    """--prove exports to a temporary folder, and reports whether the export does the same."""
    notebook_of(pdkernel.folder / "a.ipynb", STEP)
    without_event = pdkernel("check", "a.ipynb", "--prove", "--json").json[0]
    (pdkernel.folder / "events").mkdir()
    (pdkernel.folder / "events" / "e.json").write_text('{"method": "POST", "body": {}}')

    done = pdkernel("check", "a.ipynb", "--prove")
    (pdkernel.folder / "b.ipynb").write_text("{")
    unreadable = pdkernel("check", ".", "--prove")

    assert without_event["proof_summary"].startswith("Not proven for every step.")
    assert (done.status, "proof: the export does the same" in done.stdout) == (0, True)
    assert (unreadable.status, "proof: the export does the same" in unreadable.stdout) == (1, True)
    assert "b.ipynb is not a notebook" in unreadable.stdout
    assert sorted(path.name for path in pdkernel.folder.glob("[!.]*")) == ["a.ipynb", "b.ipynb", "events"]


def test_a_notebook_that_cannot_be_proved_does_not_stop_the_others(pdkernel: Shell) -> None:
    """With --prove, an unanswered question of one notebook is its error, and the other notebooks are checked."""
    app = "export default { props: { slack: { type: 'app', app: 'slack' } }, run() {} }"
    notebook_of(pdkernel.folder / "a.ipynb", f"%%pdstep send --lang node\n{app}")
    pdkernel.write("a.pdkernel.yaml", "schema: pdkernel/1\nsteps: {send: {accounts: {slack: unanswered}}}\n")
    notebook_of(pdkernel.folder / "b.ipynb", STEP)

    done = pdkernel("check", ".", "--prove", "--json")

    assert done.status == 1
    assert [each["passed"] for each in done.json] == [False, True]
    assert "slack is unanswered" in done.json[0]["error"]


def test_a_summary_that_cannot_be_written_is_refused(pdkernel: Shell) -> None:
    """A folder in the place of the summary is named with a fix."""
    notebook_of(pdkernel.folder / "a.ipynb", STEP)

    done = pdkernel("check", "a.ipynb", "--markdown", ".")

    assert done.status == 2
    assert "Error: Cannot write .: Is a directory.\nName a file in a writable folder.\n" in done.stderr


def test_folder_without_notebooks(pdkernel: Shell) -> None:
    """A folder that contains only synced workflows has nothing to check."""
    (pdkernel.folder / "flow").mkdir()
    (pdkernel.folder / "flow" / "workflow.yaml").write_text("name: flow\ntriggers:\n- id: hi_1\n")

    done = pdkernel("check", ".")

    assert (done.status, "contains no notebook" in done.stderr) == (2, True)

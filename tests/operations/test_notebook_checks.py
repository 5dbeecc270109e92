"""The check of a notebook for its pull request."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from pdkernel.actions import Catalog
from pdkernel.errors import RequestError
from pdkernel.files.notebook import build_output_metadata
from pdkernel.operations.notebook_checks import (
    NotebookCheck,
    OutputOfCell,
    StepChange,
    check_notebook,
    render_markdown,
    render_text,
)
from pdkernel.storage import Project

ONE = "%%pdstep one\ndef handler(pd):\n    return pd.steps['trigger']['event']['body']['id']"
TWO = "%%pdstep two --app slack\ndef handler(pd):\n    return pd.steps['one']['$return_value']"
ROOT = Path(__file__).parents[2]

Check = Callable[..., NotebookCheck]


def cell(source: str, *, of: str | None = None, marked: bool = True, text: str = "shown") -> Any:
    """A step cell with an output of the text *of*, by default its own."""
    metadata = build_output_metadata(of or source) if marked else {}
    output = new_output("display_data", {"text/plain": text}, metadata=metadata)
    return new_code_cell(source, outputs=[output])


@pytest.fixture
def catalog(project: Project) -> Catalog:
    """The actions of the project."""
    return Catalog.for_project(project, environ={})


@pytest.fixture
def check(catalog: Catalog, tmp_path: Path) -> Check:
    """Write a notebook of cells, and check it."""

    def checked(*cells: Any, base: str | None = None) -> NotebookCheck:
        nbformat.write(new_notebook(cells=list(cells)), tmp_path / "flow.ipynb")
        return check_notebook(tmp_path / "flow.ipynb", catalog=catalog, base=base)

    return checked


def git(folder: Path, *arguments: str) -> None:
    """Run Git in *folder*."""
    settings = ("-c", "user.name=a", "-c", "user.email=a@example.test", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", str(folder), *settings, *arguments], check=True, capture_output=True)


def test_outputs_of_the_cells_own_text(check: Check) -> None:
    """Outputs that carry the hash of their cell pass; outer blank lines and line ends do not count."""
    found = check(new_markdown_cell("# Flow"), cell(ONE, of=f"\n{ONE}  \r\n"), new_code_cell(TWO))

    assert found.is_passed
    assert (found.outdated_outputs, found.unmarked_outputs) == ((), ())


def test_outputs_of_other_code(check: Check) -> None:
    """An output of an earlier text of its cell fails; the cell is counted among all cells."""
    found = check(new_markdown_cell("# Flow"), cell(ONE, of=ONE.replace("'id'", "'key'")), cell(TWO))

    assert not found.is_passed
    assert found.outdated_outputs == (OutputOfCell(2, "one"),)


def test_one_output_of_other_code(check: Check) -> None:
    """A cell with an output of its text and an output of an earlier text is outdated."""
    mixed = cell(ONE)
    mixed.outputs += cell(ONE, of=TWO).outputs

    assert check(mixed).outdated_outputs == (OutputOfCell(1, "one"),)


def test_outputs_without_a_mark(check: Check) -> None:
    """Outputs of an earlier version do not say to which text they belong: they are listed, and do not fail."""
    found = check(cell(ONE, marked=False))

    assert found.is_passed
    assert found.unmarked_outputs == (OutputOfCell(1, "one"),)


def test_an_answer_that_no_step_reads(check: Check) -> None:
    """A suspend whose answer no later step reads is listed, and does not fail."""
    ask = new_code_cell("%%pdstep ask\ndef handler(pd):\n    pd.flow.suspend(60000)\n")

    found = check(ask, cell(TWO))

    assert (found.is_passed, found.unread_answers) == (True, ("ask",))
    assert "answers that no step reads: ask." in render_text(found)


def test_a_notebook_that_cannot_be_read(check: Check) -> None:
    """The check gives the reason, and fails."""
    found = check(cell(ONE), cell(ONE))

    assert not found.is_passed
    assert found.error is not None
    assert "both called 'one'" in found.error


IF = "%%pdif triage\nnew: steps.one.$return_value == 1\nelse:"


def test_a_read_of_another_branch(check: Check) -> None:
    """A notebook with branches fails if a step reads what it does not see, or a condition cannot be evaluated."""
    reader = new_code_cell("%%pdstep end\ndef handler(pd):\n    return pd.steps['two']")

    found = check(cell(ONE), new_code_cell(IF), cell(TWO.replace("two ", "two --in triage.new ")), reader)
    wrong = check(cell(ONE), new_code_cell(IF.replace("==", "= =")))

    assert check(cell(ONE), new_code_cell(IF), cell(TWO.replace("two ", "two --in triage.new "))).is_passed
    assert found.error is not None
    assert "Step end (cell 4, line 3) reads steps.two, a step of the branch new of triage" in found.error
    assert wrong.error is not None
    assert "Block triage (cell 2, line 2): new: {{steps.one.$return_value = = 1}}" in wrong.error


def test_accounts_reads_and_calls(check: Check, tmp_path: Path) -> None:
    """A reviewer sees the apps, the fields of the event, and the calls of outputs and recordings without query and password."""
    (tmp_path / "events").mkdir()
    line = (
        '{"key":"k","step":"STEP","nth":0,"ms":1,"request":{"method":"PUT","url":"https://ada:hidden@x.example/a?secret=1"},'
        '"response":{"status":200,"reason":"","headers":[],"body":{"text":""}}}\n'
    )
    text = line.replace("STEP", "two") + line.replace("STEP", "of_another_notebook").replace("/a", "/b")
    (tmp_path / "events" / "e.recorded.jsonl").write_text(text)

    found = check(cell(ONE), cell(TWO, text="  ✓ two\n      call     GET https://y.example/c?k=1\n   -> 200"))

    assert found.accounts == (("two", "slack", None),)
    assert found.reads == ("body.id",)
    assert found.calls == (("GET", "https://y.example/c"), ("PUT", "https://x.example/a"))


def test_an_invalid_url_of_a_recording_is_named(check: Check, tmp_path: Path) -> None:
    """A recorded call whose URL was broken by an edit is listed as invalid, without the URL."""
    (tmp_path / "events").mkdir()
    (tmp_path / "events" / "e.recorded.jsonl").write_text(
        '{"key":"k","step":"two","nth":0,"ms":1,"request":{"method":"PUT","url":"https://[broken/a?secret=1"},'
        '"response":{"status":200,"reason":"","headers":[],"body":{"text":""}}}\n'
    )

    found = check(cell(ONE), cell(TWO))

    assert found.calls == (("PUT", "an invalid URL"),)


def test_changes_since_a_revision(check: Check, tmp_path: Path) -> None:
    """Changed, new, renamed and removed steps are named, and a changed trigger."""
    same, gone = "%%pdstep same\nreturn 1", "%%pdstep gone --lang bash\necho"
    git(tmp_path, "init", "-q")
    check(cell(ONE), cell(same), cell(TWO), cell(gone))
    git(tmp_path, "add", "flow.ipynb")
    git(tmp_path, "commit", "-qm", "first")

    found = check(
        new_code_cell("%%pdworkflow\nname: flow\ntrigger: {type: http, auth: oauth}"),
        cell(ONE + " + 1"),
        cell(same),
        cell(TWO.replace("%%pdstep two", "%%pdstep second")),
        cell("%%pdstep more --lang node\nexport default {}"),
        base="HEAD",
    )

    assert found.changes == (
        StepChange("one", "changed"),
        StepChange("second", "renamed", "two"),
        StepChange("more", "new"),
        StepChange("gone", "removed"),
        StepChange("", "trigger or settings"),
    )


def test_a_changed_setting(check: Check, tmp_path: Path) -> None:
    """A setting that changed is named, also if the trigger did not."""
    git(tmp_path, "init", "-q")
    check(new_code_cell("%%pdworkflow\nname: flow\nsettings: {retention: 3}"), cell(ONE))
    git(tmp_path, "add", "flow.ipynb")
    git(tmp_path, "commit", "-qm", "first")

    found = check(new_code_cell("%%pdworkflow\nname: flow\nsettings: {retention: 4}"), cell(ONE), base="HEAD")

    assert found.changes == (StepChange("", "trigger or settings"),)


def test_changed_blocks(check: Check, tmp_path: Path) -> None:
    """New, removed and changed blocks are named, and so is a step that moved to another branch; the place of a cell alone does not count."""
    old, other = "%%pdif old\nelse:", "%%pdparallel same\na: always"
    inside = TWO.replace("two ", "two --in triage.new ")
    git(tmp_path, "init", "-q")
    check(*map(new_code_cell, (ONE, old, IF, inside, other)))
    git(tmp_path, "add", "flow.ipynb")
    git(tmp_path, "commit", "-qm", "first")

    cells = (ONE, other, IF.replace("== 1", "== 2"), inside.replace(".new", ".else"), "%%pdif fresh\nelse:")
    found = check(*map(new_code_cell, cells), base="HEAD")

    assert found.changes == (
        StepChange("two", "changed"),
        StepChange("triage", "changed"),
        StepChange("fresh", "new"),
        StepChange("old", "removed"),
    )


def test_changed_order(check: Check, tmp_path: Path) -> None:
    """Steps that only changed places are not changed steps: the check names the order."""
    git(tmp_path, "init", "-q")
    check(cell(ONE), cell("%%pdstep b\nreturn 1"))
    git(tmp_path, "add", "flow.ipynb")
    git(tmp_path, "commit", "-qm", "first")

    found = check(cell("%%pdstep b\nreturn 1"), cell(ONE), base="HEAD")

    assert found.changes == (StepChange("", "order"),)


def test_a_step_with_files_beside_the_notebook_is_unchanged(check: Check, tmp_path: Path) -> None:
    """A step that imports a file of the notebook's folder and was not changed is not a changed step."""
    (tmp_path / "helper.py").write_text("ONE = 1\n")
    step = "%%pdstep a\nfrom helper import ONE\ndef handler(pd):\n    return ONE"
    git(tmp_path, "init", "-q")
    check(cell(step))
    git(tmp_path, "add", "flow.ipynb")
    git(tmp_path, "commit", "-qm", "first")

    assert check(cell(step), base="HEAD").changes == ()


def test_a_notebook_that_the_revision_lacks(check: Check, tmp_path: Path) -> None:
    """All steps are new."""
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-qm", "empty", "--allow-empty")

    assert check(cell(ONE), base="HEAD").changes == (StepChange("one", "new"),)


def test_an_unknown_revision(check: Check, tmp_path: Path) -> None:
    """A revision that the repository does not have is refused."""
    git(tmp_path, "init", "-q")

    with pytest.raises(RequestError, match="Git does not know 'nowhere'"):
        check(cell(ONE), base="nowhere")


def test_the_notebooks_of_this_repository(catalog: Catalog) -> None:
    """Each output of a step in the notebooks that come with pdkernel is marked, and belongs to its cell."""
    found = [check_notebook(path, catalog=catalog) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]

    assert len(found) == 6
    assert {(each.is_passed, each.unmarked_outputs) for each in found} == {(True, ())}


FULL = NotebookCheck(
    notebook="flow|.ipynb",
    workflow="flow",
    outdated_outputs=(OutputOfCell(3, "one"),),
    unmarked_outputs=(OutputOfCell(4, "two"), OutputOfCell(5, "three")),
    base="main",
    changes=(StepChange("one", "changed"), StepChange("two", "renamed", "second"), StepChange("", "order")),
    accounts=(("two", "slack", None), ("three", "github", "apn_1")),
    reads=("body.id", "body.items[].name"),
    calls=(("POST", "https://slack.com/api/chat.postMessage"),),
    proof="same",
)


def test_text() -> None:
    """The text has a line for the notebook and one for each subject."""
    assert render_text(FULL) == (
        "✗ flow|.ipynb\n"
        "    outputs of other code: 1 step cell: one (cell 3). Run these cells again, and save the notebook.\n"
        "    outputs without a mark: 2 step cells: two (cell 4), three (cell 5). To mark them, run these cells again.\n"
        "    changes since main: one (changed), two (renamed, before second), order of the steps\n"
        "    accounts: slack in two (external user), github in three (apn_1)\n"
        "    reads of the event: body.id, body.items[].name\n"
        "    outbound calls: POST https://slack.com/api/chat.postMessage\n"
        "    proof: the export does the same\n"
    )


def test_markdown() -> None:
    """The Markdown is one table; a text cannot leave its cell or add elements."""
    found = render_markdown(NotebookCheck("a`.ipynb", error="It is <b>not</b>\na | notebook."))

    assert found == "### ❌ `a'.ipynb`\n\n| | |\n|---|---|\n| error | It is &lt;b>not&lt;/b><br>a \\| notebook. |\n"


def test_nothing_to_list() -> None:
    """The check of a workflow without accounts, reads and calls reports it, and passes."""
    assert render_text(NotebookCheck("flow.ipynb", workflow="flow")) == (
        "✓ flow.ipynb\n"
        "    accounts: none\n"
        "    reads of the event: none\n"
        "    outbound calls: none in outputs and recordings\n"
    )


def test_a_check_fails_for_three_reasons() -> None:
    """An error, outputs of other code, and a proof that differs fail the check; outputs without a mark do not."""
    cell = (OutputOfCell(3, "one"),)
    checks = (
        NotebookCheck("a", error="no\nfix"),
        NotebookCheck("a", outdated_outputs=cell),
        NotebookCheck("a", proof="differs"),
        NotebookCheck("a", unmarked_outputs=cell),
        NotebookCheck("a", proof="not compared"),
        NotebookCheck("a", proof="same"),
    )

    assert [check.is_passed for check in checks] == [False, False, False, True, True, True]
    assert render_text(checks[0]) == "✗ a\n    error: no\n      fix\n"
    assert "proof: the export differs" in render_text(checks[2])


def test_an_incomplete_proof_is_not_green() -> None:
    """A check whose proof did not compare each step passes with a warning that names what to do."""
    check = NotebookCheck("a.ipynb", workflow="a", proof="same", proof_summary="Not compared: send. Record its call.")

    assert check.is_passed
    assert render_text(check).startswith("! a.ipynb\n")
    assert "proof: Not compared: send. Record its call." in render_text(check)
    assert render_markdown(check).startswith("### ⚠️ `a.ipynb`")

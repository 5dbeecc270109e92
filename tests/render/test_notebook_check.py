"""The check of a notebook as a person reads it."""

from __future__ import annotations

from pdkernel.render.notebook_check import NotebookCheck, OutputOfCell, StepChange, render_markdown, render_text

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

"""The words of the readiness matrix."""

from __future__ import annotations

import msgspec
import pytest

from pdkernel.operations.readiness import matrix
from pdkernel.operations.readiness.matrix import MatrixCell, MatrixRow, ReadinessMatrix
from tests.render.reading import Page

READY = MatrixCell("", "ready")
ROW = MatrixRow("ada", READY, (MatrixCell("send", "ready"),))
TABLE = ReadinessMatrix("Flow", "production", ("send",), (ROW,))


@pytest.mark.parametrize(
    ("cell", "label"),
    [
        (MatrixCell("a", "ready"), "ready"),
        (MatrixCell("a", "proxy", ("apn_1",)), "ready by proxy"),
        (MatrixCell("a", "ready", ("apn_1",), unhealthy=("apn_1",)), "not working"),
        (MatrixCell("a", "error", code="account_not_found", apps=("slack", "github")), "missing Slack and GitHub"),
        (MatrixCell("a", "error", code="external_user_required"), "no user"),
        (MatrixCell("a", "error", code="external_user_not_found"), "no such user"),
        (MatrixCell("a", "error", code="production_plan"), "plan"),
        (MatrixCell("a", "error", code="request"), "own account"),
        (MatrixCell("a", "error"), "own account"),
    ],
)
def test_the_word_of_a_cell(cell: MatrixCell, label: str) -> None:
    """Each state and each error has its own word; an error without a code of its own concerns an own account."""
    assert cell.label == label
    table = msgspec.structs.replace(TABLE, rows=(MatrixRow("ada", READY, (cell,)),))
    assert label in matrix.render_text(table)
    assert label in Page(matrix.render_html(table)).text


def test_an_account_that_does_not_work_stands_out() -> None:
    """A cell whose account is known not to work has another color than a ready one."""
    broken = msgspec.structs.replace(READY, unhealthy=("apn_1",))
    tables = [msgspec.structs.replace(TABLE, rows=(MatrixRow("ada", cell, ()),)) for cell in (READY, broken)]

    good, bad = (matrix.render_html(table) for table in tables)

    assert good != bad.replace("not working", "ready")


def test_the_title_counts_users_that_can_run_it() -> None:
    """A user whose account does not work, or whose calls take the proxy, can run it; without users, the title reports it."""
    proxied = MatrixRow("eve", MatrixCell("", "proxy", ("apn_1",)), (READY,))
    failed = MatrixRow("bob", MatrixCell("", "error", code="request", message="Gone.", fix="Connect."), (READY,))
    development = MatrixRow(None, READY, (READY,))

    assert matrix.render_text(msgspec.structs.replace(TABLE, rows=(ROW, failed, proxied))).startswith(
        "Flow, production: 2 of 3 external users can run it."
    )
    assert matrix.render_text(TABLE).startswith("Flow, production: 1 of 1 external user can run it.")
    empty = matrix.render_text(msgspec.structs.replace(TABLE, rows=(development,)))
    assert empty.startswith("Flow, production: there are no external users yet.")
    assert "(no user)" in empty


def test_an_error_is_explained_once() -> None:
    """Users with the same error share its text; a text of a user without an error is not shown."""
    failed = MatrixCell("", "error", code="request", message="Gone.", fix="Connect it.")
    rows = (
        MatrixRow("ada", failed, ()),
        MatrixRow("bob", failed, ()),
        MatrixRow("eve", MatrixCell("", "ready", message="Fine."), ()),
    )
    table = msgspec.structs.replace(TABLE, rows=rows, steps=())

    text = matrix.render_text(table)

    assert text.count("Gone.") == text.count("Connect it.") == 1
    assert "Fine." not in text
    assert "more external users" not in text


def test_a_long_id_is_cut() -> None:
    """The column of users has at most 40 characters."""
    table = msgspec.structs.replace(TABLE, rows=(MatrixRow("u" * 41, READY, (READY,)),))

    assert f"{'u' * 39}…" in matrix.render_text(table)
    assert f"{'u' * 39}…" in matrix.render_html(table)


def test_only_a_failed_cell_has_an_error() -> None:
    """The JSON of a cell has the error of a failed cell, also without a code; a cell that is ready has none."""
    cells = (MatrixCell("a", "ready", code="plan"), MatrixCell("", "error", message="No.", fix="Connect."))

    assert [msgspec.json.decode(msgspec.json.encode(cell.json_form())) for cell in cells] == [
        {"step": "a", "state": "ready", "accounts": [], "unhealthy": [], "error": None},
        {
            "step": None,
            "state": "error",
            "accounts": [],
            "unhealthy": [],
            "error": {"code": None, "message": "No.", "fix": "Connect."},
        },
    ]


def test_many_users_are_counted() -> None:
    """A view of many users begins with counts, shows those first for whom the workflow cannot run, and names the number of others."""
    missing = MatrixCell("", "error", apps=("slack",), code="account_not_found", message="No account.", fix="Connect.")
    rows = [MatrixRow(f"user-{number}", READY, ()) for number in range(1500)]
    rows += [
        MatrixRow(f"late-{number}", msgspec.structs.replace(missing, message=f"None of {number}."), ())
        for number in range(12)
    ]
    table = msgspec.structs.replace(TABLE, rows=tuple(rows), steps=())

    text = matrix.render_text(table)

    assert text.splitlines()[:2] == [
        "Flow, production: 1,500 of 1,512 external users can run it. No code was run.",
        "1,500 ready, 12 missing Slack.",
    ]
    assert [line.split()[0] for line in text.splitlines()[3:16]] == [*(f"late-{n}" for n in range(12)), "user-0"]
    assert "1,462 more external users are not shown. To find some of them, add --search TEXT." in text
    assert (text.count("None of"), "2 further errors of this kind." in text) == (10, True)
    assert len(Page(matrix.render_html(table)).text) < 6000
    assert len(table.json_form()["users"]) == 1512  # type: ignore[index]


def test_a_search_without_a_match() -> None:
    """A matrix without rows says so, and has no table."""
    table = msgspec.structs.replace(TABLE, rows=())

    assert matrix.render_text(table) == "Flow, production: no external user matches. No code was run.\n"
    assert "<table" not in matrix.render_html(table)

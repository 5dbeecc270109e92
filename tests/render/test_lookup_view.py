"""How an account was found, and who could run what, in text and in HTML."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pdkernel.execution import AccountUse, StepResult
from pdkernel.lookup import AccountCandidate, AppLookup, Lookup, LookupFailure
from pdkernel.render import lookup, matrix, timeline
from pdkernel.render.matrix import MatrixCell, MatrixRow, ReadinessMatrix
from tests.render import builders
from tests.render.golden_files import assert_golden
from tests.render.reading import Page

NEW = AccountCandidate("apn_0000009", "Ada's Slack", "2026-11-24T09:00:00.000Z")
OLD = AccountCandidate("apn_0000001", "", "2026-11-01T09:00:00.000Z")
FOUND = Lookup(
    external_user="ada",
    environment="production",
    header="ada",
    environment_header="production",
    user_exists=True,
    apps=(
        AppLookup("slack", ("send",), (NEW, OLD), NEW.id),
        AppLookup("notion", ("check", "build"), (replace(OLD, id="apn_2", withheld=True),), "apn_2"),
    ),
    plan="business",
)
REFUSED = replace(
    FOUND,
    header=None,
    environment="development",
    environment_header=None,
    plan=None,
    apps=(FOUND.apps[0], AppLookup("notion", ("check", "build"))),
    failed=LookupFailure(
        "account",
        "account_not_found",
        "Pipedream Connect Error: Required account for notion not found for external user ID ada in development",
        "Step check and build needs it. Connect one with %pduser.",
    ),
)
NOBODY = replace(
    REFUSED,
    external_user=None,
    user_exists=None,
    apps=(AppLookup("slack", ("send",)),),
    failed=LookupFailure(
        "header", "external_user_required", "Pipedream Connect Error: No external user ID", "Pick one."
    ),
)
TABLE = ReadinessMatrix(
    "Open issue to Slack",
    "development",
    ("check", "send"),
    (
        MatrixRow(
            "ada",
            MatrixCell("", "ready", ("apn_1",)),
            (MatrixCell("check", "ready"), MatrixCell("send", "ready", ("apn_1",))),
        ),
        MatrixRow(
            "grace",
            MatrixCell("", "proxy", ("apn_2",)),
            (MatrixCell("check", "ready"), MatrixCell("send", "proxy", ("apn_2",))),
        ),
        MatrixRow(
            "<b>joan",
            MatrixCell("", "error", apps=("slack",), code="account_not_found", message="No slack.", fix="Connect one."),
            (MatrixCell("check", "ready"), MatrixCell("send", "error", apps=("slack",), code="account_not_found")),
        ),
    ),
    has_more_users=True,
)


@pytest.mark.parametrize("form", ["txt", "html"])
@pytest.mark.parametrize(("name", "value"), [("found", FOUND), ("refused", REFUSED), ("nobody", NOBODY)])
def test_look_ups_are_as_they_were_looked_at(name: str, value: Lookup, form: str) -> None:
    """Each link says whether it held and what it came to; a failed one ends the list, with what to do."""
    view = lookup.render_output(value)

    assert_golden(f"lookup-{name}.{form}", view.text if form == "txt" else view.html)


@pytest.mark.parametrize("form", ["txt", "html"])
def test_a_matrix_is_as_it_was_looked_at(form: str) -> None:
    """Users down, steps across, each cell in a word, each error once with what to do."""
    assert_golden(f"matrix.{form}", matrix.render_text(TABLE) if form == "txt" else matrix.render_html(TABLE))


def test_the_matrix_has_no_foreign_html() -> None:
    """A user's id is text, whatever it looks like."""
    assert "<b>joan" in Page(matrix.render_html(TABLE)).text


def test_the_timeline_folds_the_look_up_away() -> None:
    """As HTML the look-up of a step stands under its account, closed; as text only where it is asked for."""
    use = AccountUse("slack", "slack", NEW.id, "external_user")
    step = StepResult("send", "success", duration_ms=1.0, accounts=(use,))
    execution = replace(builders.succeeded(), steps=(step,), lookup=FOUND)

    drawn = timeline.render_html(execution)

    assert "how the account was found</summary>" in drawn
    assert "<details open" not in drawn
    assert OLD.id in drawn
    assert OLD.id not in timeline.render_text(execution)
    assert OLD.id in timeline.render_text(execution, explain_lookup=True)


def test_a_failed_look_up_is_always_told() -> None:
    """A run that the look-up refused says in text, too, how far it came."""
    execution = replace(builders.succeeded(), lookup=NOBODY, status="error", steps=())

    assert "✗ header" in timeline.render_text(execution)
    assert "account lookup" in timeline.render_html(execution)

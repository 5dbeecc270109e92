"""The lookup of an account and the readiness matrix, in text and in HTML."""

from __future__ import annotations

import json
import re

import pytest
from msgspec.structs import replace

from pdkernel.common.lookup import AccountCandidate, AppLookup, Lookup, LookupFailure
from pdkernel.execution import AccountUse, StepResult
from pdkernel.operations.readiness import matrix
from pdkernel.operations.readiness.matrix import MatrixCell, MatrixRow, ReadinessMatrix
from pdkernel.render import lookup, timeline
from tests.render import builders
from tests.render.reading import Page, assert_view

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
        "Step check and build needs it. Connect one.",
    ),
)
NO_USER = replace(
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
)


@pytest.mark.parametrize(("name", "value"), [("found", FOUND), ("refused", REFUSED), ("no-user", NO_USER)])
def test_lookup_text_matches_the_golden_file(name: str, value: Lookup) -> None:
    """Each link has its state and result; a failed link ends the list, with a fix."""
    assert_view(f"lookup-{name}.txt", lookup.render_output(value).text)


@pytest.mark.parametrize(
    ("name", "value"), [("found.html", FOUND), ("refused.html.txt", REFUSED), ("no-user.html.txt", NO_USER)]
)
def test_lookup_html_matches_the_golden_file(name: str, value: Lookup) -> None:
    """The HTML of a complete lookup, and the visible text of failed lookups, equal their golden files."""
    assert_view(f"lookup-{name}", lookup.render_output(value).html)


@pytest.mark.parametrize("form", ["txt", "html"])
def test_a_matrix_matches_the_golden_file(form: str) -> None:
    """Rows are users, columns are steps; each cell is a word, and each error is listed once with a fix."""
    assert_view(f"matrix.{form}", matrix.render_text(TABLE) if form == "txt" else matrix.render_html(TABLE))


def test_ids_in_the_matrix_are_escaped() -> None:
    """A user's id is shown as text."""
    assert "<b>joan" in Page(matrix.render_html(TABLE)).text


def test_the_timeline_folds_the_lookup() -> None:
    """HTML has the lookup of a step collapsed under its account; text only on request."""
    use = AccountUse("slack", "slack", NEW.id, "external_user")
    step = StepResult("send", "success", duration_ms=1.0, accounts=(use,))
    execution = replace(builders.succeeded(), steps=(step,), lookup=FOUND)

    drawn = timeline.render_html(execution)

    assert re.search("how the account was found(</span>)+</summary>", drawn)
    assert "<details open" not in drawn
    assert OLD.id in drawn
    assert OLD.id not in timeline.render_text(execution)
    assert OLD.id in timeline.render_text(execution, timeline.TimelineContext(explain_lookup=True))


def test_a_failed_lookup_is_always_shown() -> None:
    """If the lookup refused a run, the text has the lookup too."""
    execution = replace(builders.succeeded(), lookup=NO_USER, status="error", steps=())

    assert "✗ header" in timeline.render_text(execution)
    assert "account lookup" in timeline.render_html(execution)


def test_json_of_a_matrix() -> None:
    """The JSON has a row for each user; only a cell that is not ready has an error."""
    users = TABLE.to_json()["users"]

    assert json.dumps({**TABLE.to_json(), "users": users[2:]}) == json.dumps(
        {
            "workflow": "Open issue to Slack",
            "environment": "development",
            "steps": ["check", "send"],
            "counts": {"ready": 1, "ready by proxy": 1, "missing Slack": 1},
            "users": [
                {
                    "external_user": "<b>joan",
                    "workflow": {
                        "step": None,
                        "state": "error",
                        "accounts": [],
                        "unhealthy": [],
                        "error": {"code": "account_not_found", "message": "No slack.", "fix": "Connect one."},
                    },
                    "steps": [
                        {"step": "check", "state": "ready", "accounts": [], "unhealthy": [], "error": None},
                        {
                            "step": "send",
                            "state": "error",
                            "accounts": [],
                            "unhealthy": [],
                            "error": {"code": "account_not_found", "message": "", "fix": ""},
                        },
                    ],
                }
            ],
        }
    )
    assert json.dumps(users[1]["workflow"]) == json.dumps(
        {"step": None, "state": "proxy", "accounts": ["apn_2"], "unhealthy": [], "error": None}
    )


def test_a_step_has_its_own_apps() -> None:
    """The lookup of one step lists the apps of this step only."""
    assert "Notion" in lookup.render_text(FOUND)
    assert "Notion" not in lookup.render_text(FOUND, step="send")
    assert "Slack" in lookup.render_text(FOUND, step="send")


@pytest.mark.parametrize(
    ("link", "mark"), [("plan", "✗ plan"), ("account", "· plan"), ("user", "· plan"), ("header", "· plan")]
)
def test_a_failure_ends_the_lookup(link: str, mark: str) -> None:
    """Links after the failed link are not reached."""
    failed = replace(FOUND, failed=LookupFailure(link, "c", "m", "f"))  # type: ignore[arg-type]  # one of the links

    drawn = lookup.render_text(failed)

    assert mark in drawn
    assert ("not looked up" in drawn) is (link in ("user", "header"))


def test_an_account_that_does_not_work_is_reported() -> None:
    """The newest account is used, also if its credentials no longer work; older accounts are listed."""
    app = replace(FOUND.apps[0], candidates=(replace(NEW, healthy=False), OLD))

    drawn = lookup.render_text(replace(FOUND, apps=(app,)))

    assert (
        "is the newest and is used; needed by send; its credentials no longer work: connect the account again" in drawn
    )
    assert "Older: apn_0000001 (2026-11-01 09:00:00 UTC)" in drawn
    assert "no longer work" not in lookup.render_text(FOUND)
    assert "through Connect's proxy" in lookup.render_text(FOUND)

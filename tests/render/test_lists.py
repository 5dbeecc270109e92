"""Readiness of accounts and files of an export, in text and in HTML."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pdkernel.render import accounts, files
from pdkernel.render.accounts import AppReadiness
from pdkernel.render.files import FileChange
from tests.render.golden_files import assert_golden
from tests.render.reading import Page

EVIL = "<b>bold</b></script>\" onclick='x'\x1b[2J"
APPS = (
    AppReadiness("slack", ("send",), account_id="apn_0000001", account_name="Ada's Slack"),
    AppReadiness(
        "github", ("check", "build"), fix="Connect one: pdkernel accounts add --external-user ada --app github"
    ),
    AppReadiness("google_sheets", ("log",), owner="own", account_id="apn_2", healthy=False, fix="Connect it again."),
)
DIFF = "--- a/workflow.yaml\n+++ b/workflow.yaml\n@@ -1,3 +1,3 @@\n org_id: o_1\n-name: Old\n+name: New\n steps:\n"
FILES = (
    FileChange("workflow.yaml", "changed", DIFF),
    FileChange("check/entry.py", "new", "--- /dev/null\n+++ b/check/entry.py\n+def handler(pd):\n+    return 1\n"),
    FileChange("send/entry.js", "unchanged"),
    FileChange("README.md", "left alone"),
)
CHECKLIST = ("Set the environment variable CHANNEL in the workflow's settings.", "Choose OAuth for the trigger.")


@pytest.mark.parametrize("form", ["txt", "html"])
def test_accounts_are_as_they_were_looked_at(form: str) -> None:
    """Each app says whether its account is there, which steps need it, and what to do if not."""
    draw = accounts.render_text if form == "txt" else accounts.render_html

    assert_golden(f"accounts.{form}", draw(APPS, external_user="ada", environment="development"))


@pytest.mark.parametrize("form", ["txt", "html"])
def test_files_are_as_they_were_looked_at(form: str) -> None:
    """Each file says what became of it, with its diff, and what is left to do by hand."""
    draw = files.render_text if form == "txt" else files.render_html

    assert_golden(
        f"files.{form}", draw("build/open-issue", FILES, checklist=CHECKLIST, note="Pins are ignored: build.")
    )


def test_nothing_to_connect() -> None:
    """A user with every account, and a workflow that needs none, are told so."""
    ready = accounts.render_text(APPS[:1], external_user="ada", environment="production")
    none = accounts.render_text([], external_user=None, environment="development")

    assert ready.startswith("External user ada, production: every account is connected.\n")
    assert none == "No external user, development: no step needs an account.\n"


def test_a_long_diff_says_how_much_is_not_shown() -> None:
    """Of a very long diff the beginning is shown."""
    change = FileChange("a/entry.py", "changed", "".join(f"+line {number}\n" for number in range(1000)))

    drawn = files.render_html("build", [change])

    assert "… 700 lines more not shown" in Page(drawn).text


@pytest.mark.parametrize(
    ("draw", "arguments"),
    [
        (accounts.render_html, {"apps": [AppReadiness(EVIL, (EVIL,), account_name=EVIL, fix=EVIL)], "external_user": EVIL, "environment": EVIL}),
        (accounts.render_html, {"apps": [AppReadiness(EVIL, (EVIL,), account_id=EVIL, account_name=EVIL)], "external_user": EVIL, "environment": EVIL}),
        (files.render_html, {"folder": EVIL, "files": [FileChange(EVIL, "new", EVIL)], "checklist": [EVIL], "note": EVIL}),
    ],
)  # fmt: skip
def test_markup_in_any_field_is_shown_as_text(draw: Callable[..., str], arguments: dict[str, Any]) -> None:
    """A field that holds markup, quotes or control characters is shown and does nothing."""
    drawn = draw(**arguments)

    assert "<b>bold</b></script>" in Page(drawn).text
    assert "\x1b" not in drawn

"""The readiness of accounts, in text and in HTML."""

from __future__ import annotations

import pytest

from pdkernel.operations.readiness import app_accounts as accounts
from pdkernel.operations.readiness.app_accounts import AppReadiness
from tests.render.reading import EVIL, Page, assert_view

APPS = (
    AppReadiness("slack", ("send",), account_id="apn_0000001", account_name="Ada's Slack"),
    AppReadiness(
        "github", ("check", "build"), fix="Connect one: pdkernel accounts add --external-user ada --app github"
    ),
    AppReadiness("google_sheets", ("log",), owner="own", account_id="apn_2", healthy=False, fix="Connect it again."),
)


@pytest.mark.parametrize("form", ["txt", "html"])
def test_accounts_match_the_golden_file(form: str) -> None:
    """Each app has its account or a fix, and the steps that need the account."""
    draw = accounts.render_text if form == "txt" else accounts.render_html

    assert_view(f"accounts.{form}", draw(APPS, external_user="ada", environment="development"))


def test_no_missing_account_is_reported() -> None:
    """The text reports that a user has every account, and that a workflow needs none."""
    ready = accounts.render_text(APPS[:1], external_user="ada", environment="production")
    none = accounts.render_text([], external_user=None, environment="development")

    assert ready.startswith("External user ada, production: every account is connected.\n")
    assert none == "No external user, development: no step needs an account.\n"


@pytest.mark.parametrize("account_id", [None, EVIL])
def test_markup_in_a_field_is_shown_as_text(account_id: str | None) -> None:
    """Markup, quotes and control characters in a field are escaped."""
    app = AppReadiness(EVIL, (EVIL,), account_id=account_id, account_name=EVIL, fix="" if account_id else EVIL)

    drawn = accounts.render_html([app], external_user=EVIL, environment=EVIL)

    assert "<b>bold</b></script>" in Page(drawn).text
    assert "\x1b" not in drawn

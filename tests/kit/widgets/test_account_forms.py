"""A credential that was typed into a form is only in the directory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pdkernel.accounts import LocalDirectory
from pdkernel.accounts.apps import register_app
from pdkernel.common.clock import ManualClock
from pdkernel.common.identity import Account, Environment
from pdkernel.kit.session import Session
from pdkernel.kit.widgets import UserPicker
from pdkernel.kit.widgets.account_forms import AppRow, ConnectForm, format_account
from pdkernel.kit.widgets.components import close_tree
from tests.kit.widgets.conftest import Timers
from tests.kit.widgets.front_end import enter, everything_in_state, press, screen, secrets, type_into

TOKEN = "xoxb-planted-token"


def test_after_connecting(slack_picker: UserPicker, session: Session, tmp_path: Path) -> None:
    """After connecting, the token is in no widget's state, repr, message or file; the directory has it."""
    session.choose_user("ada")
    type_into(secrets(slack_picker)[0], TOKEN)

    press(slack_picker, "Connect")

    account = session.directory.newest_account("ada", "development", "slack")
    assert account is not None
    assert session.directory.credentials(account.id)["oauth_access_token"] == TOKEN
    seen = [
        everything_in_state(),
        repr(session),
        repr(slack_picker),
        screen(slack_picker),
        slack_picker.saved_output.html,
    ]
    assert TOKEN not in "".join([*seen, repr(account), repr(session.directory)])
    assert all(TOKEN.encode() not in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


def test_while_typing(slack_picker: UserPicker, session: Session) -> None:
    """A token that is typed and not connected is in no trait, state or repr."""
    session.choose_user("ada")

    type_into(secrets(slack_picker)[0], TOKEN)

    assert secrets(slack_picker)[0].has_value
    assert secrets(slack_picker)[0].value == ""
    assert TOKEN not in everything_in_state() + repr(slack_picker)


@pytest.mark.parametrize("user", ["a" * 300, "ada"])
def test_after_a_refusal(slack_picker: UserPicker, session: Session, user: str) -> None:
    """If the account is refused, the token is discarded and is not in the message."""
    form = ConnectForm("not a slug", lambda: None)
    form.set_user(session.directory, user, "development")
    type_into(form._rows[0].secret, TOKEN)

    press(form.view, "Connect")

    assert "has at most 250" in screen(form.view) or "not an app's slug" in screen(form.view)
    assert not form._rows[0].secret.has_value
    assert TOKEN not in everything_in_state()


class FailingDirectory(LocalDirectory):
    """A directory whose error contains the credentials."""

    def add_account(self, *, credentials: Mapping[str, str], **_: Any) -> Account:
        """Raise the error."""
        raise ValueError(f"cannot store {dict(credentials)}")


def test_after_an_unexpected_error(session: Session) -> None:
    """After an unexpected error of the store, the message does not contain the error's text."""
    form = ConnectForm("slack", lambda: None)
    form.set_user(FailingDirectory(session.project), "ada", "development")
    type_into(form._rows[0].secret, TOKEN)

    press(form.view, "Connect")

    assert "Cannot connect the account: ValueError." in screen(form.view)
    assert TOKEN not in everything_in_state()


def test_every_field_is_cleared(session: Session) -> None:
    """One blank field does not leave a token in another field."""
    form = ConnectForm("slack", lambda: None)
    form.set_user(session.directory, "ada", "development")
    press(form.view, "Add a field")
    type_into(form._rows[1].name, "other")
    type_into(form._rows[1].secret, TOKEN)

    press(form.view, "Connect")

    assert not any(row.secret.has_value for row in form._rows)
    assert "Type all values again" in screen(form.view)


@pytest.mark.parametrize(("late_s", "found"), [(0.5, 1), (2.0, 0)])
def test_typed_text_may_arrive_after_the_click(session: Session, late_s: float, found: int) -> None:
    """On a busy machine a click may arrive before the text: the text counts for a second, and then requires another click."""
    clock = ManualClock()
    form = ConnectForm("slack", lambda: None, monotonic=clock.monotonic)
    form.set_user(session.directory, "ada", "development")

    press(form.view, "Connect")
    clock.advance(late_s)
    type_into(form._rows[0].secret, TOKEN)

    assert len(session.directory.accounts(external_user_id="ada")) == found
    assert form._rows[0].secret.has_value is not bool(found)
    assert TOKEN not in everything_in_state()


def test_text_after_a_click_that_connected_waits_for_the_next(session: Session) -> None:
    """A value that arrives just after a click that had its value belongs to the next account."""
    form = ConnectForm("slack", lambda: None, monotonic=ManualClock().monotonic)
    form.set_user(session.directory, "ada", "development")
    type_into(form._rows[0].secret, TOKEN)

    press(form.view, "Connect")
    type_into(form._rows[0].secret, "xoxb-next-token")

    (account,) = session.directory.accounts(external_user_id="ada")
    assert session.directory.credentials(account.id) == {"oauth_access_token": TOKEN}
    assert form._rows[0].secret.has_value


def test_one_late_value_of_several_does_not_connect(session: Session) -> None:
    """With several fields a late value waits for a click: the values of the others may still be missing."""
    form = ConnectForm("slack", lambda: None, monotonic=ManualClock().monotonic)
    form.set_user(session.directory, "ada", "development")
    press(form.view, "Add a field")
    type_into(form._rows[1].name, "other")

    press(form.view, "Connect")
    type_into(form._rows[0].secret, TOKEN)

    assert not session.directory.accounts()
    assert form._rows[0].secret.has_value


def test_another_field_has_the_next_credential_of_the_app(session: Session) -> None:
    """Each field that is added has the name of a credential of the app that no other field has, and at last none."""
    register_app(session.project, "my_crm", ["key", "region"])
    form = ConnectForm("my_crm", lambda: None)
    form.set_user(session.directory, "ada", "development")

    press(form.view, "Add a field")
    press(form.view, "Add a field")

    assert [row.name.value for row in form._rows] == ["key", "region", ""]


def test_enter_connects(session: Session, timers: Timers) -> None:
    """Enter in the value's field connects the account with the value, which the front end sends after the key."""
    form = ConnectForm("slack", lambda: None)
    form.set_user(session.directory, "ada", "production")
    type_into(form._rows[0].secret, "xoxb-replaced-token")

    enter(form._rows[0].secret)
    type_into(form._rows[0].secret, TOKEN)
    timers.ends[0]()

    (account,) = session.directory.accounts(external_user_id="ada")
    assert session.directory.credentials(account.id) == {"oauth_access_token": TOKEN}
    assert account.environment == "production"


def test_enter_connects_with_the_value_typed_before(session: Session, timers: Timers) -> None:
    """Enter in a field that has not changed connects the account once with the values that were typed before."""
    connected: list[int] = []
    form = ConnectForm("slack", lambda: connected.append(len(timers.ends)))
    form.set_user(session.directory, "ada", "development")
    type_into(form._rows[0].secret, TOKEN)

    enter(form._rows[0].name)
    enter(form._rows[0].name)
    early = len(session.directory.accounts())
    for end in timers.ends:
        end()

    assert (early, connected) == (0, [2])
    assert len(session.directory.accounts(external_user_id="ada")) == 1


@pytest.mark.parametrize(("user", "environment"), [("bob", "development"), ("ada", "production")])
def test_what_belongs_to_another_user_is_forgotten(
    session: Session, timers: Timers, user: str, environment: Environment
) -> None:
    """After another user or environment is chosen, no earlier Enter and no earlier value connects an account there."""
    form = ConnectForm("slack", lambda: None)
    form.set_user(session.directory, "ada", "development")
    type_into(form._rows[0].secret, "xoxb-of-another-user")
    enter(form._rows[0].secret)

    form.set_user(session.directory, user, environment)
    timers.ends[0]()
    early = form._rows[0].secret.has_value
    type_into(form._rows[0].secret, TOKEN)
    waiting = len(session.directory.accounts())
    press(form.view, "Connect")

    (account,) = session.directory.accounts()
    assert (early, waiting) == (False, 0)
    assert (account.external_user_id, account.environment) == (user, environment)
    assert session.directory.credentials(account.id) == {"oauth_access_token": TOKEN}


def test_the_state_of_an_account(session: Session) -> None:
    """A row names the steps that need the app, and reports a missing account, or whether the newest account works."""
    account = session.directory.add_account(app="slack", credentials={"token": TOKEN}, external_user_id="ada")
    broken = replace(account, healthy=False)
    seen = []
    for user, accounts in ((None, []), ("ada", []), ("ada", [account]), ("ada", [broken]), ("ada", [account, broken])):
        row = AppRow("slack", lambda: session.links, lambda: None)
        row.update(session.directory, user, "development", steps=["one", "two"], accounts=accounts)
        text = screen(row.view)
        seen.append((text.splitlines()[0], "Connect another" in text, "Connect" in text.splitlines()))
        close_tree(row.view)

    name = format_account(account)
    assert seen == [
        ("Slack: needed by one, two. Pick an external user.", False, False),
        ("Slack: needed by one, two. ada has no account yet. Connect an account:", False, True),
        (f"✓ Slack: needed by one, two. Uses {name}.", True, False),
        (f"Slack: needed by one, two. {name}: its credentials do not work.", True, False),
        (f"✓ Slack: needed by one, two. Uses {name}, the newest of 2.", True, False),
    ]

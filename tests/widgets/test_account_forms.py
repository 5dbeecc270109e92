"""No credential that went through a form is anywhere but in the directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pdkernel.clock import ManualClock
from pdkernel.connect import LocalDirectory
from pdkernel.identity import Account
from pdkernel.session import Session
from pdkernel.widgets import UserPicker
from pdkernel.widgets.account_forms import ConnectForm
from tests.widgets.front_end import everything_in_state, press, screen, secrets, type_into

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
    """Typed and not yet connected, the token is in no trait, state or repr."""
    session.choose_user("ada")

    type_into(secrets(slack_picker)[0], TOKEN)

    assert secrets(slack_picker)[0].has_value
    assert secrets(slack_picker)[0].value == ""
    assert TOKEN not in everything_in_state() + repr(slack_picker)


@pytest.mark.parametrize("user", ["a" * 300, "ada"])
def test_after_a_refusal(slack_picker: UserPicker, session: Session, user: str) -> None:
    """Where the account is refused, nothing is held any more and the message does not hold the token."""
    form = ConnectForm("not a slug", lambda: None)
    form.set_user(session.directory, user, "development")
    type_into(form._rows[0].secret, TOKEN)

    press(form.view, "Connect")

    assert "has at most 250" in screen(form.view) or "not an app's slug" in screen(form.view)
    assert not form._rows[0].secret.has_value
    assert TOKEN not in everything_in_state()


class FailingDirectory(LocalDirectory):
    """A directory that fails, its message holding what it was given."""

    def add_account(self, *, credentials: Mapping[str, str], **_: Any) -> Account:
        """Fail."""
        raise ValueError(f"cannot store {dict(credentials)}")


def test_after_a_fault_of_ours(session: Session) -> None:
    """After an unexpected error of the store, the message does not contain the error's text."""
    form = ConnectForm("slack", lambda: None)
    form.set_user(FailingDirectory(session.project), "ada", "development")
    type_into(form._rows[0].secret, TOKEN)

    press(form.view, "Connect")

    assert "Cannot connect the account: ValueError." in screen(form.view)
    assert TOKEN not in everything_in_state()


def test_every_field_is_taken(session: Session) -> None:
    """One blank field does not leave a token in another."""
    form = ConnectForm("slack", lambda: None)
    form.set_user(session.directory, "ada", "development")
    press(form.view, "Add a field")
    type_into(form._rows[1].name, "other")
    type_into(form._rows[1].secret, TOKEN)

    press(form.view, "Connect")

    assert not any(row.secret.has_value for row in form._rows)


@pytest.mark.parametrize(("late_s", "found"), [(0.5, 1), (2.0, 0)])
def test_what_was_typed_before_the_press_and_comes_after_it(session: Session, late_s: float, found: int) -> None:
    """On a busy machine a press may overtake the text: it counts as typed for a second, and then waits for a press."""
    clock = ManualClock()
    form = ConnectForm("slack", lambda: None, monotonic=clock.monotonic)
    form.set_user(session.directory, "ada", "development")

    press(form.view, "Connect")
    clock.advance(late_s)
    type_into(form._rows[0].secret, TOKEN)

    assert len(session.directory.accounts(external_user_id="ada")) == found
    assert form._rows[0].secret.has_value is not bool(found)
    assert TOKEN not in everything_in_state()

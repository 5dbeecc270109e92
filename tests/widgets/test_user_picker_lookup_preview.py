"""The picker's preview of another user's lookup, without a choice or a run."""

from __future__ import annotations

from collections.abc import Callable

from pdkernel.session import Session
from pdkernel.widgets import UserPicker
from tests.widgets.front_end import enter, pick, press, screen, type_into

TOKEN = "xoxb-planted-token"


def connect(session: Session, user: str, account_id: str) -> None:
    """Connect a slack account."""
    session.directory.add_account(
        app="slack", credentials={"oauth_access_token": TOKEN}, external_user_id=user, account_id=account_id
    )


def test_another_user(slack_picker: UserPicker, session: Session) -> None:
    """Each link of the lookup is shown, with the newest account marked; the choice stays and no step runs."""
    connect(session, "ada", "apn_first")
    connect(session, "ada", "apn_second")
    session.choose_user("grace")
    press(slack_picker, "What if …")
    type_into(slack_picker.lookup_preview.user, "ada")
    press(slack_picker, "Look up")

    said = screen(slack_picker)
    assert "For external user ada in development, every account is found. No code was run." in said
    assert "apn_second (ada, " in said
    assert "is the newest and is used; needed by send" in said
    assert "Older: apn_first" in said
    assert "%pduser ada --environment development --what-if" in said
    assert (session.external_user_id, session.last_execution) == ("grace", None)


def test_the_first_link_that_fails(slack_picker: UserPicker, session: Session) -> None:
    """For an unknown user of the other environment the preview shows Pipedream's message and a fix."""
    connect(session, "ada", "apn_first")
    session.choose_user("ada")
    press(slack_picker, "What if …")
    pick(slack_picker.lookup_preview.environment, "production")
    enter(slack_picker.lookup_preview.user)

    said = screen(slack_picker)
    assert "Pipedream Connect Error: No matching external user ID: ada in production" in said
    assert "'ada' exists in development" in said
    assert (slack_picker.environment.value, session.environment) == ("development", "development")


def test_a_caller_without_a_user(slack_picker: UserPicker) -> None:
    """An empty field previews a request without the header."""
    press(slack_picker, "What if …")
    press(slack_picker, "Look up")

    assert "no x-pd-external-user-id" in screen(slack_picker)


def test_the_preview_follows_the_accounts(slack_picker: UserPicker, session: Session) -> None:
    """The preview is updated after an account is connected."""
    press(slack_picker, "What if …")
    type_into(slack_picker.lookup_preview.user, "ada")
    press(slack_picker, "Look up")
    before = screen(slack_picker)
    connect(session, "ada", "apn_first")
    session.notify_accounts_changed()

    assert "the lookup fails" in before
    assert "every account is found" in screen(slack_picker)


def test_a_workflow_without_accounts(session: Session, make_picker: Callable[[], UserPicker]) -> None:
    """The preview reports that no account is needed."""
    session.record_cell("%%pdstep one\ndef handler(pd):\n    return 1\n", cell_id="a")
    picker = make_picker()
    press(picker, "What if …")
    press(picker, "Look up")

    assert "No step uses an external user's account" in screen(picker)

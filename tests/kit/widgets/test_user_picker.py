"""The form behind `%pduser`, and its search for users."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import ipywidgets as ipw
import pytest

from pdkernel.common.identity import MAX_FOUND_USERS
from pdkernel.event import Event
from pdkernel.kit.session import Session
from pdkernel.kit.widgets import UserPicker
from tests.accounts.upstream import Upstream
from tests.kit.widgets.front_end import NEEDS_SLACK, button, enter, pick, press, screen, secrets, type_into
from tests.many_users import add_failed_runs, add_users

TOKEN = "xoxb-planted-token"


@pytest.fixture
def ada(session: Session) -> str:
    """The id of an external user with a Slack account."""
    account = session.directory.add_account(
        app="slack", credentials={"oauth_access_token": TOKEN}, external_user_id="ada", name="Ada's workspace"
    )
    assert account.external_user_id is not None
    return account.external_user_id


def offered(picker: UserPicker) -> list[str]:
    """The users in the list, after the search has ended."""
    picker.wait()
    return [row.button.description for row in picker.search._rows.values()]


def test_no_user_at_first(picker: UserPicker, session: Session) -> None:
    """A new session runs without an external user, in development."""
    assert "external user: none" in screen(picker)
    assert picker.environment.value == "development"
    assert session.external_user_id is None
    assert picker.magic_line == "%pduser --clear --environment development"


def test_a_missing_own_account_is_shown(session: Session, make_picker: Callable[[], UserPicker]) -> None:
    """The form shows the command that adds a missing own account, and no button to connect."""
    session.record_cell("%%pdstep a --app slack=apn_own1\ndef handler(pd):\n    return 1\n", cell_id="a")

    picker = make_picker()
    missing = screen(picker)
    session.directory.add_account(
        app="slack", credentials={"oauth_access_token": TOKEN}, external_user_id=None, account_id="apn_own1"
    )
    session.notify_accounts_changed()

    assert "pdkernel accounts add --own --app slack --id apn_own1" in missing
    assert "no account of your own" not in screen(picker)


def test_users_of_the_environment_are_offered(
    session: Session, ada: str, make_picker: Callable[[], UserPicker]
) -> None:
    """The list offers the users of the picked environment."""
    session.directory.add_account(
        app="slack", credentials={"oauth_access_token": TOKEN}, external_user_id="bob", environment="production"
    )
    picker = make_picker()
    assert offered(picker) == ["ada"]

    pick(picker.environment, "production")

    assert offered(picker) == ["bob"]
    assert session.environment == "production"


def test_picking_a_user_chooses_the_user(session: Session, ada: str, make_picker: Callable[[], UserPicker]) -> None:
    """Steps run as the picked user."""
    picker = make_picker()
    picker.wait()

    press(picker, "ada")

    assert session.external_user_id == "ada"
    assert [button(picker, "ada").icon, "external user: ada\n" in f"{screen(picker)}\n"] == ["check", True]
    assert picker.magic_line == "%pduser ada --environment development"
    assert "%pduser ada --environment development" in screen(picker)


def test_picking_no_user(session: Session, ada: str, make_picker: Callable[[], UserPicker]) -> None:
    """The choice of a user can be cleared."""
    session.choose_user("ada")
    picker = make_picker()

    press(picker, "Run without a user")

    assert session.external_user_id is None
    assert "external user: none" in screen(picker)
    assert "Run without a user" not in screen(picker)


def test_new_user_by_button(picker: UserPicker, session: Session) -> None:
    """An unknown id can be chosen, and the form shows that it has no account yet."""
    type_into(picker.new_user, " carol ")

    press(picker, "Use")

    assert session.external_user_id == "carol"
    assert "external user: carol (no account yet)" in screen(picker)
    assert picker.new_user.value == ""
    assert "is created with their first account" in screen(picker)


def test_new_user_by_enter(picker: UserPicker, session: Session) -> None:
    """Enter in the field has the effect of the button; an id with a space is quoted in the line form."""
    type_into(picker.new_user, "carol c")

    enter(picker.new_user)

    assert session.external_user_id == "carol c"
    assert picker.magic_line == "%pduser 'carol c' --environment development"


def test_a_blank_id_is_refused(picker: UserPicker, session: Session) -> None:
    """A blank id is refused in the form, until the user's next action."""
    press(picker, "Use")
    refused = (session.external_user_id, "cannot be blank" in screen(picker))
    type_into(picker.new_user, "carol")
    press(picker, "Use")

    assert refused == (None, True)
    assert "cannot be blank" not in screen(picker)


def test_markup_in_an_id_is_text(slack_picker: UserPicker, session: Session) -> None:
    """An id that looks like markup is shown as text."""
    session.choose_user("<img src=x>")

    assert all(
        "<img src=x" not in getattr(each, "value", "") for each in slack_picker._apps.children[0].children[0].children
    )
    assert "<img" not in slack_picker.saved_output.html


def test_follows_the_session(picker: UserPicker, session: Session, ada: str) -> None:
    """A choice made elsewhere is shown, and causes no further choice."""
    users = []
    session.add_listener(lambda: users.append(session.external_user_id))

    session.choose_user("ada", "production")

    assert "external user: ada " in screen(picker)
    assert picker.environment.value == "production"
    assert users == ["ada"]


def test_one_choice_is_one_change(session: Session, ada: str, make_picker: Callable[[], UserPicker]) -> None:
    """A pick calls the listeners once, regardless of the number of forms."""
    picker = make_picker()
    make_picker()
    picker.wait()
    users = []
    session.add_listener(lambda: users.append(session.external_user_id))

    press(picker, "ada")

    assert users == ["ada"]


def test_closed_form_does_not_follow(picker: UserPicker, session: Session) -> None:
    """The session releases a closed form."""
    picker.close()

    session.choose_user("ada")

    assert "external user: none" in picker._chosen.value


def test_a_missing_account_is_shown(slack_picker: UserPicker, session: Session) -> None:
    """An app without an account is shown with its steps, fields and a command, whatever other accounts the user has."""
    session.directory.add_account(app="github", credentials={"k": "v"}, external_user_id="ada")
    session.choose_user("ada")

    seen = screen(slack_picker)
    assert "Slack: needed by send. ada has no account yet." in seen
    assert "pdkernel accounts add --external-user ada --app slack --credential oauth_access_token" in seen
    assert len(secrets(slack_picker)) == 1


def test_no_fields_without_a_user(slack_picker: UserPicker) -> None:
    """Without an external user there are no fields to connect an account."""
    assert "Slack: needed by send. Pick an external user." in screen(slack_picker)
    assert "Connect with Link" not in screen(slack_picker)
    assert secrets(slack_picker) == []


def test_rows_follow_the_steps(picker: UserPicker, session: Session) -> None:
    """A new cell adds its app's row, and a deleted cell removes the row."""
    session.choose_user("ada")
    session.record_cell(NEEDS_SLACK, cell_id="cell-1")
    with_step = screen(picker)

    session.remove_cells(["cell-1"])

    assert "Slack: needed by send" in with_step
    assert "Slack" not in screen(picker)


def test_connecting(slack_picker: UserPicker, session: Session, make_picker: Callable[[], UserPicker]) -> None:
    """Typing a credential and pressing Connect connects the account, and every form shows it."""
    session.choose_user("ada")
    other = make_picker()
    type_into(secrets(slack_picker)[0], TOKEN)

    press(slack_picker, "Connect")

    account = session.directory.newest_account("ada", "development", "slack")
    assert account is not None
    assert session.directory.credentials(account.id)["oauth_access_token"] == TOKEN
    assert f"Uses {account.id} (ada)." in screen(slack_picker)
    assert f"Uses {account.id} (ada)." in screen(other)
    assert "external user: ada\n" in screen(slack_picker)
    assert secrets(slack_picker) == []
    assert "typed" not in slack_picker._rows["slack"]._form._rows[0].secret.placeholder


def test_connecting_another(slack_picker: UserPicker, session: Session, ada: str) -> None:
    """A newer account can be connected beside an existing account."""
    session.choose_user("ada")
    press(slack_picker, "Connect another")
    type_into(secrets(slack_picker)[0], "xoxb-newer-token")

    press(slack_picker, "Connect")

    account = session.directory.newest_account("ada", "development", "slack")
    assert account is not None
    assert session.directory.credentials(account.id)["oauth_access_token"] == "xoxb-newer-token"


def test_more_fields(slack_picker: UserPicker, session: Session) -> None:
    """A field of another name can be added."""
    session.choose_user("ada")
    press(slack_picker, "Add a field")
    first, second = secrets(slack_picker)
    name = slack_picker._rows["slack"]._form._rows[1].name
    type_into(name, "bot_id")
    type_into(first, TOKEN)
    type_into(second, "B123")

    press(slack_picker, "Connect")

    account = session.directory.newest_account("ada", "development", "slack")
    assert account is not None
    assert dict(session.directory.credentials(account.id)) == {"oauth_access_token": TOKEN, "bot_id": "B123"}


def test_an_opened_form_stays(slack_picker: UserPicker, session: Session, ada: str) -> None:
    """The form of another account stays open after a change elsewhere, until another user is chosen."""
    session.choose_user("ada")
    press(slack_picker, "Connect another")
    session.choose_event(Event({"path": "/elsewhere"}))
    opened = len(secrets(slack_picker))

    session.choose_user("grace")
    session.choose_user("ada")

    assert (opened, len(secrets(slack_picker))) == (1, 0)


@pytest.mark.parametrize("blank", ["", "   "])
def test_a_blank_credential_is_refused(slack_picker: UserPicker, session: Session, blank: str) -> None:
    """A blank credential is not stored, and the form names its field."""
    session.choose_user("ada")
    type_into(secrets(slack_picker)[0], blank)

    press(slack_picker, "Connect")

    assert "The value of oauth_access_token is blank." in screen(slack_picker)
    assert session.directory.users("development") == []


def test_a_credential_requires_a_name(slack_picker: UserPicker, session: Session) -> None:
    """A credential without a name is refused."""
    session.choose_user("ada")
    type_into(slack_picker._rows["slack"]._form._rows[0].name, " ")
    type_into(secrets(slack_picker)[0], TOKEN)

    press(slack_picker, "Connect")

    assert "A credential has no name." in screen(slack_picker)


def test_a_duplicate_field_is_refused(slack_picker: UserPicker, session: Session) -> None:
    """Two credentials with the same name are refused."""
    session.choose_user("ada")
    press(slack_picker, "Add a field")
    type_into(slack_picker._rows["slack"]._form._rows[1].name, "oauth_access_token")
    for field in secrets(slack_picker):
        type_into(field, TOKEN)

    press(slack_picker, "Connect")

    assert "oauth_access_token is given twice" in screen(slack_picker)
    assert not any(field.has_value for field in secrets(slack_picker))


def test_a_typed_value_survives_other_changes(slack_picker: UserPicker, session: Session) -> None:
    """Typed text stays when something else changes."""
    session.choose_user("ada")
    field = secrets(slack_picker)[0]
    type_into(field, TOKEN)

    session.record_cell("%%pdstep other\ndef handler(pd):\n    pass\n", cell_id="cell-2")

    assert secrets(slack_picker) == [field]
    assert field.has_value


def test_removing_asks_once(slack_picker: UserPicker, session: Session, ada: str) -> None:
    """The second click removes an account; the form then reports the missing account."""
    session.choose_user("ada")
    account = session.directory.newest_account("ada", "development", "slack")
    assert account is not None

    press(slack_picker, "Remove")
    kept = session.directory.find_account(account.id)
    press(slack_picker, f"Remove {account.id}?")

    assert kept is not None
    assert session.directory.find_account(account.id) is None
    assert "ada has no account yet" in screen(slack_picker)


def test_all_accounts_are_listed(slack_picker: UserPicker, session: Session, ada: str) -> None:
    """Accounts of apps that no step needs are listed too, with their fields' names."""
    session.directory.add_account(app="github", credentials={"oauth_access_token": "ghp"}, external_user_id="ada")

    session.choose_user("ada")

    assert "GitHub · apn_" in screen(slack_picker)
    assert "oauth_access_token" in screen(slack_picker)
    assert "· newest" not in screen(slack_picker)  # the only account of its app
    session.directory.add_account(app="github", credentials={"oauth_access_token": "2"}, external_user_id="ada")
    session.notify_accounts_changed()
    assert screen(slack_picker).count("· newest") == 1


def test_an_invalid_workflow_is_reported(picker: UserPicker, session: Session) -> None:
    """If the cells are not a workflow that can run, the form reports it and remains usable."""
    session.record_cell(NEEDS_SLACK, cell_id=None)
    session.record_cell("%%pdworkflow\nsettings: {share_workers: sometimes}", cell_id="one")

    seen = screen(picker)
    session.choose_user("ada")

    assert "Cannot determine the accounts" in seen
    assert "external user: ada " in screen(picker)
    session.record_cell("%%pdworkflow\nname: Work", cell_id="one")
    assert "Cannot determine the accounts" not in screen(picker)


def test_closing_removes_every_widget(slack_picker: UserPicker, session: Session) -> None:
    """Closing a form leaves no widget of the form, and neither does an account that was removed from its list."""
    session.choose_user("ada")
    connect(session, "ada", "apn_first")
    session.notify_accounts_changed()
    slack_picker.wait()
    before = len(ipw.widgets.widget._instances)
    account = session.directory.add_account(app="other", credentials={"k": "v"}, external_user_id="ada")
    session.notify_accounts_changed()
    slack_picker.wait()
    session.directory.remove_account(account.id)
    session.notify_accounts_changed()
    slack_picker.wait()
    assert len(ipw.widgets.widget._instances) == before

    slack_picker.close()

    assert ipw.widgets.widget._instances == {}


# ── the preview of a lookup ─────────────────────────────────────────────────────────────────────────────


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
    type_into(slack_picker.lookup_preview.user, "an odd id")
    press(slack_picker, "Look up")
    assert "%pduser 'an odd id' --environment development --what-if" in screen(slack_picker)


def test_a_preview_for_an_invalid_id_is_refused(slack_picker: UserPicker, session: Session) -> None:
    """The preview of an id that no external user can have is an error, and the next preview replaces it."""
    connect(session, "ada", "apn_first")
    press(slack_picker, "What if …")
    type_into(slack_picker.lookup_preview.user, "a" * 300)
    press(slack_picker, "Look up")
    refused = screen(slack_picker)
    type_into(slack_picker.lookup_preview.user, "ada")
    press(slack_picker, "Look up")

    assert "250 characters" in refused
    assert "250 characters" not in screen(slack_picker)
    assert "every account is found" in screen(slack_picker)


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
    slack_picker.wait()

    assert "the lookup fails" in before
    assert "every account is found" in screen(slack_picker)


def test_a_workflow_without_accounts(session: Session, make_picker: Callable[[], UserPicker]) -> None:
    """The preview reports that no account is needed."""
    session.record_cell("%%pdstep one\ndef handler(pd):\n    return 1\n", cell_id="a")
    picker = make_picker()
    press(picker, "What if …")
    press(picker, "Look up")

    assert "No step uses an external user's account" in screen(picker)


# ── a real project ──────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def real_picker(upstream: Upstream, tmp_path: Path) -> Iterator[UserPicker]:
    """The form for a user with accounts in the real project."""
    session = Session(folder=tmp_path, environ={"PDKERNEL_EGRESS": "deny", **upstream.environ})
    session.choose_user("bob", "development")
    made = UserPicker(session)
    yield made
    made.close()
    session.close()


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"kind": "status", "status": 403}, "lacks a permission in the project"),
    ({"kind": "status", "status": 429, "headers": {"Retry-After": "17"}}, "Try again in 17 s."),
    ({"kind": "status", "status": 500}, "Pipedream reports a server error (500)."),
    ({"kind": "cut"}, "closed the connection too early"),
]


@pytest.mark.parametrize(("fault", "words"), FAULTS, ids=lambda each: each[:20] if isinstance(each, str) else "")
def test_a_failed_removal_is_reported(
    real_picker: UserPicker, upstream: Upstream, fault: dict[str, Any], words: str
) -> None:
    """An account that Pipedream does not remove stays in the form, with the reason."""
    upstream.set(fault={"method": "DELETE", **fault})

    real_picker.wait()
    press(real_picker, "Remove")
    press(real_picker, "Remove apn_keys?")

    assert words in screen(real_picker)
    assert "apn_keys" in screen(real_picker)


@pytest.fixture
def many(session: Session, make_picker: Callable[[], UserPicker]) -> UserPicker:
    """The picker of a workflow that needs Slack, in a project with 60 users; the run of one has failed."""
    add_users(session.project, 60)
    add_failed_runs(session.project, {"user-00041": "/failed"}, at=session.project.clock.now())
    session.record_cell(NEEDS_SLACK, cell_id="cell-1")
    picker = make_picker()
    picker.wait()
    return picker


def test_the_most_recently_active_users_are_offered(many: UserPicker) -> None:
    """At first the list has the users who were active last, and the number of the others."""
    assert offered(many) == ["user-00041", *(f"user-{number:05}" for number in range(MAX_FOUND_USERS - 1))]
    assert "40 more, type to narrow." in screen(many)


def test_typing_searches_ids_and_names(many: UserPicker) -> None:
    """The list has the users whose id or account name contains the typed text, in any case."""
    type_into(many.search.text, " r-0003")
    by_id = offered(many)
    type_into(many.search.text, "COMPANY 41")

    assert by_id == [f"user-0003{digit}" for digit in range(10)]
    assert offered(many) == ["user-00041"]
    assert "1 external user whose id or account name contains 'COMPANY 41'." in screen(many)
    type_into(many.search.text, "absent")
    assert offered(many) == []
    assert "There are no external users whose id or account name contains 'absent'" in screen(many)


def test_each_user_has_marks(many: UserPicker) -> None:
    """A user is ready, or lacks an account that the workflow needs; a failure of today is marked."""
    type_into(many.search.text, "41")
    offered(many)
    failed = screen(many)
    type_into(many.search.text, "0003")
    offered(many)

    assert "✗ missing Slack ! failed today" in failed
    assert (screen(many).count("✓ ready"), screen(many).count("✗ missing Slack")) == (8, 3)
    assert "Company 30 · Slack · active" in screen(many)


def test_marks_follow_the_accounts(many: UserPicker, session: Session) -> None:
    """A connected account changes the mark."""
    type_into(many.search.text, "user-00002")
    offered(many)
    before = screen(many)
    session.directory.add_account(app="slack", credentials={"k": "v"}, external_user_id="user-00002")
    session.notify_accounts_changed()
    many.wait()

    assert "✗ missing Slack" in before
    assert "✓ ready" in screen(many)


def test_the_failed_event_becomes_the_test_event(many: UserPicker, session: Session) -> None:
    """One click chooses the event of the failed run and its user; the results and the outbound policy stay."""
    policy = session.outbound_policy
    press(many, "Use the failed event")
    many.wait()

    assert session.event is not None
    assert (session.event.data["path"], session.event.data["body"]) == ("/failed", {"from": "user-00041"})
    assert (session.external_user_id, session.event_name) == ("user-00041", "run run-user-00041")
    assert session.outbound_policy == policy
    assert "%pdevent --run run-user-00041" in screen(many)
    assert button(many, "user-00041").icon == "check"


def test_a_failure_of_yesterday_is_not_marked(session: Session, make_picker: Callable[[], UserPicker]) -> None:
    """Only failures since midnight count."""
    add_users(session.project, 1)
    add_failed_runs(session.project, {"user-00000": "/"}, at=session.project.clock.now() - timedelta(days=1))
    picker = make_picker()

    assert offered(picker) == ["user-00000"]
    assert "failed today" not in screen(picker)


def test_a_button_stays_while_its_user_is_shown(many: UserPicker) -> None:
    """A search keeps the buttons of users that still match: a click that comes late cannot choose another user."""
    kept = button(many, "user-00001")
    gone = button(many, "user-00002")
    type_into(many.search.text, "user-00001")
    offered(many)

    assert button(many, "user-00001") is kept
    assert gone.comm is None


def test_enter_chooses_the_only_match(many: UserPicker, session: Session) -> None:
    """Enter chooses the user with exactly that id, or the only match; with several matches it does nothing."""
    type_into(many.search.text, "user")
    offered(many)
    enter(many.search.text)
    before = session.external_user_id
    type_into(many.search.text, "company 7")
    offered(many)
    enter(many.search.text)

    assert (before, session.external_user_id) == (None, "user-00007")


def test_enter_chooses_no_match_of_an_earlier_text(many: UserPicker, session: Session) -> None:
    """Enter chooses no user as long as the list shows the only match of what was typed before."""
    type_into(many.search.text, "company 7")
    offered(many)
    type_into(many.search.text, "company 8")

    enter(many.search.text)

    assert session.external_user_id is None


def test_markup_in_names_is_text(session: Session, make_picker: Callable[[], UserPicker]) -> None:
    """An account's name that looks like markup is shown as text."""
    session.directory.add_account(app="slack", credentials={"k": "v"}, external_user_id="ada", name="<img src=x>")
    picker = make_picker()
    offered(picker)

    assert "&lt;img src=x&gt;" in picker.search._rows["ada"].text.value
    assert "<img src=x" not in picker.search._rows["ada"].text.value


def test_closing_during_a_search_leaves_no_widget(session: Session) -> None:
    """A form that is closed while it searches leaves none of its widgets."""
    add_users(session.project, 30)
    before = set(ipw.widgets.widget._instances)
    picker = UserPicker(session)
    type_into(picker.search.text, "user")
    picker.close()
    picker.wait()

    assert set(ipw.widgets.widget._instances) == before


# ── a Connect project ────────────────────────────────────────────────────────────


@pytest.fixture
def connected(upstream: Upstream, tmp_path: Path) -> Iterator[Session]:
    """A session with a Connect project whose API does not answer yet."""
    session = Session(folder=tmp_path, environ={"PDKERNEL_EGRESS": "deny", **upstream.environ})
    session.choose_user("bob", "development")
    session.record_cell(NEEDS_SLACK, cell_id="cell-1")
    upstream.set(fault={"kind": "held"})
    yield session
    upstream.proceed.set()
    session.close()


def test_the_form_does_not_wait_for_pipedream(connected: Session, upstream: Upstream) -> None:
    """The form is there, and can choose a user, before Pipedream answers; then the users and their marks appear."""
    picker = UserPicker(connected)
    type_into(picker.search.text, "a")
    waiting = screen(picker)
    connected.choose_user("eve")
    upstream.set()
    upstream.proceed.set()
    type_into(picker.search.text, "ad")

    assert offered(picker) == ["ada"]
    assert "Searching ..." in waiting
    assert "Loading accounts ..." in waiting
    assert "✓ ready" in screen(picker)
    picker.close()

"""The search in the form behind `%pduser`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import ipywidgets as ipw
import pytest

from pdkernel.common.identity import MAX_FOUND_USERS
from pdkernel.kit.session import Session
from pdkernel.kit.widgets import UserPicker
from tests.accounts.upstream import Upstream
from tests.kit.widgets.front_end import NEEDS_SLACK, button, enter, press, screen, type_into
from tests.many_users import add_failed_runs, add_users


@pytest.fixture
def many(session: Session, make_picker: Callable[[], UserPicker]) -> UserPicker:
    """The picker of a workflow that needs Slack, in a project with 60 users; the run of one has failed."""
    add_users(session.project, 60)
    add_failed_runs(session.project, {"user-00041": "/failed"}, at=session.project.clock.now())
    session.record_cell(NEEDS_SLACK, cell_id="cell-1")
    picker = make_picker()
    picker.wait()
    return picker


def names(picker: UserPicker) -> list[str]:
    """The users in the list, after the search has ended."""
    picker.wait()
    return [row.button.description for row in picker.search._rows.values()]


def test_the_most_recently_active_users_are_offered(many: UserPicker) -> None:
    """At first the list has the users who were active last, and the number of the others."""
    assert names(many) == ["user-00041", *(f"user-{number:05}" for number in range(MAX_FOUND_USERS - 1))]
    assert "40 more, type to narrow." in screen(many)


def test_typing_searches_ids_and_names(many: UserPicker) -> None:
    """The list has the users whose id or account name contains the typed text, in any case."""
    type_into(many.search.text, " r-0003")
    by_id = names(many)
    type_into(many.search.text, "COMPANY 41")

    assert by_id == [f"user-0003{digit}" for digit in range(10)]
    assert names(many) == ["user-00041"]
    assert "1 external user whose id or account name contains 'COMPANY 41'." in screen(many)
    type_into(many.search.text, "absent")
    assert names(many) == []
    assert "There are no external users whose id or account name contains 'absent'" in screen(many)


def test_each_user_has_marks(many: UserPicker) -> None:
    """A user is ready, or lacks an account that the workflow needs; a failure of today is marked."""
    type_into(many.search.text, "41")
    names(many)
    failed = screen(many)
    type_into(many.search.text, "0003")
    names(many)

    assert "✗ missing Slack ! failed today" in failed
    assert (screen(many).count("✓ ready"), screen(many).count("✗ missing Slack")) == (8, 3)
    assert "Company 30 · Slack · active" in screen(many)


def test_marks_follow_the_accounts(many: UserPicker, session: Session) -> None:
    """A connected account changes the mark."""
    type_into(many.search.text, "user-00002")
    names(many)
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

    assert names(picker) == ["user-00000"]
    assert "failed today" not in screen(picker)


def test_a_button_stays_while_its_user_is_shown(many: UserPicker) -> None:
    """A search keeps the buttons of users that still match: a click that comes late cannot choose another user."""
    kept = button(many, "user-00001")
    gone = button(many, "user-00002")
    type_into(many.search.text, "user-00001")
    names(many)

    assert button(many, "user-00001") is kept
    assert gone.comm is None


def test_enter_chooses_the_only_match(many: UserPicker, session: Session) -> None:
    """Enter chooses the user with exactly that id, or the only match; with several matches it does nothing."""
    type_into(many.search.text, "user")
    names(many)
    enter(many.search.text)
    before = session.external_user_id
    type_into(many.search.text, "company 7")
    names(many)
    enter(many.search.text)

    assert (before, session.external_user_id) == (None, "user-00007")


def test_markup_in_names_is_text(session: Session, make_picker: Callable[[], UserPicker]) -> None:
    """An account's name that looks like markup is shown as text."""
    session.directory.add_account(app="slack", credentials={"k": "v"}, external_user_id="ada", name="<img src=x>")
    picker = make_picker()
    names(picker)

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

    assert names(picker) == ["ada"]
    assert "Searching ..." in waiting
    assert "Loading accounts ..." in waiting
    assert "✓ ready" in screen(picker)
    picker.close()

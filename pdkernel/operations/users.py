"""
External users and their accounts: the connection of an account, the search for users, and the view of those that it finds.

An entry of the search has marks (ready, missing an account, failed today), the names of the user's accounts, and when the user was last active.
The directory stores users and accounts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime

from pdkernel.accounts import LocalDirectory
from pdkernel.actions import Catalog
from pdkernel.common.blocking import run_blocking
from pdkernel.common.clock import Clock, format_iso
from pdkernel.common.encode import JsonStruct
from pdkernel.common.identity import (
    MAX_FOUND_USERS,
    Account,
    Directory,
    Environment,
    FoundUser,
    UserSearchResult,
    check_external_user_id,
)
from pdkernel.errors import RequestError, format_count
from pdkernel.journal import FailedRun, open_journal_reader
from pdkernel.model import Workflow
from pdkernel.operations.readiness import check_found_users
from pdkernel.operations.readiness.matrix import MatrixCell
from pdkernel.render import formatting
from pdkernel.render.apps import format_app_name
from pdkernel.render.markup import (
    CELL_STYLE,
    CONTAINER_STYLE,
    Html,
    RichOutput,
    Tone,
    escape_control_characters,
    join_lines,
    muted,
    pill,
    tag,
)
from pdkernel.storage import Project

TEST_ACCOUNT_NAME = "test account"
"""The display name of an account with made-up credentials."""


def connect_account(
    directory: Directory,
    app: str,
    credentials: Sequence[tuple[str, str]],
    *,
    external_user_id: str | None,
    environment: Environment,
    account_id: str | None = None,
    name: str | None = None,
) -> Account:
    """
    Connect an account of *app*; an external user is created with their first account.

    Args:
        directory: Users and accounts.
        app: The app's slug.
        credentials: Names and values as a person typed them.
        external_user_id: The owner, or None for an account of your own.
        environment: The environment of the owner.
        account_id: The account's id, or None for a new id.
        name: The display name, or None.

    Raises:
        RequestError: The owner's id or a credential is invalid. A message contains no value.
        AccountExistsError: *account_id* is taken.
    """
    if external_user_id is not None:
        check_external_user_id(external_user_id)
    _check_credentials(credentials)
    return directory.add_account(
        app=app,
        credentials=dict(credentials),
        external_user_id=external_user_id,
        environment=environment,
        account_id=account_id,
        name=name,
    )


def connect_test_account(
    directory: Directory, app: str, *, external_user_id: str, environment: Environment
) -> Account | None:
    """
    Connect an account of *app* with made-up credentials, which only a stand-in accepts.

    Returns:
        The account, or None if the external user has an account of *app* already.

    Raises:
        RequestError: The project is a real one, whose accounts are at Pipedream, or the external user's id is invalid.
    """
    check_external_user_id(external_user_id)
    if not isinstance(directory, LocalDirectory):
        raise RequestError(
            "A test account is for a local project, and the accounts of this project are at Pipedream.",
            fix="Connect an account in the form of %pduser.",
        )
    if directory.newest_account(external_user_id, environment, app) is not None:
        return None
    names = directory.credential_fields(app) or ("api_key",)
    return directory.add_account(
        app=app,
        credentials={name: f"test-account-{name}" for name in names},
        external_user_id=external_user_id,
        environment=environment,
        name=TEST_ACCOUNT_NAME,
    )


def _check_credentials(credentials: Sequence[tuple[str, str]]) -> None:
    names = [name for name, _ in credentials]
    for name, value in credentials:
        if not name:
            raise RequestError("A credential has no name.", fix="Name each credential, for example api_key.")
        if names.count(name) > 1:
            raise RequestError(f"The credential {name} is given twice.", fix="Give each credential once.")
        if not value.strip():
            raise RequestError(f"The value of {name} is blank.", fix="Give a value that is not blank.")


MAX_NAMES = 2
"""Names of accounts that an entry shows."""
_MAX_NAME_CHARACTERS = 40
_MAX_APPS = 4


async def search_users(
    project: Project,
    directory: Directory,
    *,
    environment: Environment,
    text: str = "",
    limit: int = MAX_FOUND_USERS,
    workflow: Workflow | None = None,
    catalog: Catalog | None = None,
    report: Callable[[UserList], None] | None = None,
) -> UserList:
    """
    Search the external users whose id, or the name of one of whose accounts, contains *text*; most recently active first.

    Args:
        project: The local project, with the recorded runs.
        directory: Users and accounts.
        environment: The users' environment.
        text: The text, in which case does not count; empty for every user.
        limit: The most users to return.
        workflow: The workflow whose accounts the marks are about; None for no such mark.
        catalog: Pre-built actions of the project; required with *workflow*.
        report: Receives lists that are not complete yet, in another thread.

    Raises:
        PdkernelError: The project or Pipedream cannot be read.
    """
    with closing(await run_blocking(open_journal_reader, project)) as reader:
        last_runs = await reader.last_runs(environment)

        def report_incomplete(found: UserSearchResult) -> None:
            if report is not None:
                report(_build_list(found, text, environment, {}, {}))

        found = await run_blocking(
            lambda: directory.search_users(
                environment, text, limit=limit, last_runs=last_runs, report=report and report_incomplete
            )
        )
        users = [each.external_id for each in found.users]
        failures = await reader.newest_failures(users, environment, since=start_of_today(project.clock))
    cells: Mapping[str, MatrixCell] = {}
    if workflow is not None and catalog is not None:
        checked, known = workflow, catalog
        cells = await run_blocking(
            lambda: check_found_users(checked, found.users, directory=directory, catalog=known, environment=environment)
        )
    return _build_list(found, text, environment, failures, cells)


def start_of_today(clock: Clock) -> datetime:
    """Return the last midnight of this machine's time zone."""
    return clock.now().astimezone().replace(hour=0, minute=0, second=0, microsecond=0)


def _build_list(
    found: UserSearchResult,
    text: str,
    environment: Environment,
    failures: Mapping[str, FailedRun],
    cells: Mapping[str, MatrixCell],
) -> UserList:
    entries = (_build_entry(each, failures.get(each.external_id), cells.get(each.external_id)) for each in found.users)
    return UserList(tuple(entries), text.strip(), environment, found.more, found.progress)


def _build_entry(found: FoundUser, failure: FailedRun | None, cell: MatrixCell | None) -> UserEntry:
    accounts = found.accounts or ()
    return UserEntry(
        external_user_id=found.external_id,
        environment=found.user.environment,
        created_at=format_iso(found.user.created_at),
        active_at=format_iso(found.active_at),
        apps=None if found.accounts is None else tuple(dict.fromkeys(each.app for each in accounts)),
        names=tuple(dict.fromkeys(each.name for each in accounts if each.name and each.name != found.external_id)),
        accounts=len(accounts),
        readiness=cell,
        failure=None if failure is None else UserFailure(failure.id, failure.workflow, format_iso(failure.started_at)),
    )


@dataclass(frozen=True, slots=True)
class Mark:
    """A short statement about a user, with a symbol, so that it does not depend on its colour."""

    text: str
    tone: Tone


class UserFailure(JsonStruct, frozen=True):
    """The newest failed run of a user today."""

    run_id: str
    workflow: str
    started_at: str


class UserEntry(JsonStruct, frozen=True):
    """
    An external user that a search has found.

    Attributes:
        external_user_id: The user's id.
        environment: The user's environment.
        created_at: When the user was created.
        active_at: When the user last had a run, or connected an account.
        apps: Apps of the user's accounts; None while they are not known.
        names: Names of the user's accounts that differ from the id.
        accounts: The number of accounts.
        readiness: Whether a workflow could run for the user; None if no workflow was checked, or the accounts are not known yet.
        failure: The newest failed run today, or None.
    """

    external_user_id: str
    environment: str
    created_at: str
    active_at: str
    apps: tuple[str, ...] | None
    names: tuple[str, ...] = ()
    accounts: int = 0
    readiness: MatrixCell | None = None
    failure: UserFailure | None = None

    @property
    def marks(self) -> Sequence[Mark]:
        """The marks: readiness, and a failure today."""
        marks = []
        cell = self.readiness
        if cell is not None:
            is_ready = cell.state != "error" and not cell.unhealthy
            tone: Tone = "good" if is_ready else "bad" if cell.state == "error" else "warn"
            marks.append(Mark(f"{'✓' if is_ready else '✗'} {cell.label}", tone))
        elif self.apps is None:
            marks.append(Mark("… checking accounts", "quiet"))
        if self.failure is not None:
            marks.append(Mark("! failed today", "bad"))
        return marks

    def describe(self, now: datetime) -> str:
        """Return the names of the user's accounts, their apps, and when the user was last active."""
        shown = [formatting.truncate_line(name, _MAX_NAME_CHARACTERS) for name in self.names[:MAX_NAMES]]
        apps = [format_app_name(app) for app in (self.apps or ())[:_MAX_APPS]]
        more = len(self.apps or ()) - len(apps)
        parts = [", ".join(shown), ", ".join(apps) + (f" and {more} more" if more else "")]
        if self.apps == ():
            parts.append("no accounts")
        return " · ".join(part for part in (*parts, f"active {_format_age(self.active_at, now)}") if part)

    def json_form(self) -> object:
        """Return the fields; `accounts` is the number of accounts."""
        return {
            "external_user_id": self.external_user_id,
            "environment": self.environment,
            "created_at": self.created_at,
            "active_at": self.active_at,
            "accounts": self.accounts,
            "apps": self.apps or (),
            "failed_run": self.failure.run_id if self.failure else None,
        }


class UserList(JsonStruct, frozen=True):
    """
    The external users that a search has found.

    Attributes:
        entries: The users, most recently active first.
        search: The text that was searched for.
        environment: The users' environment.
        more: How many further users match.
        progress: What is still being searched; empty at the end.
    """

    entries: tuple[UserEntry, ...]
    search: str
    environment: str
    more: int = 0
    progress: str = ""

    @property
    def summary(self) -> str:
        """How many users are shown, and how to find the others."""
        if self.progress:
            return self.progress
        matching = f" whose id or account name contains {self.search!r}" if self.search else ""
        if not self.entries:
            return f"There are no external users{matching} in {self.environment}."
        if self.more:
            return f"{self.more:,} more, type to narrow."
        return f"{format_count(len(self.entries), 'external user')}{matching}."


def format_entry(entry: UserEntry, *, shows_names: bool) -> str:
    """Return the user in one line of a terminal: id, environment, apps, marks, and with *shows_names* the names of accounts."""
    apps = ", ".join(sorted(entry.apps or ())) or "no accounts"
    parts = [entry.external_user_id, entry.environment, apps, *(mark.text for mark in entry.marks)]
    if shows_names and entry.names:
        parts.append(
            ", ".join(formatting.truncate_line(name, _MAX_NAME_CHARACTERS) for name in entry.names[:MAX_NAMES])
        )
    return "  ".join(parts)


def render_text(users: UserList, *, now: datetime, hint: str = "") -> str:
    """Render the users as text, a line for each; *hint* tells how to find the others."""
    width = max((len(_id(entry)) for entry in users.entries), default=0)
    lines = []
    for entry in users.entries:
        marks = "  ".join(mark.text for mark in entry.marks)
        lines.append("  ".join(part for part in (f"{_id(entry):<{width}}", marks, entry.describe(now)) if part))
    lines += _footer(users, hint)
    return escape_control_characters("".join(f"{line}\n" for line in lines))


def render_output(users: UserList, *, now: datetime, hint: str = "") -> RichOutput:
    """Return the users for a notebook."""
    rows = [
        tag(
            "tr",
            tag("th", _id(entry), style=CELL_STYLE),
            tag("td", render_marks(entry), style=CELL_STYLE),
            tag("td", muted(entry.describe(now)), style=CELL_STYLE),
        )
        for entry in users.entries
    ]
    table = tag("table", join_lines(rows), style="border-collapse:collapse;margin:4px 0") if rows else Html("")
    parts = [table, *(tag("div", line) for line in _footer(users, hint))]
    html = tag("div", join_lines(parts), style=CONTAINER_STYLE, class_="pd-view pd-users")
    return RichOutput(text=render_text(users, now=now, hint=hint), html=html)


def render_marks(entry: UserEntry) -> Html:
    """Return the marks of *entry* as HTML."""
    return Html(" ".join(pill(mark.text, mark.tone) for mark in entry.marks))


def _footer(users: UserList, hint: str) -> Iterator[str]:
    if users.more and hint:
        yield f"{users.more:,} more. {hint}"
    elif users.more or users.search or not users.entries:
        yield users.summary


def _id(entry: UserEntry) -> str:
    return formatting.truncate_line(entry.external_user_id, _MAX_NAME_CHARACTERS)


def _format_age(moment: str, now: datetime) -> str:
    seconds = (now - datetime.fromisoformat(moment)).total_seconds()
    if seconds < 60:
        return "just now"
    units = ((86_400, "day"), (3_600, "hour"), (60, "minute"))
    unit_s, unit = next(each for each in units if seconds >= each[0])
    return f"{format_count(int(seconds // unit_s), unit)} ago"

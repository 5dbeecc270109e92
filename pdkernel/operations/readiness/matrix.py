"""
The readiness of each step for each external user: the account lookup of a run, for all users and steps, and its table.

Finds app props without running code, and loads the accounts of all users from the directory at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from pdkernel.actions import Catalog
from pdkernel.common.encode import JsonStruct
from pdkernel.common.identity import Directory, Environment, FoundUser, fold_text
from pdkernel.common.lookup import Lookup
from pdkernel.engine.account_lookup import (
    BindingsByStep,
    DirectorySnapshot,
    LookupResult,
    RunIdentity,
    look_up_accounts,
    steps_by_external_user_app,
)
from pdkernel.errors import format_count
from pdkernel.language.analysis import UNKNOWN_APP
from pdkernel.model import Workflow
from pdkernel.render import formatting
from pdkernel.render.apps import format_app_name
from pdkernel.render.markup import (
    CELL_STYLE,
    Tone,
    breakable,
    escape_control_characters,
    join_lines,
    multiline,
    pill,
    scrolling_region,
    tag,
)

ALL_USERS = 10**9
"""A limit that no search reaches."""
CellState = Literal["ready", "proxy", "error"]
_ERROR_LABELS = {
    "external_user_required": "no user",
    "external_user_not_found": "no such user",
    "production_plan": "plan",
}
_TONES: dict[CellState, Tone] = {"ready": "good", "proxy": "busy", "error": "bad"}
_WORKFLOW_HEADING = "whole workflow"
MAX_SHOWN_ROWS = 50
"""External users that a view shows; the JSON form has all."""
_COUNTED_ROWS = 10
"""External users above which a view begins with the number of users for each result."""
_MAX_FOOTNOTES = 10


def build_matrix(
    workflow: Workflow,
    *,
    directory: Directory,
    catalog: Catalog,
    environment: Environment,
    users: Sequence[str] = (),
    test_users: Sequence[str] = (),
    search: str = "",
) -> ReadinessMatrix:
    """
    Build the readiness of each step, and of the whole workflow, for each user.

    Args:
        workflow: The workflow; disabled steps are left out.
        directory: Users and accounts of the project; the number of requests does not depend on the number of users.
        catalog: Pre-built actions of the project.
        environment: Environment of the users.
        users: External users; default: *test_users* and all users of the environment.
        test_users: The workflow's test users, which may not exist in the environment.
        search: Only users whose id, or the name of one of whose accounts, contains this text.

    Returns:
        A row for each user; without users, a row for a caller without an external user.
    """
    bindings = collect_app_bindings(workflow, catalog)
    found: Sequence[FoundUser] = ()
    chosen: Sequence[str] = users
    if search and not users:
        found = directory.search_users(environment, search, limit=ALL_USERS).users
        named = [user for user in test_users if fold_text(search) in fold_text(user)]
        chosen = (*named, *(each.external_id for each in found))
    elif not users:
        existing = directory.users(environment)
        found = [FoundUser(each, each.created_at, accounts=None) for each in existing]
        chosen = (*test_users, *(each.external_id for each in existing))
    chosen = list(dict.fromkeys(chosen))
    snapshot = DirectorySnapshot(directory, environment, chosen, steps_by_external_user_app(bindings), found=found)
    callers: Sequence[str | None] = chosen or ([] if search else [None])
    rows = [_row(bindings, RunIdentity(user, environment), snapshot) for user in callers]
    return ReadinessMatrix(workflow.name, environment, tuple(bindings), tuple(rows))


def check_found_users(
    workflow: Workflow,
    found: Sequence[FoundUser],
    *,
    directory: Directory,
    catalog: Catalog,
    environment: Environment,
) -> Mapping[str, MatrixCell]:
    """
    Check whether the whole *workflow* could run for users of a search; those whose accounts are not known are left out.

    Accounts of external users are not read again, so a cell does not show whether Connect withholds credentials.
    """
    bindings = collect_app_bindings(workflow, catalog)
    known = [each for each in found if each.accounts is not None]
    snapshot = DirectorySnapshot(directory, environment, (), (), found=known)
    callers = [RunIdentity(each.external_id, environment) for each in known]
    return {
        each.external_id: _cell("", look_up_accounts(bindings, caller, snapshot))
        for each, caller in zip(known, callers, strict=True)
    }


def preview_lookup(
    workflow: Workflow,
    *,
    directory: Directory,
    catalog: Catalog,
    environment: Environment,
    external_user_id: str | None,
) -> LookupResult:
    """
    How the accounts of *workflow* would be looked up for a caller who sends both headers.

    The `lookup` of the answer is None where no step uses an external user's account.
    """
    bindings = collect_app_bindings(workflow, catalog)
    users = () if external_user_id is None else (external_user_id,)
    snapshot = DirectorySnapshot(directory, environment, users, steps_by_external_user_app(bindings))
    as_sent = RunIdentity(external_user_id, environment, header=external_user_id, environment_header=environment)
    return look_up_accounts(bindings, as_sent, snapshot)


def collect_app_bindings(workflow: Workflow, catalog: Catalog) -> BindingsByStep:
    """Find the app props of each enabled step without running code; those of an unknown app are left out."""
    return {
        step.name: tuple(each for each in catalog.find_app_bindings(step) if each.app != UNKNOWN_APP)
        for step in workflow.steps
        if not step.disabled
    }


def _row(bindings: BindingsByStep, caller: RunIdentity, snapshot: DirectorySnapshot) -> MatrixRow:
    workflow_cell = _cell("", look_up_accounts(bindings, caller, snapshot))
    cells = tuple(_cell(step, look_up_accounts({step: apps}, caller, snapshot)) for step, apps in bindings.items())
    return MatrixRow(caller.external_user_id, workflow_cell, cells)


def _cell(step: str, found: LookupResult) -> MatrixCell:
    if found.error is not None:
        message, fix = found.error.message, found.error.fix
        return MatrixCell(
            step, "error", apps=_missing_apps(found.lookup), code=found.error.code, message=message, fix=fix
        )
    accounts = {account.id: account for account in found.accounts.values()}
    withheld = any(account.withheld for account in accounts.values())
    unhealthy = tuple(account.id for account in accounts.values() if not account.healthy)
    return MatrixCell(step, "proxy" if withheld else "ready", accounts=tuple(accounts), unhealthy=unhealthy)


def _missing_apps(lookup: Lookup | None) -> tuple[str, ...]:
    return tuple(app.app for app in lookup.apps if app.chosen is None) if lookup else ()


class MatrixCell(JsonStruct, frozen=True):
    """
    The readiness of one step for one user.

    Attributes:
        step: The step; the empty string for the whole workflow.
        state: `ready`, `proxy` (ready, with outbound calls through Connect's proxy) or `error`.
        accounts: Ids of the accounts that a run would use.
        unhealthy: Ids of accounts that are known not to work.
        apps: For an error, the apps without an account.
        code: For an error, its code.
        message: For an error, the platform's message.
        fix: For an error, how to correct it.
    """

    step: str
    state: CellState
    accounts: tuple[str, ...] = ()
    unhealthy: tuple[str, ...] = ()
    apps: tuple[str, ...] = ()
    code: str | None = None
    message: str = ""
    fix: str = ""

    def json_form(self) -> object:
        """Return `{"step", "state", "accounts", "unhealthy", "error"}`; the error is null or `{"code", "message", "fix"}`."""
        error = {"code": self.code, "message": self.message, "fix": self.fix} if self.state == "error" else None
        return {
            "step": self.step or None,
            "state": self.state,
            "accounts": self.accounts,
            "unhealthy": self.unhealthy,
            "error": error,
        }

    @property
    def label(self) -> str:
        """The text that the table shows."""
        if self.state == "proxy":
            return "ready by proxy"
        if self.state == "ready":
            return "not working" if self.unhealthy else "ready"
        if self.code == "account_not_found":
            return f"missing {' and '.join(map(format_app_name, self.apps))}"
        return _ERROR_LABELS.get(self.code or "", "own account")


class MatrixRow(JsonStruct, frozen=True):
    """The cells of one external user (None: a caller without a user): the whole workflow and each step."""

    external_user_id: str | None
    workflow_cell: MatrixCell
    cells: tuple[MatrixCell, ...]

    def json_form(self) -> object:
        """Return `{"external_user", "workflow", "steps"}`."""
        return {
            "external_user": self.external_user_id,
            "workflow": self.workflow_cell.json_form(),
            "steps": [cell.json_form() for cell in self.cells],
        }


class ReadinessMatrix(JsonStruct, frozen=True):
    """The readiness of each external user."""

    workflow: str
    environment: str
    steps: tuple[str, ...]
    rows: tuple[MatrixRow, ...]

    @property
    def counts(self) -> Mapping[str, int]:
        """The number of users for each label of the whole workflow, the most frequent first."""
        return dict(Counter(row.workflow_cell.label for row in self.rows).most_common())

    @property
    def shown_rows(self) -> Sequence[MatrixRow]:
        """The rows that a view shows: all, or `MAX_SHOWN_ROWS`, first those of users for whom the workflow cannot run."""
        if len(self.rows) <= MAX_SHOWN_ROWS:
            return self.rows
        return sorted(self.rows, key=lambda row: row.workflow_cell.state != "error")[:MAX_SHOWN_ROWS]

    def json_form(self) -> object:
        """Return `{"workflow", "environment", "steps", "counts", "users"}`, with all users."""
        return {
            "workflow": self.workflow,
            "environment": self.environment,
            "steps": self.steps,
            "counts": self.counts,
            "users": [row.json_form() for row in self.rows],
        }


def render_text(matrix: ReadinessMatrix) -> str:
    """Render the matrix as text: counts, a row for each shown user, and fixes for errors below."""
    heads = ["external user", _WORKFLOW_HEADING, *matrix.steps]
    rows = [[_user(row), *(cell.label for cell in (row.workflow_cell, *row.cells))] for row in matrix.shown_rows]
    table = [heads, *rows] if rows else []
    widths = [max(len(line[place]) for line in table) for place in range(len(heads))] if rows else []
    lines = _head_lines(matrix)
    lines += ["  " + "  ".join(f"{word:<{width}}" for word, width in zip(line, widths, strict=True)) for line in table]
    lines += [f"  {line}" for footnote in _footnotes(matrix) for line in ("", *footnote.split("\n"))]
    return escape_control_characters("".join(f"{line.rstrip()}\n" for line in lines))


def render_html(matrix: ReadinessMatrix) -> str:
    """Render the matrix as HTML, with the parts of `render_text`."""
    heads = [
        tag("th", breakable(head), style=CELL_STYLE) for head in ("external user", _WORKFLOW_HEADING, *matrix.steps)
    ]
    rows = [tag("tr", *heads)]
    for row in matrix.shown_rows:
        cells = [tag("td", pill(cell.label, _tone(cell)), style=CELL_STYLE) for cell in (row.workflow_cell, *row.cells)]
        rows.append(tag("tr", tag("th", _user(row), style=CELL_STYLE), *cells))
    title, *counts = _head_lines(matrix)
    parts = [tag("strong", title), *(tag("div", line) for line in counts)]
    parts += [tag("table", join_lines(rows))] if matrix.rows else []
    parts += [multiline(footnote, style="margin-top:4px") for footnote in _footnotes(matrix)]
    return tag("div", join_lines(parts), class_="pd-view pd-matrix", **scrolling_region("Readiness"))


def _head_lines(matrix: ReadinessMatrix) -> list[str]:
    """Return the title, and for many users the number of users with each result."""
    if len(matrix.rows) <= _COUNTED_ROWS:
        return [_title(matrix)]
    return [_title(matrix), f"{', '.join(f'{number:,} {label}' for label, number in matrix.counts.items())}."]


def _footnotes(matrix: ReadinessMatrix) -> Iterator[str]:
    """Yield each error of a whole run once, with its fix, at most `_MAX_FOOTNOTES`; and a note about users that are not shown."""
    failed = [row.workflow_cell for row in matrix.shown_rows if row.workflow_cell.state == "error"]
    texts = list(dict.fromkeys(f"{cell.message}\n{cell.fix}" for cell in failed))
    yield from texts[:_MAX_FOOTNOTES]
    if len(texts) > _MAX_FOOTNOTES:
        yield f"{format_count(len(texts) - _MAX_FOOTNOTES, 'further error')} of this kind."
    hidden = len(matrix.rows) - len(matrix.shown_rows)
    if hidden:
        yield f"{hidden:,} more external users are not shown. To find some of them, add --search TEXT."


def _title(matrix: ReadinessMatrix) -> str:
    ready = sum(row.workflow_cell.state != "error" for row in matrix.rows)
    if not matrix.rows:
        return f"{matrix.workflow}, {matrix.environment}: no external user matches. No code was run."
    if matrix.rows[0].external_user_id is None:
        return f"{matrix.workflow}, {matrix.environment}: there are no external users yet. No code was run."
    users = format_count(len(matrix.rows), "external user")
    return f"{matrix.workflow}, {matrix.environment}: {ready:,} of {users} can run it. No code was run."


def _user(row: MatrixRow) -> str:
    return "(no user)" if row.external_user_id is None else formatting.truncate_line(row.external_user_id, 40)


def _tone(cell: MatrixCell) -> Tone:
    return "warn" if cell.unhealthy else _TONES[cell.state]

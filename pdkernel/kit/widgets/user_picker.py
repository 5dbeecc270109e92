"""
The form behind `%pduser`: the external user that steps run for.

The form searches users by a part of an id or of an account's name, connects accounts, and previews the account lookup for
another user or environment.
"""

from __future__ import annotations

import asyncio
import html
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import ipywidgets as ipw
from ipywidgets.widgets.widget_string import HTMLStyle

from pdkernel.common.identity import ENVIRONMENTS, Account, Environment, check_external_user_id, parse_environment
from pdkernel.errors import DefinitionError, PdkernelError
from pdkernel.kit.session import Session
from pdkernel.kit.widgets.account_forms import AccountList, AppRow, format_account
from pdkernel.kit.widgets.components import (
    DESCRIPTION_STYLE,
    FIELD_LEFT_MARGIN,
    FIELD_MARGIN,
    ROW_LAYOUT,
    build_copyable_html,
    build_field_layout,
    build_field_row,
    build_line_output,
    close_tree,
    create_message,
    format_message_html,
    on_enter,
    press_on_enter,
    quote_magic_argument,
    set_children,
    set_value,
    set_visible,
    show_message,
    show_message_html,
)
from pdkernel.kit.widgets.form import LatestCall, SessionForm
from pdkernel.model import Workflow
from pdkernel.operations.readiness import check_own_accounts, preview_lookup
from pdkernel.operations.run_history import get_run
from pdkernel.operations.users import UserEntry, UserList, render_marks, search_users
from pdkernel.render import lookup
from pdkernel.render.apps import format_app_name
from pdkernel.render.markup import RichOutput

USE_FAILURE_LABEL = "Use the failed event"
TYPING_S = 0.03
"""Seconds without typing after which the local project is searched: keys that are held down do not start a search each."""
REMOTE_TYPING_S = 0.3
"""Seconds without typing after which Pipedream is asked."""


class UserSearchBox:
    """
    A field for a text, and a row for each of the most recently active external users that match.

    Args:
        session: The session with users, runs and the workflow of the marks; its choice does not change.
        choose: Called with the id of the user of a pressed button.
        use_failure: Called with the id of the failed run of a pressed button.
        changed: Called with the ids of the users that are shown, from another thread.
    """

    def __init__(
        self,
        session: Session,
        *,
        choose: Callable[[str], None],
        use_failure: Callable[[str], None],
        changed: Callable[[Sequence[str]], None],
    ) -> None:
        self._session = session
        self._choose = choose
        self._use_failure = use_failure
        self._changed = changed
        self._call = LatestCall()
        self._lock = threading.Lock()
        self._is_closed = False
        self._rows: dict[str, _UserRow] = {}
        self._parts = _RowParts()
        self.users: UserList | None = None
        self.environment: Environment = session.environment
        self.text = ipw.Text(
            description="search",
            placeholder="a part of the id, or of an account's name",
            tooltip="Find external users by their id, or by the name of one of their accounts",
            style=DESCRIPTION_STYLE,
            layout=build_field_layout(420, min_width_px=260),
        )
        self.text.observe(lambda _: self.start(delay_s=TYPING_S), "value")
        on_enter(self.text, self._enter)
        self.message = create_message()
        self._list = ipw.VBox(
            layout={
                "max_height": "272px",
                "overflow": "auto",
                "margin": f"0 0 0 {FIELD_LEFT_MARGIN}",
                "display": "none",
            }
        )
        below = ipw.VBox([self.message], layout={"margin": f"0 0 0 {FIELD_LEFT_MARGIN}"})
        self.view = ipw.VBox([build_field_row(self.text), self._list, below])

    def start(self, *, delay_s: float = 0.0) -> None:
        """Search in the background, after *delay_s* seconds without another search."""
        with self._session.directory.nonblocking() as quick:
            is_remote = quick is None
        if is_remote and delay_s:
            delay_s = REMOTE_TYPING_S
        if is_remote and self.users is None:
            show_message(self.message, "Searching ...")
        find = partial(self._find, str(self.text.value).strip(), self.environment)
        self._call.start(find, delay_s=delay_s, on_error=self._show_error)

    def wait(self, timeout_s: float) -> None:
        """Wait up to *timeout_s* seconds for the end of a search."""
        self._call.wait(timeout_s)

    def close(self) -> None:
        """Discard a search that has not ended, and close what rows share."""
        self._call.cancel()
        with self._lock:
            self._is_closed = True
            for row in self._rows.values():
                row.close()
            for each in vars(self._parts).values():
                each.close()

    def show_chosen(self, external_user_id: str | None) -> None:
        """Mark the row of the chosen user."""
        for user, row in list(self._rows.items()):
            row.set_chosen(is_chosen=user == external_user_id)

    def _find(self, text: str, environment: Environment, is_latest: Callable[[], bool]) -> None:
        session = self._session
        workflow = _find_workflow(session)
        found = asyncio.run(
            search_users(
                session.project,
                session.directory,
                environment=environment,
                text=text,
                workflow=workflow,
                catalog=None if workflow is None else session.catalog,
                report=lambda users: self._show(users) if is_latest() else None,
            )
        )
        if is_latest():
            self._show(found)

    def _show(self, users: UserList) -> None:
        now = self._session.project.clock.now()
        with self._lock:
            if self._is_closed:
                return
            gone = dict(self._rows)
            rows: dict[str, _UserRow] = {}
            for entry in users.entries:
                # a button belongs to one user as long as it exists: a click that comes late chooses the user on its label
                row = gone.pop(entry.external_user_id, None) or _UserRow(
                    entry.external_user_id, self._parts, self._choose, self._use_failure
                )
                row.update(entry, entry.describe(now))
                row.set_chosen(is_chosen=entry.external_user_id == self._session.external_user_id)
                rows[entry.external_user_id] = row
            self._rows, self.users = rows, users
            set_children(self._list, [row.view for row in rows.values()])
            set_visible(self._list, visible=bool(rows))
            show_message(self.message, users.summary)
            for row in gone.values():
                row.close()
        self._changed(list(rows))

    def _enter(self) -> None:
        """Choose the user with the typed id, or the only user that matches."""
        users, text = self.users, str(self.text.value).strip()
        if users is None or not text:
            return
        found = [entry.external_user_id for entry in users.entries]
        if text in found:
            self._choose(text)
        elif len(found) == 1 and not users.more and not users.progress and users.search == text:
            self._choose(found[0])

    def _show_error(self, text: str) -> None:
        show_message(self.message, text, kind="error")


class _RowParts:
    """Layouts and styles that all rows share: a front end creates each widget by a message."""

    def __init__(self) -> None:
        self.row = ipw.Layout(flex="0 0 auto", **ROW_LAYOUT)
        self.user = ipw.Layout(width="240px", max_width="calc(100% - 4px)")
        self.text = ipw.Layout(flex="1 1 260px", min_width="min(260px, calc(100% - 4px))")
        self.failure = ipw.Layout(width="auto")
        self.button_style = ipw.ButtonStyle()
        self.text_style = HTMLStyle()


class _UserRow:
    def __init__(
        self, user: str, parts: _RowParts, choose: Callable[[str], None], use_failure: Callable[[str], None]
    ) -> None:
        self._parts = parts
        self._use_failure = use_failure
        self._failures: dict[str, Any] = {}
        self.button = ipw.Button(
            description=user, tooltip=f"Run as {user}", layout=parts.user, style=parts.button_style
        )
        self.button.on_click(lambda _: choose(user))
        self.text = ipw.HTML(layout=parts.text, style=parts.text_style)
        self.view = ipw.HBox([self.button, self.text], layout=parts.row)

    def update(self, entry: UserEntry, description: str) -> None:
        """Show the marks of *entry*."""
        described = f'<small style="opacity:0.75;overflow-wrap:anywhere">{html.escape(description)}</small>'
        set_value(self.text, f'<div style="line-height:20px">{render_marks(entry)}{described}</div>')
        failure = entry.failure
        buttons = [] if failure is None else [self._failure_button(failure.run_id, failure.workflow)]
        set_children(self.view, [self.button, self.text, *buttons])

    def set_chosen(self, *, is_chosen: bool) -> None:
        """Show whether steps run as the user."""
        set_value(self.button, "check" if is_chosen else "", "icon")
        set_value(self.button, "primary" if is_chosen else "", "button_style")

    def close(self) -> None:
        """Close the widgets of the row, but not what rows share."""
        for each in (self.view, self.button, self.text, *self._failures.values()):
            each.close()

    def _failure_button(self, run_id: str, workflow: str) -> Any:
        if run_id not in self._failures:
            button = ipw.Button(
                description=USE_FAILURE_LABEL,
                tooltip=f"Use the event of the failed run of {workflow} as the test event: %pdevent --run {run_id}",
                layout=self._parts.failure,
                style=self._parts.button_style,
            )
            button.on_click(lambda _: self._use_failure(run_id))
            self._failures[run_id] = button
        return self._failures[run_id]


def _find_workflow(session: Session) -> Workflow | None:
    try:
        return session.workflow
    except PdkernelError:  # the form around the search shows it
        return None


ASK_LABEL = "What if …"
LOOKUP_LABEL = "Look up"
CLEAR_LABEL = "Run without a user"

_HINT = "An external user is created with their first account: choose the id here, then connect an account below."


class LookupPreview:
    """
    A preview of the account lookup for another external user or environment; hidden at first, runs no step code.

    Args:
        session: The session of the workflow; its choice does not change.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.user = ipw.Combobox(
            description="external user",
            placeholder="an id; empty for a request without a user",
            tooltip="The external user of the lookup; changes no choice and runs no step",
            style=DESCRIPTION_STYLE,
            layout=build_field_layout(420, min_width_px=260),
        )
        self.environment = ipw.Dropdown(
            options=ENVIRONMENTS, description="environment", style=DESCRIPTION_STYLE, layout=build_field_layout(300)
        )
        self._look = ipw.Button(
            description=LOOKUP_LABEL, tooltip="Explain how each account is found, or which part of the lookup fails"
        )
        self._look.on_click(lambda _: self.preview())
        press_on_enter(self.user, self._look)
        self._found = create_message()
        self._looked: tuple[str, str] | None = None
        self._fields = ipw.VBox(
            [
                build_field_row(self.user, self.environment, self._look),
                ipw.VBox([self._found], layout={"margin": FIELD_MARGIN}),
            ],
            layout={"display": "none"},
        )
        self._ask = ipw.Button(
            description=ASK_LABEL,
            tooltip="How would the accounts of another external user, or of the other environment, be looked up?",
            layout={"width": "auto"},
        )
        self._ask.on_click(lambda _: self._toggle())
        self.view = ipw.VBox([ipw.HBox([self._ask], layout=ROW_LAYOUT), self._fields])

    def set_users(self, users: Sequence[str]) -> None:
        """Set the suggested users, and repeat the last lookup."""
        if tuple(self.user.options) != tuple(users):
            self.user.options = tuple(users)
        if self._looked:
            self._explain(*self._looked)

    def preview(self) -> None:
        """Look up the accounts for the fields, and show the explanation."""
        self._looked = (self.user.value.strip(), self.environment.value)
        self._explain(*self._looked)

    def _explain(self, user: str, environment: str) -> None:
        try:
            found = preview_lookup(
                self._session.workflow,
                directory=self._session.directory,
                catalog=self._session.catalog,
                environment=parse_environment(environment),
                external_user_id=check_external_user_id(user) if user else None,
            )
        except PdkernelError as fault:
            show_message(self._found, str(fault), kind="error")
            return
        line = f"%pduser {f'{quote_magic_argument(user)} ' if user else ''}--environment {environment} --what-if"
        show_message_html(
            self._found,
            f"{lookup.render_output(found.lookup).html}<small>as a line: {build_copyable_html(line)}</small>",
        )

    def _toggle(self) -> None:
        hidden = self._fields.layout.display == "none"
        if hidden:
            set_value(self.user, self._session.external_user_id or "")
            set_value(self.environment, self._session.environment)
        set_visible(self._fields, visible=hidden)


@dataclass(frozen=True)
class _UserState:
    """
    What the form shows about the chosen user.

    Attributes:
        user: The user's id, or None.
        environment: The user's environment.
        accounts: The user's accounts, newest first; None while they are loaded.
        needed: Apps that steps need, with the names of these steps.
        problem: Why the needs are not known, or the missing accounts of your own.
    """

    user: str | None = None
    environment: Environment = "development"
    accounts: tuple[Account, ...] | None = None
    needed: Mapping[str, Sequence[str]] = field(default_factory=dict)
    problem: str = ""


class UserPicker(SessionForm):
    """
    The form that sets environment and external user, and connects the accounts that the steps need.

    Args:
        session: The session of the choice.
    """

    _title = "External user"

    def __init__(self, session: Session) -> None:
        self.environment = ipw.Dropdown(
            options=ENVIRONMENTS,
            description="environment",
            tooltip="The environment of the external user and their accounts",
            style=DESCRIPTION_STYLE,
            layout=build_field_layout(300),
        )
        self._chosen = ipw.HTML()
        self._clear_button = ipw.Button(
            description=CLEAR_LABEL, tooltip="Run steps without an external user", layout={"width": "auto"}
        )
        self.lookup_preview = LookupPreview(session)
        self.search = UserSearchBox(
            session,
            choose=lambda user: self._user_handler(partial(self._choose, user))(),
            use_failure=lambda run_id: self._user_handler(partial(self._use_failure, run_id))(),
            changed=self.lookup_preview.set_users,
        )
        self.new_user = ipw.Text(
            description="new user",
            placeholder="the user's id in your product",
            tooltip=_HINT,
            style=DESCRIPTION_STYLE,
            layout=build_field_layout(420, min_width_px=260),
        )
        self.use_new_button = ipw.Button(
            description="Use", tooltip="Run as this external user", layout={"width": "80px"}
        )
        self._rows: dict[str, AppRow] = {}
        self._apps = ipw.VBox()
        self._needs = create_message()
        self._accounts = AccountList(session.notify_accounts_changed, self._user_handler)
        self._state = _UserState()
        self._loader = LatestCall()
        self._notice = create_message()
        self._connect_handlers()
        super().__init__(
            session,
            [
                ipw.HBox([self.environment, self._chosen, self._clear_button], layout=ROW_LAYOUT),
                self.search.view,
                self._notice,
                build_field_row(self.new_user, self.use_new_button, ipw.HTML(format_message_html(_HINT))),
                self._needs,
                self._apps,
                self._accounts.view,
                self.lookup_preview.view,
            ],
        )

    @property
    def magic_line(self) -> str:
        """The magic line that makes the same choice."""
        user = self._session.external_user_id
        who = quote_magic_argument(user) if user is not None else "--clear"
        return f"%pduser {who} --environment {self._session.environment}"

    def wait(self, timeout_s: float = 60) -> None:
        """Wait up to *timeout_s* seconds for a search, and for accounts that are loaded in the background."""
        self._loader.wait(timeout_s)
        self.search.wait(timeout_s)

    def _connect_handlers(self) -> None:
        self.environment.observe(self._user_handler(self._choose_environment), "value")
        self._clear_button.on_click(self._user_handler(partial(self._choose, None)))
        self.use_new_button.on_click(self._user_handler(self._choose_new))
        press_on_enter(self.new_user, self.use_new_button)

    def _choose(self, user: str | None) -> None:
        show_message(self._notice, "")
        environment = parse_environment(self.environment.value)
        if (user, environment) != (self._session.external_user_id, self._session.environment):
            self._session.choose_user(user, environment)

    def _choose_environment(self) -> None:
        self._choose(self._session.external_user_id)

    def _choose_new(self) -> None:
        self._session.choose_user(self.new_user.value.strip(), parse_environment(self.environment.value))
        self.new_user.value = ""

    def _use_failure(self, run_id: str) -> None:
        session = self._session
        execution = session.call_engine(lambda _: get_run(session.project, run_id))
        session.choose_event_of_run(execution)
        line = build_copyable_html(f"%pdevent --run {run_id}")
        show_message_html(
            self._notice,
            f"The test event is now the event of the failed run {run_id}. As a line: {line}",
        )

    def _update_widgets(self) -> None:
        user, environment = self._session.external_user_id, self._session.environment
        set_value(self.environment, environment)
        if user != self._state.user or environment != self._state.environment:
            self._state = _UserState(user, environment)
        self.search.environment = environment
        self.search.start()
        self.search.show_chosen(user)
        with self._session.directory.nonblocking() as quick:
            if quick is not None:
                self._state = self._load_state(user, environment)
        if quick is None:  # Pipedream is asked in the background: neither the cell nor the kernel waits
            self._loader.start(partial(self._load_later, user, environment), on_error=self._show_load_error)
        self._show_state()
        self._show_line(self.magic_line)

    def _load_state(self, user: str | None, environment: Environment) -> _UserState:
        """Read what the form shows about *user*; may use the network."""
        session, directory = self._session, self._session.directory
        accounts = directory.accounts(external_user_id=user, environment=environment) if user is not None else ()
        try:
            needed, workflow = session.find_needed_apps(), session.workflow
        except DefinitionError as fault:
            problem = f"Cannot determine the accounts that the steps need: {fault}"
            return _UserState(user, environment, tuple(accounts), problem=problem)
        missing = [
            f"You have no account of your own for {format_app_name(row.app)}. {row.fix}"
            for row in check_own_accounts(workflow, directory=directory, catalog=session.catalog)
            if not row.is_ready
        ]
        return _UserState(user, environment, tuple(accounts), needed=needed, problem=" ".join(missing))

    def _load_later(self, user: str | None, environment: Environment, is_latest: Callable[[], bool]) -> None:
        state = self._load_state(user, environment)
        with self._filling():
            if is_latest() and not self._is_closed:
                self._state = state
                self._show_state()
                self._saved_output.update(self._build_saved_output())

    def _show_load_error(self, text: str) -> None:
        show_message(self._needs, text, kind="error")

    def _show_state(self) -> None:
        state = self._state
        user, accounts = state.user, state.accounts
        none_yet = " (no account yet)" if accounts == () else ""
        who = "none" if user is None else f"<strong>{html.escape(user)}</strong>{none_yet}"
        set_value(self._chosen, f'<span style="margin-left:8px">external user: {who}</span>')
        set_visible(self._clear_button, visible=user is not None)
        if accounts is None:
            show_message(self._needs, "Loading accounts ..." if user is not None else "")
            return
        if state.problem:
            show_message(self._needs, state.problem, kind="warn")
        else:
            show_message(self._needs, "" if state.needed else "None of the steps needs an external user's account.")
        self._fill_apps(user, state.environment, accounts, state.needed)
        self._accounts.update(self._session.directory, user, accounts)

    def _release(self) -> None:
        self.search.close()
        self._loader.cancel()

    def _fill_apps(
        self,
        user: str | None,
        environment: Environment,
        accounts: Sequence[Account],
        needed: Mapping[str, Sequence[str]],
    ) -> None:
        for app in [app for app in self._rows if app not in needed]:
            row = self._rows.pop(app)
            set_children(self._apps, [view for view in self._apps.children if view is not row.view])
            close_tree(row.view)
        for app, steps in needed.items():
            if app not in self._rows:
                self._rows[app] = AppRow(app, lambda: self._session.links, self._session.notify_accounts_changed)
            self._rows[app].update(
                self._session.directory,
                user,
                environment,
                steps=steps,
                accounts=[account for account in accounts if account.app == app],
            )
        set_children(self._apps, [self._rows[app].view for app in needed])

    def _build_saved_output(self) -> RichOutput:
        user, environment = self._session.external_user_id, self._session.environment
        if user is None:
            return build_line_output(f"Steps run without an external user, in {environment}.", self.magic_line)
        have = {format_app_name(app): self._format_app_account(app) for app in self._state.needed}
        accounts = f" Accounts: {', '.join(f'{app} {account}' for app, account in have.items())}." if have else ""
        fields = [("environment", environment), ("external user", user), *have.items()]
        return build_line_output(f"Steps run as {user} in {environment}.{accounts}", self.magic_line, fields)

    def _format_app_account(self, app: str) -> str:
        account = next((each for each in self._state.accounts or () if each.app == app), None)
        return format_account(account) if account else "MISSING"

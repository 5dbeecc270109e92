"""
The form behind `%pduser`: the external user that steps run for.

The form also connects accounts, and previews the account lookup for another user or environment.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import ipywidgets as ipw

from pdkernel.common.identity import ENVIRONMENTS, Account, Environment, check_external_user_id, parse_environment
from pdkernel.errors import DefinitionError, PdkernelError
from pdkernel.kit.session import Session
from pdkernel.kit.widgets.account_forms import AccountList, AppRow, format_account
from pdkernel.kit.widgets.background_run import LatestCall
from pdkernel.kit.widgets.components import (
    DESCRIPTION_STYLE,
    FIELD_MARGIN,
    ROW_LAYOUT,
    build_copyable_html,
    build_field_layout,
    build_field_row,
    close_tree,
    create_message,
    format_message_html,
    press_on_enter,
    quote_magic_argument,
    set_children,
    set_value,
    set_visible,
    show_message,
    show_message_html,
)
from pdkernel.kit.widgets.form import SessionForm
from pdkernel.kit.widgets.saved_output import build_line_output
from pdkernel.kit.widgets.user_search import UserSearchBox
from pdkernel.operations.readiness import check_own_accounts, preview_lookup
from pdkernel.operations.run_history import get_run
from pdkernel.render import lookup
from pdkernel.render.apps import format_app_name
from pdkernel.render.markup import RichOutput

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

"""
The form behind `%pduser`: the external user that steps run for.

The form also connects accounts, and previews the account lookup for another user or environment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ipywidgets as ipw

from pdkernel.errors import DefinitionError, PdkernelError
from pdkernel.identity import ENVIRONMENTS, Account, Environment, check_external_user_id, parse_environment
from pdkernel.readiness import check_own_accounts, preview_lookup
from pdkernel.render import lookup
from pdkernel.render.apps import format_app_name
from pdkernel.render.rich_output import RichOutput
from pdkernel.session import Session
from pdkernel.widgets.account_forms import AccountList, AppRow, format_account
from pdkernel.widgets.components import (
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
from pdkernel.widgets.form import SessionForm
from pdkernel.widgets.saved_output import build_line_output

ASK_LABEL = "What if …"
LOOKUP_LABEL = "Look up"
NO_USER = ""
"""The dropdown's value for no external user: an external user's id is never blank."""

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
        self.user = ipw.Dropdown(
            options=[("none", NO_USER)],
            value=NO_USER,
            description="external user",
            tooltip="The external user that steps run for",
            style=DESCRIPTION_STYLE,
            layout=build_field_layout(420),
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
        self.lookup_preview = LookupPreview(session)
        self._connect_handlers()
        super().__init__(
            session,
            [
                ipw.HBox([self.environment, self.user], layout=ROW_LAYOUT),
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

    def _connect_handlers(self) -> None:
        choose = self._user_handler(self._choose)
        self.environment.observe(choose, "value")
        self.user.observe(choose, "value")
        self.use_new_button.on_click(self._user_handler(self._choose_new))
        press_on_enter(self.new_user, self.use_new_button)

    def _choose(self) -> None:
        user = self.user.value or None
        environment = parse_environment(self.environment.value)
        if (user, environment) != (self._session.external_user_id, self._session.environment):
            self._session.choose_user(user, environment)

    def _choose_new(self) -> None:
        self._session.choose_user(self.new_user.value.strip(), parse_environment(self.environment.value))
        self.new_user.value = ""

    def _update_widgets(self) -> None:
        user, environment = self._session.external_user_id, self._session.environment
        directory = self._session.directory
        set_value(self.environment, environment)
        users = [known.external_id for known in directory.users(environment)]
        self._fill_users(user, users)
        self.lookup_preview.set_users(users)
        accounts = directory.accounts(external_user_id=user, environment=environment) if user is not None else ()
        self._fill_apps(user, environment, accounts)
        self._accounts.update(directory, user, accounts)
        self._show_line(self.magic_line)

    def _fill_users(self, chosen: str | None, known: Sequence[str]) -> None:
        options = [("none", NO_USER), *((user, user) for user in known)]
        if chosen is not None and chosen not in known:
            options.append((f"{chosen} (no account yet)", chosen))
        if list(self.user.options) != options:
            self.user.options = options
        set_value(self.user, chosen or NO_USER)

    def _fill_apps(self, user: str | None, environment: Environment, accounts: Sequence[Account]) -> None:
        needed = self._find_needed_apps()
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

    def _find_needed_apps(self) -> Mapping[str, Sequence[str]]:
        """Required apps and their steps; empty with a message if the draft is invalid."""
        try:
            needed, workflow = self._session.find_needed_apps(), self._session.workflow
        except DefinitionError as fault:
            show_message(self._needs, f"Cannot determine the accounts that the steps need: {fault}", kind="warn")
            return {}
        rows = check_own_accounts(workflow, directory=self._session.directory, catalog=self._session.catalog)
        missing = [
            f"You have no account of your own for {format_app_name(row.app)}. {row.fix}"
            for row in rows
            if not row.is_ready
        ]
        if missing:
            show_message(self._needs, " ".join(missing), kind="warn")
        else:
            show_message(self._needs, "" if needed else "None of the steps needs an external user's account.")
        return needed

    def _build_saved_output(self) -> RichOutput:
        user, environment = self._session.external_user_id, self._session.environment
        if user is None:
            return build_line_output(f"Steps run without an external user, in {environment}.", self.magic_line)
        have = {format_app_name(app): self._format_app_account(app, user, environment) for app in self._rows}
        accounts = f" Accounts: {', '.join(f'{app} {account}' for app, account in have.items())}." if have else ""
        fields = [("environment", environment), ("external user", user), *have.items()]
        return build_line_output(f"Steps run as {user} in {environment}.{accounts}", self.magic_line, fields)

    def _format_app_account(self, app: str, user: str, environment: Environment) -> str:
        account = self._session.directory.newest_account(user, environment, app)
        return format_account(account) if account else "MISSING"

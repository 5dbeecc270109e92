"""
Forms for an external user's accounts: required accounts, connecting, removing.

A credential goes from its field to the project's directory and nowhere else. The field is emptied before the credential
is used, and no message contains a credential.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as ipw

from pdkernel.common.identity import Account, Directory, Environment
from pdkernel.engine.account_lookup import format_connect_account_command
from pdkernel.errors import PdkernelError
from pdkernel.kit.session.connect_links import ConnectLinks
from pdkernel.kit.widgets.buttons import LinkButton
from pdkernel.kit.widgets.components import (
    FIELD_MARGIN,
    ROW_LAYOUT,
    ConfirmButton,
    SecretField,
    build_copyable_html,
    build_field_layout,
    build_field_row,
    build_named_field,
    close_tree,
    create_message,
    format_message_html,
    on_enter,
    set_children,
    set_visible,
    show_message,
    show_message_html,
)
from pdkernel.operations.users import connect_account
from pdkernel.render.apps import app_icon, format_app_name

DEFAULT_CREDENTIAL_NAME = "api_key"
"""The credential name for an app with unknown credentials."""
CLICK_GRACE_S = 1.0
"""Seconds after a click in which a late field value still belongs to the click."""
ENTER_GRACE_S = 0.3
"""Seconds after Enter in which a late field value still belongs to Enter: a front end sends the key before the value."""


class FieldRow:
    """The name of a credential and the field for its value; Enter in one of them calls *connect*."""

    def __init__(
        self, name: str, known: Sequence[str], on_input: Callable[[], None], connect: Callable[[], None]
    ) -> None:
        self.name = ipw.Combobox(
            value=name,
            options=tuple(known),
            description="credential",
            placeholder="name, for example api_key",
            tooltip="The credential's name, as in $auth of a step",
            style={"description_width": "110px"},
            layout=build_field_layout(340, min_width_px=260),
        )
        self.secret = SecretField(
            on_input=on_input,
            tooltip="The credential's value. It is stored encrypted; the field is emptied when you leave it",
            **build_named_field("value", 360, min_width_px=200),
        )
        on_enter(self.name, connect)
        on_enter(self.secret, connect)
        self.view = build_field_row(self.name, self.secret)


class ConnectForm:
    """
    Fields that connect an account of one app.

    Args:
        app: The app's slug.
        connected: Called after an account was connected.
        monotonic: A monotonic clock in seconds.
    """

    def __init__(
        self, app: str, connected: Callable[[], None], *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._app = app
        self._connected = connected
        self._monotonic = monotonic
        self._pressed_at = -CLICK_GRACE_S
        self._entered: object = None  # the last Enter, until its values are used
        self._enter_lock = threading.Lock()
        self._directory: Directory | None = None
        self._user = ""
        self._environment: Environment = "development"
        self._known: Sequence[str] = ()
        self._rows: list[FieldRow] = []
        self._fields = ipw.VBox()
        self._message = create_message()
        self._command = ipw.HTML()
        more = ipw.Button(description="Add a field", tooltip="For an app with more than one credential")
        more.on_click(lambda _: self._add_field())
        connect = ipw.Button(
            description="Connect",
            button_style="primary",
            tooltip=f"Store these credentials as the external user's {format_app_name(app)} account",
        )
        connect.on_click(lambda _: self._connect())
        self.view = ipw.VBox(
            [
                self._fields,
                ipw.HBox([connect, more], layout={**ROW_LAYOUT, "margin": FIELD_MARGIN}),
                ipw.VBox([self._message, self._command], layout={"margin": FIELD_MARGIN}),
            ]
        )

    def set_user(self, directory: Directory, external_user_id: str, environment: Environment) -> None:
        """Set the external user; values typed for another user are discarded."""
        self._directory = directory
        if (external_user_id, environment) != (self._user, self._environment):
            self._user, self._environment = external_user_id, environment
            for row in self._rows:
                row.secret.take_value()
            self._pressed_at = -CLICK_GRACE_S
            self._use_enter(self._entered)
            show_message(self._message, "")
        if not self._rows:
            self._known = directory.credential_fields(self._app) or (DEFAULT_CREDENTIAL_NAME,)
            self._add_field()
        command = format_connect_account_command(self._app, external_user_id, environment, directory)
        show_message_html(self._command, f"<small>or in a terminal: {build_copyable_html(command)}</small>")

    def _add_field(self) -> None:
        used = {row.name.value for row in self._rows}
        name = next((known for known in self._known if known not in used), "")
        self._rows.append(FieldRow(name, self._known, self._on_input, self._enter))
        set_children(self._fields, [row.view for row in self._rows])

    def _on_input(self) -> None:
        # The front end sends a value when the field loses focus, which a click on the button causes. On a busy machine
        # the click may arrive before the value.
        is_late = len(self._rows) == 1 and self._monotonic() - self._pressed_at < CLICK_GRACE_S
        if self._use_enter(self._entered) or is_late:
            self._connect()

    def _enter(self) -> None:
        # The value of the field arrives after Enter, or not at all if it has not changed.
        entered = self._entered = object()
        timer = threading.Timer(ENTER_GRACE_S, lambda: self._connect() if self._use_enter(entered) else None)
        timer.daemon = True
        timer.start()

    def _use_enter(self, entered: object) -> bool:
        """Return whether *entered* is the last Enter, and its values were not used yet."""
        with self._enter_lock:
            if entered is None or entered is not self._entered:
                return False
            self._entered = None
            return True

    def _connect(self) -> None:
        # first take the values, so that no field holds a credential after an error
        credentials = [(row.name.value.strip(), row.secret.take_value()) for row in self._rows]
        fault = self._store(credentials)
        self._pressed_at = self._monotonic() if not any(value for _, value in credentials) else -CLICK_GRACE_S
        show_message(self._message, fault, kind="error")
        if not fault:
            self._connected()

    def _store(self, credentials: Sequence[tuple[str, str]]) -> str:
        """Connect the account; returns an error message, or an empty text."""
        assert self._directory is not None
        try:
            connect_account(
                self._directory,
                self._app,
                credentials,
                external_user_id=self._user,
                environment=self._environment,
            )
        except PdkernelError as fault:
            again = " Type all values again: the fields are emptied after each attempt." if len(credentials) > 1 else ""
            return f"{fault}{again}"
        except Exception as fault:  # noqa: BLE001 - a traceback may print locals, which hold credentials
            return f"Cannot connect the account: {type(fault).__name__}."
        return ""


class AppRow:
    """
    The state of the external user's account of one required app, with buttons to connect an account.

    Args:
        app: The app's slug.
        links: Returns the session's Connect links.
        changed: Called after an account was connected.
    """

    def __init__(self, app: str, links: Callable[[], ConnectLinks], changed: Callable[[], None]) -> None:
        self._app = app
        self._changed = changed
        self._form = ConnectForm(app, self._connected)
        self._link = LinkButton(app, links, changed)
        self._summary = ipw.HTML()
        self._another = ipw.Button(
            description="Connect another",
            tooltip=f"Connect a newer {format_app_name(app)} account: runs use the newest",
            layout={"width": "auto"},
        )
        self._another.on_click(lambda _: set_visible(self._form.view, visible=True))
        self.view = ipw.VBox(
            [
                ipw.HBox([self._summary, self._link.button, self._another], layout=ROW_LAYOUT),
                ipw.VBox([self._link.message], layout={"margin": FIELD_MARGIN}),
                self._form.view,
            ],
            layout={"margin": "4px 0"},
        )
        self._seen: tuple[object, ...] = ()

    def update(
        self,
        directory: Directory,
        external_user_id: str | None,
        environment: Environment,
        *,
        steps: Sequence[str],
        accounts: Sequence[Account],
    ) -> None:
        """Show the state for an external user; *accounts* are the user's accounts of the app, newest first."""
        summary = _summary(self._app, external_user_id, steps, accounts)
        show_message_html(self._summary, _with_icon(self._app, summary))
        set_visible(self._another, visible=bool(accounts))
        self._link.update(external_user_id, environment, accounts[0] if accounts else None)
        seen = (external_user_id, environment, tuple(account.id for account in accounts))
        if seen != self._seen:
            self._seen = seen
            set_visible(self._form.view, visible=external_user_id is not None and not accounts)
        if external_user_id is not None:
            self._form.set_user(directory, external_user_id, environment)

    def _connected(self) -> None:
        set_visible(self._form.view, visible=False)
        self._changed()
        self._another.focus()  # the pressed button is hidden now: keep the keyboard focus in the form


def _summary(app: str, user: str | None, steps: Sequence[str], accounts: Sequence[Account]) -> str:
    needed = f"{format_app_name(app)}: needed by {', '.join(steps)}."
    if user is None:
        return format_message_html(f"{needed} Pick an external user.", kind="warn")
    if not accounts:
        return format_message_html(f"{needed} {user} has no account yet. Connect an account:", kind="warn")
    newest = accounts[0]
    more = f", the newest of {len(accounts)}" if len(accounts) > 1 else ""
    if not newest.healthy:
        return format_message_html(
            f"{needed} {format_account(newest)}{more}: its credentials do not work.", kind="error"
        )
    return format_message_html(f"✓ {needed} Uses {format_account(newest)}{more}.", kind="success")


def _with_icon(app: str, message: str) -> str:
    """Return the HTML *message* beside the icon of the app."""
    return f'<div style="display:flex;align-items:center">{app_icon(app)}{message}</div>'


def format_account(account: Account) -> str:
    """Return *account* as its id and name."""
    return f"{account.id} ({account.name})"


class AccountList:
    """
    All accounts of the external user, each with a Remove button.

    Args:
        changed: Called after an account was removed.
        with_error_message: Wraps a function so that the form shows its error.
    """

    def __init__(
        self,
        changed: Callable[[], None],
        with_error_message: Callable[[Callable[[], None]], Callable[[], None]],
    ) -> None:
        self._changed = changed
        self._with_error_message = with_error_message
        self._shown: tuple[Account, ...] = ()
        self._buttons: list[ConfirmButton] = []
        self._heading = ipw.HTML()
        self._rows = ipw.VBox()
        self.view = ipw.VBox([self._heading, self._rows])

    def update(self, directory: Directory, external_user_id: str | None, accounts: Sequence[Account]) -> None:
        """Show *accounts*, newest first."""
        heading = "" if external_user_id is None else f"Accounts of {external_user_id}:" if accounts else ""
        show_message(self._heading, heading)
        if tuple(accounts) == self._shown:
            return
        self._shown = tuple(accounts)
        old = self._rows.children
        rows = [self._row(directory, account, accounts) for account in accounts]
        set_children(self._rows, rows)
        for gone in old:
            close_tree(gone)

    def _row(self, directory: Directory, account: Account, accounts: Sequence[Account]) -> Any:
        others = [other for other in accounts if other.app == account.app]
        newest = " · newest" if len(others) > 1 and others[0] is account else ""
        when = account.created_at.strftime("%Y-%m-%d %H:%M UTC")
        fields = f" · {', '.join(account.credential_fields)}" if account.credential_fields else ""

        def remove() -> None:
            directory.remove_account(account.id)
            self._changed()

        button = ConfirmButton(
            "Remove",
            act=self._with_error_message(remove),
            question=lambda: f"Remove {account.id}?",
            tooltip=f"Remove the {format_app_name(account.app)} account {account.id}; click twice to confirm",
            layout={"width": "auto"},
        )
        text = f"{format_app_name(account.app)} · {format_account(account)}{fields} · connected {when}{newest}"
        label = ipw.HTML(_with_icon(account.app, format_message_html(text)))
        return ipw.HBox([label, button.view], layout=ROW_LAYOUT)

"""
An external user's accounts: what the steps need, connecting one, removing one.

Knows the directory of the session's project. A credential goes from its field to the directory and nowhere else:
the field is empty before anything is done with what was in it, and no message is made of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets as ipw

from pdkernel.engine.facts import connect_command
from pdkernel.errors import PdkernelError
from pdkernel.identity import Account, Directory, Environment
from pdkernel.session.linking import Links
from pdkernel.widgets.link_button import LinkButton
from pdkernel.widgets.parts import (
    BESIDE,
    ROW,
    AskingButton,
    SecretField,
    close_all,
    copy_html,
    field,
    note,
    row,
    say,
    say_html,
    set_children,
    show,
    text_html,
)

FALLBACK_FIELD = "api_key"
"""The credential to ask for where nothing is known of an app."""
OVERTAKEN_S = 1.0
"""Seconds in which what comes from a field was meant by the press of the button before it."""


class FieldRow:
    """The name of a credential and the field for its value."""

    def __init__(self, name: str, known: Sequence[str], came: Callable[[], None]) -> None:
        self.name = ipw.Combobox(
            value=name,
            options=tuple(known),
            description="credential",
            placeholder="its name, for example api_key",
            tooltip="The credential's name, as steps read it from $auth",
            style={"description_width": "110px"},
            layout=field(340, least=260),
        )
        self.secret = SecretField(
            came=came,
            placeholder="its value",
            tooltip="The credential's value. It is stored encrypted; the field is emptied as soon as you leave it",
            layout=field(320, least=160),
        )
        self.view = row(self.name, self.secret)


class ConnectForm:
    """
    Fields that connect an account of one app.

    Args:
        app: The app's slug.
        connected: Called after an account was connected.
        monotonic: Seconds that only go up.
    """

    def __init__(
        self, app: str, connected: Callable[[], None], *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._app = app
        self._connected = connected
        self._monotonic = monotonic
        self._pressed_at = -OVERTAKEN_S
        self._directory: Directory | None = None
        self._user = ""
        self._environment: Environment = "development"
        self._known: Sequence[str] = ()
        self._rows: list[FieldRow] = []
        self._fields = ipw.VBox()
        self._message = note()
        self._command = ipw.HTML()
        more = ipw.Button(description="Add a field", tooltip="For an app whose account has more than one credential")
        more.on_click(lambda _: self._add_field())
        connect = ipw.Button(
            description="Connect",
            button_style="primary",
            tooltip=f"Store these credentials as the external user's {app} account",
        )
        connect.on_click(lambda _: self._connect())
        self.view = ipw.VBox(
            [
                self._fields,
                ipw.HBox([connect, more], layout={**ROW, "margin": BESIDE}),
                ipw.VBox([self._message, self._command], layout={"margin": BESIDE}),
            ]
        )

    def show(self, directory: Directory, external_user_id: str, environment: Environment) -> None:
        """Connect for this user from now on; what was typed for another one is dropped."""
        self._directory = directory
        if (external_user_id, environment) != (self._user, self._environment):
            self._user, self._environment = external_user_id, environment
            for row in self._rows:
                row.secret.take()
            self._pressed_at = -OVERTAKEN_S
            say(self._message, "")
        if not self._rows:
            self._known = directory.known_fields(self._app) or (FALLBACK_FIELD,)
            self._add_field()
        command = connect_command(self._app, external_user_id, environment, directory)
        say_html(self._command, f"<small>or in a terminal: {copy_html(command)}</small>")

    def _add_field(self) -> None:
        used = {row.name.value for row in self._rows}
        name = next((known for known in self._known if known not in used), "")
        self._rows.append(FieldRow(name, self._known, self._came))
        set_children(self._fields, [row.view for row in self._rows])

    def _came(self) -> None:
        # what is typed is sent when the field is left, which pressing the button does; on a busy machine the press may be
        # here first, and found nothing
        if len(self._rows) == 1 and self._monotonic() - self._pressed_at < OVERTAKEN_S:
            self._connect()

    def _connect(self) -> None:
        # the first thing that happens: nothing is held any more when something goes wrong
        credentials = [(row.name.value.strip(), row.secret.take()) for row in self._rows]
        fault = _fault_of(credentials) or self._store(dict(credentials))
        self._pressed_at = self._monotonic() if not any(value for _, value in credentials) else -OVERTAKEN_S
        say(self._message, fault, kind="error")
        if not fault:
            self._connected()

    def _store(self, credentials: Mapping[str, str]) -> str:
        """Connect the account; what went wrong as text, or nothing."""
        assert self._directory is not None
        try:
            self._directory.add_account(
                app=self._app, credentials=credentials, external_user_id=self._user, environment=self._environment
            )
        except PdkernelError as fault:
            return str(fault)
        except Exception as fault:  # noqa: BLE001 - a traceback may print locals, and these are credentials
            return f"The account could not be connected: {type(fault).__name__}."
        return ""


def _fault_of(credentials: Sequence[tuple[str, str]]) -> str:
    """What is wrong with what was typed, or nothing; never shows a value."""
    names = [name for name, _ in credentials]
    again = " Type all values again: none is kept after an attempt." if len(names) > 1 else ""
    for name, value in credentials:
        if not name:
            return f"A credential has no name.{again}"
        if names.count(name) > 1:
            return f"The credential {name} is there twice.{again}"
        if not value.strip():
            return f"The value of {name} is blank.{again}"
    return ""


class AppRow:
    """
    Whether the external user has an account of one app that the steps need, and the way to get one.

    Args:
        app: The app's slug.
        links: Makes the links where an account is connected.
        changed: Called after an account was connected.
    """

    def __init__(self, app: str, links: Callable[[], Links], changed: Callable[[], None]) -> None:
        self._app = app
        self._changed = changed
        self._form = ConnectForm(app, self._connected)
        self._link = LinkButton(app, links, changed)
        self._summary = ipw.HTML()
        self._another = ipw.Button(
            description="Connect another",
            tooltip=f"A newer {app} account takes the place of this one: runs use the newest",
            layout={"width": "auto"},
        )
        self._another.on_click(lambda _: show(self._form.view, visible=True))
        self.view = ipw.VBox(
            [
                ipw.HBox([self._summary, self._link.button, self._another], layout=ROW),
                ipw.VBox([self._link.said], layout={"margin": BESIDE}),
                self._form.view,
            ],
            layout={"margin": "4px 0"},
        )
        self._seen: tuple[object, ...] = ()

    def show(
        self,
        directory: Directory,
        external_user_id: str | None,
        environment: Environment,
        *,
        steps: Sequence[str],
        accounts: Sequence[Account],
    ) -> None:
        """Show how things are for this user; *accounts* are theirs of this app, newest first."""
        say_html(self._summary, _summary(self._app, external_user_id, steps, accounts))
        show(self._another, visible=bool(accounts))
        self._link.show(external_user_id, environment, accounts[0] if accounts else None)
        seen = (external_user_id, environment, tuple(account.id for account in accounts))
        if seen != self._seen:
            self._seen = seen
            show(self._form.view, visible=external_user_id is not None and not accounts)
        if external_user_id is not None:
            self._form.show(directory, external_user_id, environment)

    def _connected(self) -> None:
        show(self._form.view, visible=False)
        self._changed()
        self._another.focus()  # the button that was pressed is gone, and with it the place of who uses the keyboard


def _summary(app: str, user: str | None, steps: Sequence[str], accounts: Sequence[Account]) -> str:
    needed = f"{app}: needed by {', '.join(steps)}."
    if user is None:
        return text_html(f"{needed} Pick an external user first.", kind="warn")
    if not accounts:
        return text_html(f"{needed} {user} has no account yet. Connect one:", kind="warn")
    newest = accounts[0]
    more = f", the newest of {len(accounts)}" if len(accounts) > 1 else ""
    if not newest.healthy:
        return text_html(f"{needed} {describe(newest)}{more}: its credentials are known not to work.", kind="error")
    return text_html(f"✓ {needed} Uses {describe(newest)}{more}.", kind="success")


def describe(account: Account) -> str:
    """Id and name of *account*."""
    return f"{account.id} ({account.name})"


class AccountList:
    """
    All accounts of the external user, each with a button that removes it.

    Args:
        changed: Called after an account was removed.
        said: Makes of an act one whose fault is shown to the person.
    """

    def __init__(self, changed: Callable[[], None], said: Callable[[Callable[[], None]], Callable[[], None]]) -> None:
        self._changed = changed
        self._said = said
        self._shown: tuple[Account, ...] = ()
        self._buttons: list[AskingButton] = []
        self._heading = ipw.HTML()
        self._rows = ipw.VBox()
        self.view = ipw.VBox([self._heading, self._rows])

    def show(self, directory: Directory, external_user_id: str | None, accounts: Sequence[Account]) -> None:
        """List *accounts*, newest first."""
        heading = "" if external_user_id is None else f"Accounts of {external_user_id}:" if accounts else ""
        say(self._heading, heading)
        if tuple(accounts) == self._shown:
            return
        self._shown = tuple(accounts)
        old = self._rows.children
        rows = [self._row(directory, account, accounts) for account in accounts]
        set_children(self._rows, rows)
        for gone in old:
            close_all(gone)

    def _row(self, directory: Directory, account: Account, accounts: Sequence[Account]) -> Any:
        others = [other for other in accounts if other.app == account.app]
        newest = " · newest" if len(others) > 1 and others[0] is account else ""
        when = account.created_at.strftime("%Y-%m-%d %H:%M UTC")
        fields = f" · {', '.join(account.fields)}" if account.fields else ""

        def remove() -> None:
            directory.remove_account(account.id)
            self._changed()

        button = AskingButton(
            "Remove",
            act=self._said(remove),
            question=lambda: f"Remove {account.id}?",
            tooltip=f"Remove the {account.app} account {account.id}; a second click does it",
            layout={"width": "auto"},
        )
        label = ipw.HTML(text_html(f"{account.app} · {describe(account)}{fields} · connected {when}{newest}"))
        return ipw.HBox([label, button.view], layout=ROW)

"""
Buttons that open a page in another tab: an app's Connect Link page, and the console of the draft's server.

The page's URL is a secret while it is valid: the form shows the URL only until the page was opened. With the Lab
extension one click opens the page; without the extension a second click is necessary.
"""

from __future__ import annotations

import html
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import ipywidgets as ipw

from pdkernel.common.identity import Account, Environment
from pdkernel.errors import PdkernelError
from pdkernel.kit.session.connect_links import ConnectLinks
from pdkernel.kit.widgets.components import (
    create_message,
    format_message_html,
    set_value,
    set_visible,
    show_message,
    show_message_html,
)
from pdkernel.kit.widgets.saved_output import display_with_line
from pdkernel.render.apps import format_app_name

if TYPE_CHECKING:
    from pdkernel.server.app_context import LinkEvent

_KINDS = {"connected": "success", "failed": "error"}
CONNECT_LABEL, RECONNECT_LABEL = "Connect with Link", "Reconnect with Link"
CONSOLE_LABEL = "Open the console"


class LinkButton:
    """
    The button and its message.

    Args:
        app: The app's slug.
        links: Returns the session's Connect links.
        changed: Called after an account was connected, from another thread.
    """

    def __init__(self, app: str, links: Callable[[], ConnectLinks], changed: Callable[[], None]) -> None:
        self._app, self._name = app, format_app_name(app)
        self._links = links
        self._changed = changed
        self._lock = threading.Lock()
        self._user: tuple[str, Environment] | None = None
        self._account: str | None = None
        self._asked = 0
        self.button = ipw.Button(description=CONNECT_LABEL, layout={"width": "auto"})
        self.button.add_class("pd-link")  # the Lab extension finds the button by this class
        self.button.on_click(lambda _: self._open())
        self.message = create_message()

    def update(self, external_user_id: str | None, environment: Environment, account: Account | None) -> None:
        """Set the external user; *account* is the account that a run would use, or None."""
        whose = None if external_user_id is None else (external_user_id, environment)
        with self._lock:
            if whose != self._user:
                self._user = whose
                self._asked += 1  # ignore events of earlier links, which belong to another user
                show_message(self.message, "")
            self._account = account.id if account is not None else None
        set_value(self.button, RECONNECT_LABEL if account else CONNECT_LABEL, "description")
        set_value(self.button, _tooltip(self._name, account), "tooltip")
        set_visible(self.button, visible=whose is not None)

    def _open(self) -> None:
        with self._lock:
            whose, account = self._user, self._account
            self._asked += 1
            asked = self._asked
        if whose is None:
            return
        try:
            url = self._links().create(
                self._app,
                external_user_id=whose[0],
                environment=whose[1],
                account_id=account,
                on_event=lambda event: self._handle_event(asked, event),
            )
        except PdkernelError as fault:
            show_message(self.message, str(fault), kind="error")
            return
        show_message_html(self.message, _link_html(url, f"Open the page where {self._name} is connected"))

    def _handle_event(self, asked: int, event: LinkEvent) -> None:
        with self._lock:
            if asked == self._asked:
                show_message(self.message, _describe_event(self._name, event), kind=_KINDS.get(event.status, "muted"))
        if event.status == "connected":
            self._changed()


class ConsoleLinkButton(ipw.VBox):
    """
    The button that opens the console of the draft's server, logged in.

    The link is in the kernel's output only between a click and the login, *shown_s* seconds at most. The link is valid once.

    Args:
        create_link: Creates a link; calls its argument when a person has logged in, from another thread.
        shown_s: Seconds for which a link is shown, so that a notebook is rarely saved meanwhile.
    """

    def __init__(self, create_link: Callable[[Callable[[], None]], str], *, shown_s: float = 60.0) -> None:
        self._create_link = create_link
        self._shown_s = shown_s
        self._lock = threading.Lock()
        self._shown = 0
        button = ipw.Button(
            description=CONSOLE_LABEL, tooltip="Open the pages of the server's runs", layout={"width": "auto"}
        )
        button.add_class("pd-link")
        button.on_click(lambda _: self.show_link())
        self._message = create_message()
        super().__init__([button, self._message])

    def show_link(self) -> None:
        """Show a new link."""
        with self._lock:
            self._shown += 1
            number = self._shown
        try:
            url = self._create_link(lambda: self._remove(number, "The console is open in another tab."))
        except PdkernelError as fault:
            show_message(self._message, str(fault), kind="error")
            return
        show_message_html(self._message, _link_html(url, "Open the console"))
        timer = threading.Timer(
            self._shown_s, self._remove, (number, "The link is no longer shown. Press the button again.")
        )
        timer.daemon = True
        timer.start()

    def _remove(self, number: int, text: str) -> None:
        """Show *text* instead of the link with that number, unless another link is shown or the link was removed."""
        with self._lock:
            if number == self._shown:
                self._shown += 1
                show_message(self._message, text)

    def _ipython_display_(self, **_: Any) -> None:
        display_with_line(self, f"{CONSOLE_LABEL}:", "%pdserve console")


def _describe_event(app: str, event: LinkEvent) -> str:
    return {
        "opened": f"Continue in the opened page. This form is updated once {app} is connected.",
        "connected": f"Connected: {event.detail}.",
        "failed": f"Not connected: {event.detail}",
        "cancelled": f"Cancelled in the page: {app} is not connected.",
        "expired": f"The link has expired: {app} is not connected.",
    }[event.status]


def _tooltip(app: str, account: Account | None) -> str:
    if account is None:
        return f"Open a page in another tab where the external user connects {app} with credentials or by signing in"
    return f"Open a page in another tab where {account.id} gets new credentials and keeps its id"


def _link_html(url: str, text: str) -> str:
    parts = urlsplit(url)
    link = (
        f'<a class="pd-open" href="{html.escape(url)}" target="_blank" rel="noopener noreferrer">'
        f"{html.escape(text)}</a>"
    )
    if parts.hostname != "127.0.0.1":
        return link
    hint = (
        f"The kernel serves the page at 127.0.0.1, port {parts.port}. From another machine: "
        f"ssh -L {parts.port}:127.0.0.1:{parts.port} HOST, or set PDKERNEL_PUBLIC_URL."
    )
    return f'{link}<div class="pd-elsewhere">{format_message_html(hint)}</div>'

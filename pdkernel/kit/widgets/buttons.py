"""
Buttons below an output.

They save a run as a test, prove an export, run stale steps again, use a request as the test event, resume or cancel a
paused run, and open a page in another tab.

The URL of a page, of an app's Connect Link or of the console of the draft's server, is a secret while it is valid: the
form shows the URL only until the page was opened. With the Lab extension one click opens the page; without the extension
a second click is necessary.
"""

from __future__ import annotations

import html
import re
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import ipywidgets as ipw

from pdkernel.common.identity import Account, Environment
from pdkernel.errors import PdkernelError
from pdkernel.event import parse_json
from pdkernel.execution import Execution
from pdkernel.kit.session import Session
from pdkernel.kit.session.connect_links import ConnectLinks
from pdkernel.kit.session.timeline import RESUME_LINE
from pdkernel.kit.widgets.components import (
    ROW_LAYOUT,
    build_copyable_html,
    build_named_field,
    close_tree,
    create_message,
    display_with_line,
    format_message_html,
    press_on_enter,
    set_children,
    set_value,
    set_visible,
    show_message,
    show_message_html,
)
from pdkernel.render.apps import format_app_name
from pdkernel.render.formatting import EXECUTION_LABELS

if TYPE_CHECKING:
    from pdkernel.server.app_context import LinkEvent

SAVE_LABEL = "Save this run as a test"
PROVE_LABEL = "Prove"
RUN_STALE_LINE = "%pdrun --stale"


class SaveTestButton(ipw.VBox):
    """
    A field for the test's name and a button; below, the written files or an error message.

    Args:
        session: The session of the run.
        execution: The run, or None until `set_execution`.
    """

    def __init__(self, session: Session, execution: Execution | None = None) -> None:
        self._session = session
        self._execution: Execution | None = None
        self.name = ipw.Text(
            tooltip="pdkernel writes tests/test_NAME.py beside the notebook", **build_named_field("test name", 290)
        )
        self.button = ipw.Button(
            description=SAVE_LABEL,
            tooltip="Write event, external user, recorded calls and a passing test; no call is sent",
            layout={"width": "190px"},
        )
        self.outcome = create_message()
        self.button.on_click(self._save)
        press_on_enter(self.name, self.button)
        super().__init__([ipw.HBox([self.name, self.button], layout=ROW_LAYOUT), self.outcome])
        if execution is not None:
            self.set_execution(execution)

    @staticmethod
    def can_save(execution: Execution) -> bool:
        """Return whether *execution* can be saved: steps ran, and the run has ended and was not cancelled."""
        return execution.status not in ("cancelled", "paused") and any(
            step.status != "not_run" for step in execution.steps
        )

    def set_execution(self, execution: Execution) -> None:
        """Set the run to save."""
        if self._execution is None or self._execution.id != execution.id:
            show_message(self.outcome, "")
            if not self.name.value:
                set_value(self.name, _suggest_test_name(self._session.event_name))
        self._execution = execution

    def _save(self, _button: object) -> None:
        if self._execution is None:
            return
        self.button.disabled = True
        show_message(self.outcome, "Running the test offline ...")
        try:
            summary = self._session.save_as_test(self._execution, self.name.value)
        except PdkernelError as fault:
            show_message(self.outcome, str(fault), kind="error")
        else:
            show_message(self.outcome, summary, kind="success")
        finally:
            self.button.disabled = False

    def _ipython_display_(self, **_: Any) -> None:
        display_with_line(self, f"{SAVE_LABEL}:", "%pdrun --save-test NAME")


def _suggest_test_name(event_name: str | None) -> str:
    """Return a name for a test, made from the name of the chosen event."""
    return re.sub(r"[^A-Za-z0-9]+", "_", event_name or "").strip("_").lower() or "run"


class ProveExportButton(ipw.VBox):
    """
    A button; below it, the proof or an error message.

    Args:
        session: The session of the exported notebook.
        folder: The exported folder.
        line: The arguments of `%pdexport`.
        is_patch: Whether the export updated a synced folder.
    """

    def __init__(self, session: Session, folder: Path, line: str, *, is_patch: bool = False) -> None:
        self._session = session
        self._folder = folder
        self._is_patch = is_patch
        self._line = f"%pdexport {line} --prove"
        self.button = ipw.Button(
            description=PROVE_LABEL,
            tooltip="Run the written files and the notebook on every saved event, offline, and compare",
            layout={"width": "100px"},
        )
        self.outcome = create_message()
        self.button.on_click(self._prove)
        super().__init__([ipw.HBox([self.button], layout=ROW_LAYOUT), self.outcome])

    def _prove(self, _button: object) -> None:
        self.button.disabled = True
        show_message(self.outcome, "Running both sides on every saved event, offline ...")
        try:
            show_message_html(
                self.outcome, self._session.prove_export(self._folder, is_patch=self._is_patch).render_html()
            )
        except PdkernelError as fault:
            show_message(self.outcome, str(fault), kind="error")
        finally:
            self.button.disabled = False

    def _ipython_display_(self, **_: Any) -> None:
        display_with_line(self, f"{PROVE_LABEL}:", self._line)


class StaleStepsButton(ipw.VBox):
    """
    A button with the names of the stale steps; below, the result.

    Args:
        steps: Names of the stale steps.
        run: Runs the steps that are stale when the button is pressed.
    """

    def __init__(self, steps: Sequence[str], run: Callable[[], Execution]) -> None:
        self._steps = tuple(steps)
        self._run = run
        self.button = ipw.Button(
            description=f"Run {', '.join(steps)} again",
            tooltip=f"Stale: a step above has run since. The same as {RUN_STALE_LINE}",
            button_style="warning",
            layout={"width": "auto"},
        )
        self.message = create_message()
        self.button.on_click(lambda _: self._press())
        super().__init__([ipw.HBox([self.button], layout=ROW_LAYOUT), self.message])

    def _press(self) -> None:
        self.button.disabled = True
        show_message(self.message, "Running ...")
        try:
            execution = self._run()
        except PdkernelError as fault:
            show_message(self.message, str(fault), kind="error")
        else:
            ran = ", ".join(step.name for step in execution.steps if step.status != "not_run")
            is_good = execution.status in ("success", "exited", "paused")
            show_message(
                self.message,
                f"{ran}: {EXECUTION_LABELS[execution.status].word}.",
                kind="success" if is_good else "error",
            )
        finally:
            self.button.disabled = False

    def _ipython_display_(self, **_: Any) -> None:
        display_with_line(self, f"Stale: {', '.join(self._steps)}. To run them again:", RUN_STALE_LINE)


USE_LABEL = "Use as the test event"
_LINE = "%pdserve use"
_PATH = 32
"""Largest length of a path on a button, in characters."""


class RequestButtons(ipw.VBox):
    """
    The buttons, oldest request first, and a message below.

    A button always belongs to the same request: a new request adds a button and removes the oldest, so that a click always
    chooses the request on the label.

    Args:
        use: Makes the event of a run the test event, by the run's id; returns the event's name.
    """

    def __init__(self, use: Callable[[str], str]) -> None:
        self._act = use
        self._lock = threading.Lock()
        self._buttons: dict[str, Any] = {}
        self._row = ipw.HBox(layout=ROW_LAYOUT)
        self._message = create_message()
        self._head = ipw.HTML(f"{USE_LABEL}:")
        super().__init__([self._head, self._row, self._message], layout={"display": "none"})

    def update(self, runs: Collection[Execution]) -> None:
        """Show a button for each request of *runs*; from any thread."""
        with self._lock:
            removed = [self._buttons.pop(run_id) for run_id in self._buttons.keys() - {run.id for run in runs}]
            for run in runs:
                if run.id not in self._buttons:
                    self._buttons[run.id] = self._button(run)
            set_children(self._row, [self._buttons[run.id] for run in runs])
            set_visible(self, visible=bool(runs))
        for button in removed:
            close_tree(button)

    def _button(self, run: Execution) -> Any:
        tooltip = f"{USE_LABEL}; as a line: {_LINE} {run.id}"
        button = ipw.Button(description=_name(run), tooltip=tooltip, layout={"width": "auto"})
        button.on_click(lambda _: self._pressed(run.id))
        return button

    def _pressed(self, run_id: str) -> None:
        try:
            name = self._act(run_id)
        except PdkernelError as error:
            show_message(self._message, str(error), kind="error")
        else:
            show_message_html(
                self._message, f"The test event is now {name}. As a line: {build_copyable_html(f'{_LINE} {run_id}')}"
            )

    def _ipython_display_(self, **_: Any) -> None:
        display_with_line(self, f"{USE_LABEL}:", f"{_LINE} RUN")


def _name(run: Execution) -> str:
    """Return the label of a request: time of day (UTC), method, path and external user."""
    path = str(run.event.get("path") or "/")
    short = path if len(path) <= _PATH else f"{path[:_PATH]}…"
    who = f" as {run.external_user}" if run.external_user else ""
    return f"{run.started_at[11:23]} {run.event.get('method')} {short}{who}"


RESUME_LABEL = "Resume now"


class PauseButtons(ipw.VBox):
    """
    The buttons and a message below, which are made at the first pause, and hidden while no run is paused.

    Args:
        session: The session of the run.
        execution: The paused run, or None until `set_execution`.
    """

    def __init__(self, session: Session, execution: Execution | None = None) -> None:
        self._session = session
        self._execution: Execution | None = None
        super().__init__(layout={"display": "none"})
        self.set_execution(execution)

    def _make_buttons(self) -> None:
        self.resume_button = ipw.Button(
            description=RESUME_LABEL, button_style="primary", tooltip="End the pause now", layout={"width": "auto"}
        )
        self.cancel_button = ipw.Button(
            description="Cancel the run", tooltip="End the run; no further step starts", layout={"width": "auto"}
        )
        self.data = ipw.Text(
            placeholder='for example {"approved": true}',
            tooltip="What the step gets, as from a call of its resume_url: JSON, or nothing",
            **build_named_field("$resume_data", 360),
        )
        self.message = create_message()
        self.resume_button.on_click(lambda _: self._act(self._resume))
        press_on_enter(self.data, self.resume_button)
        self.cancel_button.on_click(lambda _: self._act(self._session.paused_runs.cancel))
        self.children = [ipw.HBox([self.resume_button, self.data, self.cancel_button], layout=ROW_LAYOUT), self.message]

    def set_execution(self, execution: Execution | None) -> None:
        """Show the buttons for *execution* if it is paused; else hide them. From any thread."""
        is_paused = execution is not None and execution.status == "paused"
        if is_paused and not self.children:
            self._make_buttons()
        if is_paused and self._execution != execution:
            set_value(self.data, "")
            show_message(self.message, "")
        self._execution = execution if is_paused else None
        set_visible(self, visible=is_paused)

    def _resume(self, run_id: str) -> None:
        text = self.data.value.strip()
        self._session.paused_runs.end_pause(run_id, parse_json(text, label="$resume_data") if text else None)

    def _act(self, act: Callable[[str], object]) -> None:
        if self._execution is None:
            return
        try:
            act(self._execution.id)
        except PdkernelError as fault:
            show_message(self.message, str(fault), kind="error")
        else:
            show_message(self.message, "")

    def _ipython_display_(self, **_: Any) -> None:
        line = f"{RESUME_LINE} {self._execution.id if self._execution else 'ID'}"
        display_with_line(self, f"{RESUME_LABEL}:", line)


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

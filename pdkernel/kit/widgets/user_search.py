"""The search for external users: a field for a part of an id or of an account's name, and the users that match, with their marks."""

from __future__ import annotations

import asyncio
import html
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import ipywidgets as ipw
from ipywidgets.widgets.widget_string import HTMLStyle

from pdkernel.common.identity import Environment
from pdkernel.errors import PdkernelError
from pdkernel.kit.session import Session
from pdkernel.kit.widgets.background_run import LatestCall
from pdkernel.kit.widgets.components import (
    DESCRIPTION_STYLE,
    FIELD_LEFT_MARGIN,
    ROW_LAYOUT,
    build_field_layout,
    build_field_row,
    create_message,
    on_enter,
    set_children,
    set_value,
    set_visible,
    show_message,
)
from pdkernel.model import Workflow
from pdkernel.operations.users import UserEntry, UserList, render_marks, search_users

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

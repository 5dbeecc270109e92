"""View of the accounts that a workflow's steps need for one external user, without credentials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pdkernel.errors import format_count
from pdkernel.render import formatting
from pdkernel.render.apps import app_icon, format_app_name
from pdkernel.render.markup import (
    CONTAINER_STYLE,
    Html,
    escape_control_characters,
    join_lines,
    multiline,
    muted,
    pill,
    tag,
)


@dataclass(frozen=True, slots=True)
class AppReadiness:
    """
    An app that steps use, and the account that a run would use for it.

    Attributes:
        app: The app's slug.
        steps: The steps that need the account.
        owner: The owner of the account.
        account_id: The id of the account, or None if the account is missing.
        account_name: Display name of the account.
        healthy: False if the credentials are known not to work.
        fix: How to connect or repair the account.
    """

    app: str
    steps: tuple[str, ...]
    owner: Literal["external_user", "own"] = "external_user"
    account_id: str | None = None
    account_name: str = ""
    healthy: bool = True
    fix: str = ""

    @property
    def is_ready(self) -> bool:
        """Whether a run finds a working account."""
        return self.account_id is not None and self.healthy


def render_text(apps: Sequence[AppReadiness], *, external_user: str | None, environment: str) -> str:
    """Render the readiness of *apps* as text."""
    lines = [_title(apps, external_user, environment)]
    width = max((len(format_app_name(app.app)) for app in apps), default=0)
    for app in apps:
        mark = "✓" if app.is_ready else "✗"
        lines.append(f"  {mark} {format_app_name(app.app):<{width}}  {_account(app)}  ({_needed_by(app)})")
        if app.fix and not app.is_ready:
            lines += [f"      {line}" for line in app.fix.split("\n")]
    return escape_control_characters("".join(f"{line}\n" for line in lines))


def render_html(apps: Sequence[AppReadiness], *, external_user: str | None, environment: str) -> str:
    """Render the readiness of *apps* as HTML."""
    parts = [tag("strong", _title(apps, external_user, environment))]
    rows = [tag("li", *_row(app), style="margin:2px 0;list-style-type:none") for app in apps]
    if rows:
        parts.append(tag("ul", join_lines(rows), style="margin:4px 0;padding:0;list-style-type:none"))
    return tag("div", join_lines(parts), style=CONTAINER_STYLE, class_="pd-view pd-accounts")


def _row(app: AppReadiness) -> list[Html]:
    state = (
        pill("✓ ready", "good")
        if app.is_ready
        else pill("✗ missing" if app.account_id is None else "✗ not working", "bad")
    )
    parts = [
        state,
        Html(" "),
        app_icon(app.app),
        tag("strong", format_app_name(app.app), style="margin-right:8px"),
        Html(" "),
        tag("span", _account(app)),
    ]
    parts += [Html(" "), muted(f"({_needed_by(app)})")]
    if app.fix and not app.is_ready:
        parts.append(multiline(app.fix, style="margin-left:24px"))
    return parts


def _title(apps: Sequence[AppReadiness], external_user: str | None, environment: str) -> str:
    who = f"External user {external_user}" if external_user else "No external user"
    missing = sum(not app.is_ready for app in apps)
    if not apps:
        return f"{who}, {environment}: no step needs an account."
    if missing:
        return f"{who}, {environment}: {format_count(missing, 'account')} to connect."
    return f"{who}, {environment}: every account is connected."


def _account(app: AppReadiness) -> str:
    if app.account_id is None:
        return "account of your own is missing" if app.owner == "own" else "external user's account is missing"
    whose = "your own account" if app.owner == "own" else "external user's account"
    name = f" {app.account_name}" if app.account_name else ""
    return f"{whose} {app.account_id}{name}{'' if app.healthy else ', which no longer works'}"


def _needed_by(app: AppReadiness) -> str:
    return f"needed by {formatting.format_list(app.steps)}"

"""View of an account lookup: its steps, their results, and the step that failed; without credentials."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pdkernel.common.lookup import AccountCandidate, AppLookup, Lookup
from pdkernel.event import ENVIRONMENT_HEADER, EXTERNAL_USER_HEADER
from pdkernel.render import formatting
from pdkernel.render.apps import format_app_name
from pdkernel.render.markup import (
    CONTAINER_STYLE,
    Html,
    RichOutput,
    escape_control_characters,
    join_lines,
    multiline,
    tag,
)

NO_LOOKUP_MESSAGE = "No step uses an external user's account: the workflow runs for any external user, or without one."


@dataclass(frozen=True, slots=True)
class _Row:
    """A step of the lookup: whether it succeeded (None: not reached), its name and its result."""

    passed: bool | None
    label: str
    detail: str


def render_text(lookup: Lookup, *, step: str | None = None) -> str:
    """Render the lookup as text, for all steps of the workflow or for *step* only."""
    rows = list(_rows(lookup, step))
    width = max(len(row.label) for row in rows)
    lines = [f"{_mark(row)} {row.label:<{width}}  {row.detail}".rstrip() for row in rows]
    return escape_control_characters("".join(f"{line}\n" for line in lines))


def render_html(lookup: Lookup, *, step: str | None = None) -> Html:
    """Render the lookup as an HTML list, for all steps of the workflow or for *step* only."""
    items = [
        tag(
            "li",
            tag("span", f"{_mark(row)} {row.label}", style="display:inline-block;min-width:130px;opacity:0.75"),
            Html(" "),
            tag("span", row.detail),
            style="margin:1px 0;list-style-type:none",
        )
        for row in _rows(lookup, step)
    ]
    return tag("ol", join_lines(items), style="margin:2px 0;padding:0;list-style-type:none", class_="pd-lookup")


def render_output(lookup: Lookup | None) -> RichOutput:
    """Render the lookup with a title and, if it failed, the error and its fix; None: no step needs a lookup."""
    if lookup is None:
        return RichOutput.from_message(NO_LOOKUP_MESSAGE)
    error = f"{lookup.failed.message}\n{lookup.failed.fix}" if lookup.failed else ""
    parts = [tag("strong", _title(lookup)), render_html(lookup)]
    parts += [multiline(error)] if error else []
    return RichOutput(
        f"{_title(lookup)}\n{render_text(lookup)}" + (escape_control_characters(f"{error}\n") if error else ""),
        tag("div", join_lines(parts), style=CONTAINER_STYLE, class_="pd-view"),
    )


def _title(lookup: Lookup) -> str:
    """Return the result of the lookup as a sentence."""
    who = f"external user {lookup.external_user}" if lookup.external_user else "no external user"
    ending = "every account is found" if lookup.failed is None else "the lookup fails"
    return f"For {who} in {lookup.environment}, {ending}. No code was run."


def _rows(lookup: Lookup, step: str | None) -> Iterator[_Row]:
    failed = lookup.failed.link if lookup.failed else None
    yield _Row(failed != "header", "header", _header(lookup))
    yield _Row(True, "environment", _environment(lookup))
    if failed == "header":
        yield _Row(None, "external user", "not looked up")
    else:
        exists = "exists" if lookup.user_exists else "does not exist"
        yield _Row(failed != "user", "external user", f"{lookup.external_user} {exists} in {lookup.environment}")
    for app in lookup.apps if step is None else lookup.apps_of_step(step):
        yield _app(app, is_reached=failed not in ("header", "user"))
    if lookup.plan is not None:
        yield _Row(None if failed in ("header", "user", "account") else failed != "plan", "plan", lookup.plan)


def _header(lookup: Lookup) -> str:
    if lookup.header is not None:
        return f"{EXTERNAL_USER_HEADER}: {lookup.header}"
    if lookup.external_user is not None:
        return f"not in a header; chosen for the run: {lookup.external_user}"
    return f"no {EXTERNAL_USER_HEADER}"


def _environment(lookup: Lookup) -> str:
    if lookup.environment_header is not None:
        return f"{lookup.environment} ({ENVIRONMENT_HEADER})"
    return f"{lookup.environment} (no {ENVIRONMENT_HEADER})"


def _app(app: AppLookup, *, is_reached: bool) -> _Row:
    needed = f"needed by {formatting.format_list(app.steps)}"
    if not is_reached:
        return _Row(None, format_app_name(app.app), f"not looked up; {needed}")
    if app.chosen is None:
        return _Row(False, format_app_name(app.app), f"no account; {needed}")
    newest, *others = app.candidates
    used = f"{_named(newest)} is the newest and is used; {needed}"
    if not newest.healthy:
        used += "; its credentials no longer work: connect the account again"
    if newest.withheld:
        used += "; its credentials are withheld, so outbound calls go through Connect's proxy"
    if others:
        used += f". Older: {', '.join(_named(each) for each in others)}"
    return _Row(True, format_app_name(app.app), used)


def _named(account: AccountCandidate) -> str:
    name = f"{account.name}, " if account.name else ""
    return f"{account.id} ({name}{formatting.format_timestamp(account.created_at)})"


def _mark(row: _Row) -> str:
    return "·" if row.passed is None else "✓" if row.passed else "✗"

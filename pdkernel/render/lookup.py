"""View of an account lookup: each step of the lookup, and where it failed; without credentials."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pdkernel.event import ENVIRONMENT_HEADER, EXTERNAL_USER_HEADER
from pdkernel.lookup import AccountCandidate, AppLookup, Lookup
from pdkernel.render import formatting, note
from pdkernel.render.markup import CONTAINER_STYLE, Html, escape_control_characters, join_lines, tag
from pdkernel.render.rich_output import RichOutput

NO_LOOKUP_MESSAGE = "No step uses an external user's account: the workflow runs with any external user, or without one."


@dataclass(frozen=True, slots=True)
class _LookupStep:
    """One link: whether it held (None: not come to), what it is called, what it came to."""

    passed: bool | None
    label: str
    detail: str


def render_text(lookup: Lookup, *, step: str | None = None) -> str:
    """The look-up as text, all of it or that of one *step*."""
    links = list(_lookup_steps(lookup, step))
    width = max(len(link.label) for link in links)
    made = [f"{_mark(link)} {link.label:<{width}}  {link.detail}".rstrip() for link in links]
    return escape_control_characters("".join(f"{line}\n" for line in made))


def render_html(lookup: Lookup, *, step: str | None = None) -> Html:
    """The look-up as a list, all of it or that of one *step*."""
    items = [
        tag(
            "li",
            tag("span", f"{_mark(link)} {link.label}", style="display:inline-block;min-width:130px;opacity:0.75"),
            Html(" "),
            tag("span", link.detail),
            style="margin:1px 0;list-style-type:none",
        )
        for link in _lookup_steps(lookup, step)
    ]
    return tag("ol", join_lines(items), style="margin:2px 0;padding:0;list-style-type:none", class_="pd-lookup")


def render_output(lookup: Lookup | None) -> RichOutput:
    """The look-up on its own, with what to do where it failed; None where no step needs one."""
    if lookup is None:
        return RichOutput(NO_LOOKUP_MESSAGE, note.render_message_html(NO_LOOKUP_MESSAGE))
    said = f"{lookup.failed.message}\n{lookup.failed.fix}" if lookup.failed else ""
    parts = [tag("strong", _title(lookup)), render_html(lookup)]
    parts += [tag("div", said, style="white-space:pre-wrap")] if said else []
    return RichOutput(
        f"{_title(lookup)}\n{render_text(lookup)}" + (escape_control_characters(f"{said}\n") if said else ""),
        tag("div", join_lines(parts), style=CONTAINER_STYLE, class_="pd-view"),
    )


def _title(lookup: Lookup) -> str:
    """What the look-up came to, in a sentence."""
    who = f"external user {lookup.external_user}" if lookup.external_user else "no external user"
    ending = "every account is found" if lookup.failed is None else "the look-up fails"
    return f"For {who} in {lookup.environment}, {ending}. No code was run."


def _lookup_steps(lookup: Lookup, step: str | None) -> Iterator[_LookupStep]:
    failed = lookup.failed.link if lookup.failed else None
    yield _LookupStep(failed != "header", "header", _header(lookup))
    yield _LookupStep(True, "environment", _environment(lookup))
    if failed == "header":
        yield _LookupStep(None, "external user", "not looked up")
    else:
        exists = "exists" if lookup.user_exists else "does not exist"
        yield _LookupStep(failed != "user", "external user", f"{lookup.external_user} {exists} in {lookup.environment}")
    for app in lookup.apps if step is None else lookup.apps_of_step(step):
        yield _app(app, is_reached=failed not in ("header", "user"))
    if lookup.plan is not None:
        yield _LookupStep(None if failed in ("header", "user", "account") else failed != "plan", "plan", lookup.plan)


def _header(lookup: Lookup) -> str:
    if lookup.header is not None:
        return f"{EXTERNAL_USER_HEADER}: {lookup.header}"
    if lookup.external_user is not None:
        return f"chosen for the run, not by a header: {lookup.external_user}"
    return f"no {EXTERNAL_USER_HEADER}"


def _environment(lookup: Lookup) -> str:
    if lookup.environment_header is not None:
        return f"{lookup.environment} ({ENVIRONMENT_HEADER})"
    return f"{lookup.environment} (no {ENVIRONMENT_HEADER})"


def _app(app: AppLookup, *, is_reached: bool) -> _LookupStep:
    needed = f"needed by {formatting.format_list(app.steps)}"
    if not is_reached:
        return _LookupStep(None, app.app, f"not looked up; {needed}")
    if app.chosen is None:
        return _LookupStep(False, app.app, f"no account; {needed}")
    newest, *others = app.candidates
    used = f"{_named(newest)} is the newest and is used; {needed}"
    if not newest.healthy:
        used += "; it no longer works: connect it again"
    if newest.withheld:
        used += "; its credentials are withheld, so outbound calls go through Connect's proxy"
    if others:
        used += f". Older: {', '.join(_named(each) for each in others)}"
    return _LookupStep(True, app.app, used)


def _named(account: AccountCandidate) -> str:
    name = f"{account.name}, " if account.name else ""
    return f"{account.id} ({name}{formatting.format_timestamp(account.created_at)})"


def _mark(link: _LookupStep) -> str:
    return "·" if link.passed is None else "✓" if link.passed else "✗"

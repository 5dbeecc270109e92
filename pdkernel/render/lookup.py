"""
How an account was found, link by link, or where the look-up ended.

Knows `lookup` values; never a credential. `text` and `html` draw the same links.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pdkernel.lookup import AppLookup, Candidate, Lookup
from pdkernel.render import note, words
from pdkernel.render.markup import VIEW, Html, lines, printable, tag
from pdkernel.render.view import View

USER_HEADER = "x-pd-external-user-id"
ENVIRONMENT_HEADER = "x-pd-environment"
NOT_NEEDED = "No step uses an external user's account: the workflow runs for anybody, or for nobody."


@dataclass(frozen=True, slots=True)
class _Link:
    """One link: whether it held (None: not come to), what it is called, what it came to."""

    held: bool | None
    label: str
    said: str


def text(lookup: Lookup, *, step: str | None = None) -> str:
    """The look-up as text, all of it or that of one *step*."""
    links = list(_links(lookup, step))
    width = max(len(link.label) for link in links)
    made = [f"{_mark(link)} {link.label:<{width}}  {link.said}".rstrip() for link in links]
    return printable("".join(f"{line}\n" for line in made))


def html(lookup: Lookup, *, step: str | None = None) -> Html:
    """The look-up as a list, all of it or that of one *step*."""
    items = [
        tag(
            "li",
            tag("span", f"{_mark(link)} {link.label}", style="display:inline-block;min-width:130px;opacity:0.75"),
            Html(" "),
            tag("span", link.said),
            style="margin:1px 0;list-style-type:none",
        )
        for link in _links(lookup, step)
    ]
    return tag("ol", lines(items), style="margin:2px 0;padding:0;list-style-type:none", class_="pd-lookup")


def view(lookup: Lookup | None) -> View:
    """The look-up on its own, with what to do where it failed; None where no step needs one."""
    if lookup is None:
        return View(NOT_NEEDED, note.html(NOT_NEEDED))
    said = f"{lookup.failed.message}\n{lookup.failed.fix}" if lookup.failed else ""
    parts = [tag("strong", _title(lookup)), html(lookup)]
    parts += [tag("div", said, style="white-space:pre-wrap")] if said else []
    return View(
        f"{_title(lookup)}\n{text(lookup)}" + (printable(f"{said}\n") if said else ""),
        tag("div", lines(parts), style=VIEW, class_="pd-view"),
    )


def _title(lookup: Lookup) -> str:
    """What the look-up came to, in a sentence."""
    who = f"external user {lookup.external_user}" if lookup.external_user else "nobody"
    ending = "every account is found" if lookup.failed is None else "the look-up fails"
    return f"For {who} in {lookup.environment}, {ending}. No code was run."


def _links(lookup: Lookup, step: str | None) -> Iterator[_Link]:
    failed = lookup.failed.link if lookup.failed else None
    yield _Link(failed != "header", "header", _header(lookup))
    yield _Link(True, "environment", _environment(lookup))
    if failed == "header":
        yield _Link(None, "external user", "not looked up")
    else:
        exists = "exists" if lookup.user_exists else "does not exist"
        yield _Link(failed != "user", "external user", f"{lookup.external_user} {exists} in {lookup.environment}")
    for app in lookup.apps if step is None else lookup.of(step):
        yield _app(app, come_to=failed not in ("header", "user"))
    if lookup.plan is not None:
        yield _Link(None if failed in ("header", "user", "account") else failed != "plan", "plan", lookup.plan)


def _header(lookup: Lookup) -> str:
    if lookup.header is not None:
        return f"{USER_HEADER}: {lookup.header}"
    if lookup.external_user is not None:
        return f"chosen for the run, not by a header: {lookup.external_user}"
    return f"no {USER_HEADER}"


def _environment(lookup: Lookup) -> str:
    if lookup.environment_header is not None:
        return f"{lookup.environment} ({ENVIRONMENT_HEADER})"
    return f"{lookup.environment} (no {ENVIRONMENT_HEADER})"


def _app(app: AppLookup, *, come_to: bool) -> _Link:
    needed = f"needed by {words.listed(app.steps)}"
    if not come_to:
        return _Link(None, app.app, f"not looked up; {needed}")
    if app.chosen is None:
        return _Link(False, app.app, f"no account; {needed}")
    newest, *others = app.candidates
    used = f"{_named(newest)} is the newest and is used; {needed}"
    if not newest.healthy:
        used += "; it does not work any more: connect it again"
    if newest.withheld:
        used += "; its credentials are withheld, so outside calls go through Connect's proxy"
    if others:
        used += f". Older: {', '.join(_named(each) for each in others)}"
    return _Link(True, app.app, used)


def _named(account: Candidate) -> str:
    name = f"{account.name}, " if account.name else ""
    return f"{account.id} ({name}{words.moment(account.created_at)})"


def _mark(link: _Link) -> str:
    return "·" if link.held is None else "✓" if link.held else "✗"

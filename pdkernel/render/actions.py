"""
Pre-built actions as a person looks them up: a list that was searched, one action with its props.

Knows plain values about them.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from pdkernel.render import formatting
from pdkernel.render.markup import (
    CODE_STYLE,
    CONTAINER_STYLE,
    Html,
    escape_control_characters,
    join_lines,
    muted,
    pill,
    tag,
)

MAX_LISTED_ACTIONS = 50
"""Actions in a list; who searches wants few."""

_LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")


@dataclass(frozen=True, slots=True)
class PropRow:
    """
    A prop of an action.

    Attributes:
        name: What the cell's body calls it.
        type: As declared.
        required: Whether it must have a value.
        label: For people.
        description: For people.
        choices: What it may be, or how that is found out; empty where anything may stand.
        default: What it is without a value, as JSON text, or None.
    """

    name: str
    type: str
    required: bool
    label: str = ""
    description: str = ""
    choices: str = ""
    default: str | None = None

    @property
    def type_label(self) -> str:
        """Its type, whether it must be given, and what it is otherwise."""
        if self.required:
            return f"{self.type}, required"
        return f"{self.type}, default {self.default}" if self.default is not None else self.type


@dataclass(frozen=True, slots=True)
class ActionView:
    """
    One action.

    Attributes:
        uses: `KEY@VERSION`.
        name: For people.
        description: For people.
        source: Where it comes from.
        apps: Slugs of the apps that it needs an account of.
        props: Its props.
        cell: A cell that uses it.
        note: A sentence about the whole, or empty.
    """

    uses: str
    name: str
    description: str
    source: str
    apps: tuple[str, ...] = ()
    props: tuple[PropRow, ...] = ()
    cell: str = ""
    note: str = ""


def render_list_text(found: Sequence[ActionView]) -> str:
    """What was found, as text: two lines each, and how many more there are."""
    made = []
    for each in found[:MAX_LISTED_ACTIONS]:
        made.append(f"{each.uses}  {each.name}  [{each.source}]")
        if each.description:
            made.append(f"    {formatting.truncate_line(_first_line(each.description), formatting.TEXT_COLUMNS - 4)}")
    made += _more(found)
    return escape_control_characters("".join(f"{line}\n" for line in made))


def render_list_html(found: Sequence[ActionView], *, hint: str = "") -> str:
    """What was found, as HTML, and below it *hint*: what to do next."""
    rows = [
        tag(
            "li",
            tag("code", each.uses),
            " ",
            tag("strong", each.name),
            " ",
            muted(each.source),
            tag("div", muted(formatting.truncate_line(_first_line(each.description), 200)))
            if each.description
            else Html(""),
            style="margin:4px 0;list-style-type:none",
        )
        for each in found[:MAX_LISTED_ACTIONS]
    ]
    found_html = tag("ul", join_lines(rows), style="margin:0;padding:0")
    parts = [found_html, *(tag("div", muted(line)) for line in (*_more(found), hint) if line)]
    return tag("div", join_lines(parts), style=CONTAINER_STYLE, class_="pd-view pd-actions")


def render_text(action: ActionView) -> str:
    """One action with its props, as text."""
    made = [f"{action.uses}  {action.name}", f"  from: {action.source}"]
    made += textwrap.wrap(
        _first_line(action.description), formatting.TEXT_COLUMNS, initial_indent="  ", subsequent_indent="  "
    )
    if action.apps:
        made.append(
            f"  accounts: {', '.join(action.apps)} (the external user's, unless the cell names one of your own)"
        )
    for prop in action.props:
        made.append(f"  {prop.name}: {prop.type_label}")
        said = ". ".join(part.rstrip(".") for part in (prop.label, _first_line(prop.description)) if part)
        for line in (said, prop.choices):
            made += (
                textwrap.wrap(line, formatting.TEXT_COLUMNS, initial_indent="      ", subsequent_indent="      ")
                if line
                else []
            )
    if action.note:
        made += textwrap.wrap(action.note, formatting.TEXT_COLUMNS, initial_indent="  ! ", subsequent_indent="    ")
    if action.cell:
        made += ["", *action.cell.rstrip("\n").split("\n")]
    return escape_control_characters("\n".join(made) + "\n")


def render_html(action: ActionView) -> str:
    """One action with its props, as HTML."""
    parts = [
        tag("div", tag("strong", action.name), " ", tag("code", action.uses), " ", muted(action.source)),
        tag("div", _first_line(action.description)),
    ]
    if action.apps:
        parts.append(tag("div", muted(f"accounts: {', '.join(action.apps)}")))
    rows = [
        tag(
            "li",
            tag("code", prop.name),
            " ",
            pill("required", "warn") if prop.required else Html(""),
            " ",
            muted(prop.type if prop.required else prop.type_label),
            tag("div", ". ".join(part.rstrip(".") for part in (prop.label, _first_line(prop.description)) if part)),
            tag("div", muted(prop.choices)) if prop.choices else Html(""),
            style="margin:4px 0;list-style-type:none",
        )
        for prop in action.props
    ]
    if rows:
        parts.append(tag("ul", join_lines(rows), style="margin:4px 0;padding:0;list-style-type:none"))
    if action.note:
        parts.append(tag("div", action.note))
    if action.cell:
        parts.append(tag("pre", action.cell, style=CODE_STYLE))
    return tag("div", join_lines(parts), style=CONTAINER_STYLE, class_="pd-view pd-actions")


def _more(found: Sequence[ActionView]) -> list[str]:
    """A sentence about those that are not shown."""
    left = len(found) - MAX_LISTED_ACTIONS
    return [f"... and {left} more. To see fewer: more words, or --app SLUG."] if left > 0 else []


def _first_line(description: str) -> str:
    """Its first paragraph on one line; descriptions are Markdown, whose links are written out."""
    line = " ".join(description.split("\n\n", maxsplit=1)[0].split())
    return _LINK.sub(r"\1: \2", line)

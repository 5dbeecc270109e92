"""View of pre-built actions: search results, and one action with its props."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from pdkernel.actions.action_view import ActionView  # which loads the pool of workers

MAX_LISTED_ACTIONS = 50
"""Maximum number of actions in a list."""

_LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")


def render_list_text(found: Sequence[ActionView]) -> str:
    """Render search results as text: up to two lines for each action, then the number of actions that are not shown."""
    lines = []
    for each in found[:MAX_LISTED_ACTIONS]:
        lines.append(f"{each.uses}  {each.name}  [{each.source}]")
        if each.description:
            lines.append(
                f"    {formatting.truncate_line(format_first_paragraph(each.description), formatting.TEXT_COLUMNS - 4)}"
            )
    lines += _more(found)
    return escape_control_characters("".join(f"{line}\n" for line in lines))


def render_list_html(found: Sequence[ActionView], *, hint: str = "") -> str:
    """Render search results as HTML, with *hint* below."""
    rows = [
        tag(
            "li",
            tag("code", each.uses),
            " ",
            tag("strong", each.name),
            " ",
            muted(each.source),
            tag("div", muted(formatting.truncate_line(format_first_paragraph(each.description), 200)))
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
    """Render an action with its props as text."""
    lines = [f"{action.uses}  {action.name}", f"  from: {action.source}"]
    lines += textwrap.wrap(
        format_first_paragraph(action.description), formatting.TEXT_COLUMNS, initial_indent="  ", subsequent_indent="  "
    )
    if action.apps:
        lines.append(
            f"  accounts: {', '.join(action.apps)} (the external user's, unless the cell names one of your own)"
        )
    for prop in action.props:
        lines.append(f"  {prop.name}: {prop.type_label}")
        description = ". ".join(
            part.rstrip(".") for part in (prop.label, format_first_paragraph(prop.description)) if part
        )
        for line in (description, prop.choices):
            lines += (
                textwrap.wrap(line, formatting.TEXT_COLUMNS, initial_indent="      ", subsequent_indent="      ")
                if line
                else []
            )
    if action.note:
        lines += textwrap.wrap(action.note, formatting.TEXT_COLUMNS, initial_indent="  ! ", subsequent_indent="    ")
    if action.cell:
        lines += ["", *action.cell.rstrip("\n").split("\n")]
    return escape_control_characters("\n".join(lines) + "\n")


def render_html(action: ActionView) -> str:
    """Render an action with its props as HTML."""
    parts = [
        tag("div", tag("strong", action.name), " ", tag("code", action.uses), " ", muted(action.source)),
        tag("div", format_first_paragraph(action.description)),
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
            tag(
                "div",
                ". ".join(part.rstrip(".") for part in (prop.label, format_first_paragraph(prop.description)) if part),
            ),
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
    """Return a sentence about the number of actions that are not shown."""
    left = len(found) - MAX_LISTED_ACTIONS
    return [f"... and {left} more. To see fewer, add words or --app SLUG."] if left > 0 else []


def format_first_paragraph(description: str) -> str:
    """Return the first paragraph of a Markdown description on one line, with links written out."""
    line = " ".join(description.split("\n\n", maxsplit=1)[0].split())
    return _LINK.sub(r"\1: \2", line)

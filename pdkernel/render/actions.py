"""View of pre-built actions: search results, and one action with its props."""

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
"""Maximum number of actions in a list."""

_LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")


@dataclass(frozen=True, slots=True)
class PropRow:
    """
    A prop of an action.

    Attributes:
        name: Key of the prop in a cell.
        type: Declared type.
        required: Whether the prop must have a value.
        label: Display name.
        description: Description.
        choices: A sentence with the possible values, or with the command that lists them; empty for any value.
        default: Default value as JSON text, or None.
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
        """The type, with `required` or the default value."""
        if self.required:
            return f"{self.type}, required"
        return f"{self.type}, default {self.default}" if self.default is not None else self.type


@dataclass(frozen=True, slots=True)
class ActionView:
    """
    One action.

    Attributes:
        uses: `KEY@VERSION`.
        name: Display name.
        description: Description.
        source: Source of the action.
        apps: Slugs of apps whose accounts the action needs.
        props: Props of the action.
        cell: A cell that uses the action.
        note: A sentence about the action, or empty.
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
    """A sentence about the number of actions that are not shown."""
    left = len(found) - MAX_LISTED_ACTIONS
    return [f"... and {left} more. To see fewer, add words or --app SLUG."] if left > 0 else []


def format_first_paragraph(description: str) -> str:
    """The first paragraph of a Markdown description on one line, with links written out."""
    line = " ".join(description.split("\n\n", maxsplit=1)[0].split())
    return _LINK.sub(r"\1: \2", line)

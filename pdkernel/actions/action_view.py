"""
The description of an action for display, and the notebook cell that uses the action.

Drawing is in `render.actions`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pdkernel.actions.component import ACCOUNTLESS_APPS, Component, suggest_step_name
from pdkernel.language.directive import format_step_line
from pdkernel.model import AppBinding, Step
from pdkernel.workers import ComponentDescription, PropDeclaration

_MAX_LISTED_CHOICES = 12
_HIDDEN_PROP_TYPES = frozenset({"alert", "dir"})
_VALUE_HINTS: Mapping[str, str] = {"data_store": "The name of a data store; the project's default store if empty"}


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


def build_action_view(
    component: Component, description: ComponentDescription | None = None, *, name: str | None = None
) -> ActionView:
    """
    Build the view of *component* for display.

    Args:
        component: The action.
        description: The declarations of the action, or None for an entry of a list.
        name: The step's name; default: the name that the platform's builder chooses.
    """
    if description is None:
        return ActionView(component.uses, component.name, component.description, component.source)
    shown = [prop for prop in description.props if _is_shown(prop)]
    return ActionView(
        uses=component.uses,
        name=component.name,
        description=component.description or description.description or "",
        source=component.source_summary,
        apps=tuple(dict.fromkeys(app.app for app in description.apps if app.app not in ACCOUNTLESS_APPS)),
        props=tuple(_row(prop) for prop in shown),
        cell=build_action_cell(component, description, name=name),
        note="The action has more props once these have values." if description.additional else "",
    )


def build_action_cell(component: Component, description: ComponentDescription, *, name: str | None = None) -> str:
    """Return a cell that uses *component*: its required props to fill in, its optional props as comments."""
    apps = tuple(AppBinding(app.app, app.app) for app in description.apps if app.app not in ACCOUNTLESS_APPS)
    # the directive names the slug alone; the step finds a prop with another name by its app
    step = Step(name or suggest_step_name(component.key), "node", uses=component.uses, apps=tuple(dict.fromkeys(apps)))
    lines = [format_step_line(step)]
    for prop in description.props:
        if _is_shown(prop):
            lines += _prop_lines(prop)
    return "\n".join(lines) + "\n"


def _prop_lines(prop: PropDeclaration) -> list[str]:
    row = _row(prop)
    text = ". ".join(part.rstrip(".") for part in (row.label, " ".join(row.description.split())) if part)
    text = text.replace("{{", "{ {")  # {{ starts an expression in a cell, even in a comment
    comment = f"# {row.type_label}: {text}" if text else f"# {row.type_label}"
    lines = [comment[:200]]
    if row.choices:
        lines.append(f"# {row.choices}"[:200])
    lines.append(f"{prop.name}:" if row.required else f"# {prop.name}: {row.default or ''}".rstrip())
    return lines


def _is_shown(prop: PropDeclaration) -> bool:
    return prop.type not in _HIDDEN_PROP_TYPES and not prop.type.startswith("$.") and not prop.definition.get("hidden")


def _row(prop: PropDeclaration) -> PropRow:
    definition = prop.definition
    default = definition.get("default")
    return PropRow(
        name=prop.name,
        type=prop.type,
        required=not prop.optional and prop.type != "data_store",
        label=str(definition.get("label") or ""),
        description=str(definition.get("description") or ""),
        choices=_choices(prop),
        default=None if default is None else json.dumps(default, ensure_ascii=False),
    )


def _choices(prop: PropDeclaration) -> str:
    if prop.definition.get("dynamic"):
        return "List the choices with the external user's account: %pdactions --form STEP"
    listed = prop.definition.get("options")
    if isinstance(listed, list) and listed:
        return f"One of: {_join_first(_choice(each) for each in listed)}"
    return _VALUE_HINTS.get(prop.type, "")


def _choice(option: object) -> str:
    if isinstance(option, dict):
        value, label = option.get("value"), option.get("label")
        return f"{value} ({label})" if label and label != value else str(value)
    return str(option)


def _join_first(words: Iterable[str]) -> str:
    listed = list(words)
    more = f" and {len(listed) - _MAX_LISTED_CHOICES} more" if len(listed) > _MAX_LISTED_CHOICES else ""
    return ", ".join(listed[:_MAX_LISTED_CHOICES]) + more

"""
The form behind `%pdactions --form`: the props of a step that uses a pre-built action.

A form cannot write into a cell: it shows the cell's source for copying. A field takes an option, another text or an
expression.
"""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ipywidgets as ipw

from pdkernel.directive import format_step_cell
from pdkernel.directive.option_values import format_value, parse_value
from pdkernel.errors import PdkernelError
from pdkernel.model import JSON, Step
from pdkernel.render.rich_output import RichOutput
from pdkernel.session import Session
from pdkernel.widgets.components import (
    build_copyable_block_html,
    build_copyable_html,
    build_field_layout,
    build_field_row,
    close_tree,
    create_message,
    format_message_html,
    set_children,
    set_value,
    set_visible,
    show_message,
)
from pdkernel.widgets.form import SessionForm
from pdkernel.workers import PropDeclaration, PropOption

_NAME_PX = 170  # prop names are longer than the names in other forms
_FIELD_MARGIN = f"2px 2px 2px {_NAME_PX + 10}px"
_HIDDEN_PROP_TYPES = frozenset({"alert", "dir", "data_store"})


class PropField:
    """
    The field of one prop: takes any text; with options, also buttons to look up options.

    Args:
        prop: The prop's declaration.
        changed: Called after the user changed the value.
        look_up: Loads a page of options; None for a prop without options.
    """

    def __init__(
        self, prop: PropDeclaration, changed: Callable[..., None], look_up: Callable[[PropField], None] | None
    ) -> None:
        self.prop = prop
        self.page = 0
        self.context: JSON = None
        self.query: str | None = None
        self._values: dict[str, JSON] = {}
        given = prop.definition
        needed = "" if prop.optional else " (required)"
        self.value = ipw.Combobox(
            description=prop.name,
            placeholder=f"{prop.type}{needed}, or an {{{{expression}}}}",
            tooltip=str(given.get("description") or given.get("label") or prop.name)[:300],
            ensure_option=False,
            style={"description_width": f"{_NAME_PX}px"},
            layout=build_field_layout(_NAME_PX + 450, min_width_px=_NAME_PX + 180),
        )
        self.value.observe(changed, "value")
        self.search = ipw.Text(placeholder="search", layout={"width": "140px"}, continuous_update=False)
        self.lookup_button = ipw.Button(
            description="Look up", tooltip="Load the prop's options", layout={"width": "90px"}
        )
        self.more_button = ipw.Button(
            description="More", tooltip="Load the next page of options", layout={"width": "70px", "display": "none"}
        )
        self.message = create_message()
        self.message.layout.margin = _FIELD_MARGIN
        self.message.layout.width = f"calc(100% - {_NAME_PX + 18}px)"
        others: list[Any] = []
        if look_up is not None:
            if given.get("useQuery"):
                others.append(self.search)
            others += [self.lookup_button, self.more_button]
            self.lookup_button.on_click(lambda _: self._begin(look_up))
            self.more_button.on_click(lambda _: look_up(self))
        else:
            self.add_options([_option(each) for each in _static_options(prop)])
        label = ". ".join(str(given[key]).rstrip(".") for key in ("label", "description") if given.get(key))
        if label.casefold() == prop.name.casefold():
            label = ""  # the name is beside the field already
        hint = ipw.HTML(format_message_html(label[:300]), layout={"margin": _FIELD_MARGIN})
        self.view = ipw.VBox([build_field_row(self.value, *others, name_px=_NAME_PX), hint, self.message])

    @property
    def current_value(self) -> JSON:
        """The value of the chosen option, or the parsed text; None for an empty field."""
        text = self.value.value
        if text in self._values:
            return self._values[text]
        return parse_value(text) if text.strip() else None

    def show_value(self, value: JSON) -> None:
        """Show *value* of the cell."""
        label = next((label for label, known in self._values.items() if known == value), None)
        set_value(self.value, "" if value is None else label if label is not None else format_value(value))

    def add_options(self, options: list[PropOption]) -> None:
        """Add *options* to the options of the field."""
        for option in options:
            label = (
                option.label
                if self._values.get(option.label, option.value) == option.value
                else f"{option.label} ({option.value})"
            )
            self._values[label] = option.value
        self.value.options = tuple(self._values)

    def _begin(self, look_up: Callable[[PropField], None]) -> None:
        self.page, self.context, self.query = 0, None, self.search.value.strip() or None
        self._values = {}
        look_up(self)


class ActionForm(SessionForm):
    """
    The form for the props of a step that uses a pre-built action.

    Args:
        session: The session of the step; options are loaded with its external user's account.
        step: The step's name.

    Raises:
        PdkernelError: There is no such step, the step is code, or its action is unavailable.
    """

    _title = "Props of an action"

    def __init__(self, session: Session, step: str) -> None:
        found = session.workflow.step(step)
        _, description = session.actions.describe(found.uses or step)
        self.step: Step = found
        self._fields: dict[str, PropField] = {}
        self._added: tuple[PropDeclaration, ...] = ()
        self._declared = tuple(prop for prop in description.props if _shown(prop))
        self._box = ipw.VBox()
        self.more_props_button = ipw.Button(
            description="More props",
            tooltip="Load the props that the action adds for these values",
            layout={"width": "120px", "margin": _FIELD_MARGIN, "display": None if description.additional else "none"},
        )
        self._loaded = False
        super().__init__(session, [self._box, self.more_props_button])
        self.more_props_button.on_click(self._user_handler(self._reload))

    @property
    def magic_line(self) -> str:
        """The magic line that shows the same form."""
        return f"%pdactions --form {self.step.name}"

    @property
    def cell_source(self) -> str:
        """The source of the step's cell with the values of the form."""
        shown = {name: each.current_value for name, each in self._fields.items()}
        kept = {name: value for name, value in self.step.props.items() if name not in shown}
        values = {**kept, **{name: value for name, value in shown.items() if value is not None}}
        order = [name for name in (*self.step.props, *values) if name in values]
        return format_step_cell(replace(self.step, props={name: values[name] for name in order}))

    def get_field(self, prop: str) -> PropField:
        """The field of *prop*. Raises `KeyError`."""
        return self._fields[prop]

    def _update_widgets(self) -> None:
        for prop in (*self._declared, *self._added):
            if prop.name not in self._fields:
                look_up = self._look_up if prop.definition.get("dynamic") else None
                field = self._fields[prop.name] = PropField(prop, self._user_handler(self._changed), look_up)
                field.show_value(self.step.props.get(prop.name))
        wanted = {prop.name for prop in (*self._declared, *self._added)}
        for name in [name for name in self._fields if name not in wanted]:
            close_tree(self._fields.pop(name).view)
        set_children(self._box, [each.view for each in self._fields.values()])
        self._show_line(self.magic_line)

    def _build_saved_output(self) -> RichOutput:
        text = f"Step {self.step.name} uses {self.step.uses}."
        shown = f"<div>{html.escape(text)} {build_copyable_html(self.magic_line)}</div>{build_copyable_block_html(self.cell_source)}"
        return RichOutput(f"{text} Its cell:\n{self.cell_source}\n{self.magic_line}", shown)

    def _changed(self) -> None:
        self._saved_output.update(self._build_saved_output())

    def _look_up(self, prop: PropField) -> None:
        values = {
            name: each.current_value
            for name, each in self._fields.items()
            if each.current_value is not None and each is not prop
        }
        try:
            found = self._session.actions.fetch_options(
                self.step,
                prop.prop.name,
                values={**self.step.props, **values},
                page=prop.page,
                context=prop.context,
                query=prop.query,
            )
        except PdkernelError as fault:
            show_message(prop.message, str(fault), kind="error")
            return
        prop.page, prop.context = prop.page + 1, found.context
        prop.add_options(list(found.options))
        set_visible(prop.more_button, visible=bool(found.options))
        if found.empty_reason:
            show_message(prop.message, found.empty_reason, kind="warn")
        else:
            show_message(prop.message, f"{len(prop.value.options)} options." if found.options else "No more options.")

    def _reload(self) -> None:
        values = {name: each.current_value for name, each in self._fields.items() if each.current_value is not None}
        self._added = tuple(
            prop
            for prop in self._session.actions.fetch_additional_props(self.step, values={**self.step.props, **values})
            if _shown(prop)
        )
        self.refresh()


def _shown(prop: PropDeclaration) -> bool:
    return prop.type not in _HIDDEN_PROP_TYPES and not prop.type.startswith("$.") and not prop.definition.get("hidden")


def _static_options(prop: PropDeclaration) -> list[Any]:
    listed = prop.definition.get("options")
    if isinstance(listed, list):
        return listed
    return [True, False] if prop.type == "boolean" else []


def _option(each: Any) -> PropOption:
    if isinstance(each, dict):
        return PropOption(str(each.get("label", each.get("value"))), each.get("value"))
    return PropOption(format_value(each), each)

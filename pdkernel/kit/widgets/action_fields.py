"""
The fields of an action's form: a field for each prop, by its type, and a field for each account.

Every field takes an expression in place of a value. A value of the wrong type is reported below its field.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as ipw

from pdkernel.errors import format_count
from pdkernel.kit.widgets.components import (
    build_field_layout,
    build_field_row,
    create_message,
    format_message_html,
    on_enter,
    set_value,
    set_visible,
    show_message,
)
from pdkernel.language.directive.option_values import format_value, parse_value
from pdkernel.language.expression.template import OPENING_BRACES, add_missing_braces
from pdkernel.model import JSON
from pdkernel.render.actions import format_first_paragraph
from pdkernel.workers import PropDeclaration, PropOption, PropOptionsPage

NAME_PX = 170
"""Width of a field's label in pixels: labels of props are longer than the labels of other forms."""
FIELD_MARGIN = f"2px 2px 2px {NAME_PX + 10}px"
LABEL_STYLE = {"description_width": f"{NAME_PX}px"}
_MESSAGE_WIDTH = f"calc(100% - {NAME_PX + 18}px)"
_HIDDEN_PROP_TYPES = frozenset({"alert", "dir"})
_MAX_DESCRIPTION = 300


def create_field_message() -> Any:
    """A hidden widget for a message below a field of an action."""
    message = create_message()
    message.layout.margin, message.layout.width = FIELD_MARGIN, _MESSAGE_WIDTH
    return message


def is_shown_prop(prop: PropDeclaration) -> bool:
    """Whether a form has a field for *prop*."""
    return prop.type not in _HIDDEN_PROP_TYPES and not prop.type.startswith("$.") and not prop.definition.get("hidden")


def parse_prop_value(prop: PropDeclaration, text: str) -> JSON:
    """
    The value of *prop* that *text* of a field is: an expression, or a value of the prop's type; None for a blank text.

    Raises:
        ValueError: *text* is neither; the message is a sentence for the person who typed it.
    """
    text = text.strip()
    if not text:
        return None
    if prop.definition.get("secret") and OPENING_BRACES not in text:
        raise ValueError(
            "This prop is secret, and a value in a cell is saved with the notebook. Store the value with %pdenv, and type "
            "{{process.env.NAME}}."
        )
    if prop.type.endswith("[]"):
        return _parse_list(prop.type.removesuffix("[]"), text)
    return _parse_one(prop.type, text)


def format_prop_value(prop: PropDeclaration, value: JSON) -> str:
    """The text of a field for *value*; the reverse of `parse_prop_value`."""
    if value is None:
        return ""
    item_type = prop.type.removesuffix("[]")
    if isinstance(value, list) and item_type != prop.type:
        items = [_format_one(item_type, item) for item in value]
        return "\n".join(items) if all(item.strip() for item in items) else json.dumps(value)
    return _format_one(item_type, value)


class PropField:
    """
    The field of one prop, with buttons for its options.

    Args:
        prop: The prop's declaration.
        changed: Called after the user changed the value.
        entered: Called after Enter in the field.
        load: Loads a page of options; None for a prop whose options never change.
    """

    def __init__(
        self,
        prop: PropDeclaration,
        *,
        changed: Callable[..., None],
        entered: Callable[[], None],
        load: Callable[[PropField], None] | None,
    ) -> None:
        self.prop = prop
        self.page = 0
        self.context: JSON = None
        self.query: str | None = None
        self.needs_options = load is not None
        self._values: dict[str, JSON] = {}
        self._discards = 0
        given = prop.definition
        self.label = str(given.get("label") or prop.name)
        self.value = self._build_value_widget()
        self.value.observe(changed, "value")
        on_enter(self.value, entered)
        self.picker = ipw.Combobox(
            placeholder="choose an option to add", tooltip=f"Options of {self.label}", layout={"width": "260px"}
        )
        self.picker.observe(lambda _: self._add_picked(), "value")
        self.search = ipw.Text(placeholder="search the options", layout={"width": "150px"})
        self.load_button = ipw.Button(
            description="Load options", tooltip=f"Load the options of {self.label} again", layout={"width": "auto"}
        )
        self.more_button = ipw.Button(
            description="More", tooltip="Load the next page of options", layout={"width": "auto", "display": "none"}
        )
        self.message = create_field_message()
        others: list[Any] = [self.picker] if self._is_list and (load is not None or _static_options(prop)) else []
        if load is not None:
            others += [self.search] if given.get("useQuery") else []
            others += [self.load_button, self.more_button]
            self.load_button.on_click(lambda _: self._reload(load))
            on_enter(self.search, lambda: self._reload(load))
            self.more_button.on_click(lambda _: load(self))
        else:
            self._add_options([_option(each) for each in _static_options(prop)])
        hint = ipw.HTML(
            format_message_html(self._build_hint()), layout={"margin": FIELD_MARGIN, "width": _MESSAGE_WIDTH}
        )
        self.view = ipw.VBox([build_field_row(self.value, *others, name_px=NAME_PX), hint, self.message])

    @property
    def is_required(self) -> bool:
        """Whether the action refuses to run without a value."""
        return not self.prop.optional and self.prop.type != "data_store"

    @property
    def text(self) -> str:
        """The text of the field."""
        return str(self.value.value)

    def parse_value(self) -> JSON:
        """The value of the chosen option, or of the text; None for an empty field. Raises `ValueError`."""
        text = self.text
        if text in self._values:
            return self._values[text]
        if not self._is_list:
            return parse_prop_value(self.prop, text)
        lines = [line.strip() for line in text.splitlines()]
        if any(line in self._values for line in lines):
            item = self.prop.type.removesuffix("[]")
            return [self._values[line] if line in self._values else _parse_one(item, line) for line in lines if line]
        return parse_prop_value(self.prop, text)

    def find_problem(self) -> str:
        """Why the action cannot run with the value; empty if it can."""
        try:
            value = self.parse_value()
        except ValueError as fault:
            return str(fault)
        return f"{self.label} is required: type a value or an expression." if self.is_required and value is None else ""

    def show_problem(self) -> bool:
        """Show why the action cannot run with the value, and return whether there is a reason."""
        problem = self.find_problem()
        show_message(self.message, problem, kind="error")
        return bool(problem)

    def show_value(self, value: JSON) -> None:
        """Show *value* of the cell."""
        label = next((label for label, known in self._values.items() if known == value), None)
        set_value(self.value, label if label is not None else format_prop_value(self.prop, value))

    def show_options(self, page: PropOptionsPage) -> None:
        """Add a page of options to the field, or show why it has none."""
        self.needs_options = False
        self.page, self.context = self.page + 1, page.context
        self._add_options(page.options)
        set_visible(self.more_button, visible=bool(page.options))
        if page.empty_reason:
            show_message(self.message, page.empty_reason, kind="warn")
        else:
            show_message(
                self.message, f"{format_count(len(self._values), 'option')}." if page.options else "No more options."
            )

    def show_failure(self, text: str) -> None:
        """Show why the options could not be loaded."""
        self.needs_options = False
        show_message(self.message, text, kind="error")

    def forget_secret(self) -> None:
        """Remove the message of an earlier check; remove a secret that was typed as a value, and explain how to store it."""
        is_literal = self.prop.definition.get("secret") and self.text and self.find_problem()
        if is_literal:
            self.show_problem()
            set_value(self.value, "")
        elif not self.prop.definition.get("dynamic"):
            show_message(self.message, "")

    def discard_options(self) -> None:
        """Remove the options, which were those of another account or of other values."""
        self.needs_options = True
        self._discards += 1
        self.page, self.context = 0, None
        self._values = {}
        self._add_options(())

    @property
    def position(self) -> tuple[int, int]:
        """Which page of which list of options comes next: an answer for another position is out of date."""
        return self._discards, self.page

    @property
    def has_options(self) -> bool:
        """Whether options are in the field."""
        return bool(self._values)

    @property
    def _is_list(self) -> bool:
        return self.prop.type.endswith("[]")

    def _build_value_widget(self) -> Any:
        prop, given = self.prop, self.prop.definition
        default = "" if given.get("default") is None else f"default {format_value(given['default'])}, "
        placeholder = f"{default}{_describe_type(prop.type)}, or an {{{{expression}}}}"
        shared: dict[str, Any] = {
            "description": f"{self.label}{' *' if self.is_required else ''}",
            "placeholder": "{{process.env.NAME}}" if given.get("secret") else placeholder,
            "tooltip": str(given.get("description") or self.label)[:_MAX_DESCRIPTION],
            "style": LABEL_STYLE,
            "layout": build_field_layout(NAME_PX + 450, min_width_px=NAME_PX + 180),
            # a secret that was typed as a literal must not arrive letter by letter in the saved state
            "continuous_update": not given.get("secret"),
        }
        if self._is_list:
            return ipw.Textarea(rows=2, **{**shared, "placeholder": f"{placeholder}; one item on each line"})
        if given.get("dynamic") or _static_options(prop):
            return ipw.Combobox(ensure_option=False, **shared)
        return ipw.Text(**shared)

    def _build_hint(self) -> str:
        kind = "required" if self.is_required else "optional"
        description = format_first_paragraph(str(self.prop.definition.get("description") or ""))
        return f"{self.prop.name}: {self.prop.type}, {kind}. {description}".strip()[:_MAX_DESCRIPTION]

    def _add_options(self, options: Sequence[PropOption]) -> None:
        for option in options:
            is_unique = self._values.get(option.label, option.value) == option.value
            self._values[option.label if is_unique else f"{option.label} ({option.value})"] = option.value
        target = self.picker if self._is_list else self.value
        if isinstance(target, ipw.Combobox) and target.options != tuple(self._values):
            target.options = tuple(self._values)

    def _add_picked(self) -> None:
        picked = self.picker.value
        if picked in self._values:
            lines = [line for line in self.text.splitlines() if line.strip()]
            self.value.value = "\n".join(lines if picked in lines else [*lines, picked])
            self.picker.value = ""

    def _reload(self, load: Callable[[PropField], None]) -> None:
        self.discard_options()
        self.query = self.search.value.strip() or None
        load(self)


def _describe_type(prop_type: str) -> str:
    item = prop_type.removesuffix("[]")
    name = {"string": "text", "integer": "a whole number", "boolean": "true or false", "object": "a JSON object"}.get(
        item
    )
    return name or {"any": "any value", "data_store": "the name of a data store"}.get(item, item)


def _parse_one(prop_type: str, text: str) -> JSON:
    if OPENING_BRACES in text:
        return text
    value = parse_value(text)
    if prop_type == "string":
        return value if isinstance(value, str) else text
    if prop_type == "integer" and (isinstance(value, bool) or not isinstance(value, int)):
        raise ValueError(f"{text} is not a whole number.")
    if prop_type == "boolean" and not isinstance(value, bool):
        raise ValueError(f"{text} is not true or false.")
    if prop_type == "object" and not isinstance(value, dict) and add_missing_braces(text) == text:
        raise ValueError('Expected a JSON object, such as {"key": "value"}, or an expression.')
    return value


def _parse_list(item_type: str, text: str) -> JSON:
    whole = parse_value(text) if text.startswith("[") else None
    if isinstance(whole, list):
        return whole
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) == 1 and lines[0].startswith(OPENING_BRACES):
        return lines[0]  # the expression is the whole list
    return [_parse_one(item_type, line) for line in lines]


def _format_one(prop_type: str, value: JSON) -> str:
    is_plain = isinstance(value, str) and value.isprintable() and not value.startswith('"')
    # in the field of a text prop, a text that would parse as JSON is a text
    return str(value) if is_plain and prop_type not in ("any", "object") else format_value(value)


def _static_options(prop: PropDeclaration) -> list[Any]:
    listed = prop.definition.get("options")
    if isinstance(listed, list):
        return listed
    return [True, False] if prop.type == "boolean" else []


def _option(each: Any) -> PropOption:
    if isinstance(each, dict):
        return PropOption(str(each.get("label", each.get("value"))), each.get("value"))
    return PropOption(format_value(each), each)

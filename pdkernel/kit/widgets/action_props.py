"""
The fields of a chosen action: one for each account and for each prop, by its type, with what they load in the background.

Every field takes an expression in place of a value. A value of the wrong type is reported below its field. Options of a
prop are loaded with the external user's account: at first, after another user or account was chosen, and after a prop
changed on which they may depend.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import ipywidgets as ipw

from pdkernel.actions import Component
from pdkernel.actions.component import ACCOUNTLESS_APPS
from pdkernel.common.identity import Account
from pdkernel.errors import PdkernelError, format_count
from pdkernel.kit.session import Session, actions
from pdkernel.kit.widgets.components import (
    build_field_layout,
    build_field_row,
    close_tree,
    create_message,
    format_message_html,
    on_enter,
    set_children,
    set_value,
    set_visible,
    show_message,
)
from pdkernel.kit.widgets.form import LatestCall
from pdkernel.language.directive.step_line import format_value, parse_value
from pdkernel.language.expression.template import OPENING_BRACES, add_missing_braces
from pdkernel.model import JSON, AppBinding, Step
from pdkernel.render.actions import format_first_paragraph
from pdkernel.render.apps import format_app_name
from pdkernel.workers import ComponentDescription, OptionsQuery, PropDeclaration, PropOption, PropOptionsPage

TYPING_S = 0.3
"""Seconds without typing after which a form acts on the typed text."""
NAME_PX = 170
"""Width of a field's label in pixels: labels of props are longer than the labels of other forms."""
FIELD_MARGIN = f"2px 2px 2px {NAME_PX + 10}px"
LABEL_STYLE = {"description_width": f"{NAME_PX}px"}
_MESSAGE_WIDTH = f"calc(100% - {NAME_PX + 18}px)"
_HIDDEN_PROP_TYPES = frozenset({"alert", "dir"})
_MAX_DESCRIPTION = 300


def create_field_message() -> Any:
    """Return a hidden widget for a message below a field of an action."""
    message = create_message()
    message.layout.margin, message.layout.width = FIELD_MARGIN, _MESSAGE_WIDTH
    return message


def is_shown_prop(prop: PropDeclaration) -> bool:
    """Return whether a form has a field for *prop*."""
    return prop.type not in _HIDDEN_PROP_TYPES and not prop.type.startswith("$.") and not prop.definition.get("hidden")


def parse_prop_value(prop: PropDeclaration, text: str) -> JSON:
    """
    Return the value of *prop* that *text* of a field is: an expression, or a value of the prop's type; None for a blank text.

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
    """Return the text of a field for *value*; the reverse of `parse_prop_value`."""
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
        """Return the value of the chosen option, or of the text; None for an empty field. Raises `ValueError`."""
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
        """Return why the action cannot run with the value; empty if it can."""
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


_DYNAMIC, _RELOADS = "dynamic", "reloadProps"


@dataclass(frozen=True)
class ChosenAction:
    """An action, its declaration, and the step that uses it, as written before the form."""

    component: Component
    description: ComponentDescription
    step: Step


@dataclass(frozen=True)
class FormHooks:
    """
    What the fields need of their form.

    Attributes:
        handler: Wraps a handler of a person's change: ignores changes that the form makes, and shows errors.
        filling: A block in which the form sets widgets.
        changed: Called after a value changed.
        redraw: Called after props were added or removed, from another thread.
        entered: Called after Enter in a field.
    """

    handler: Callable[[Callable[[], None]], Callable[..., None]]
    filling: Callable[[], AbstractContextManager[None]]
    changed: Callable[[], None]
    redraw: Callable[[], None]
    entered: Callable[[], None]


class AccountField:
    """
    The field of an app prop: the external user's account, or an account of the author's own.

    Args:
        binding: The prop, its app, and the account that the cell names.
        changed: Called after the user changed the value.

    Attributes:
        is_missing: Whether a run would find no account.
    """

    def __init__(self, binding: AppBinding, *, changed: Callable[..., None]) -> None:
        self.binding = binding
        self.is_missing = False
        self._name = format_app_name(binding.app)
        self.value = ipw.Dropdown(
            options=[("the external user's account", "")],
            description=f"{self._name} account",
            tooltip=f"The {self._name} account that the step uses",
            style=LABEL_STYLE,
            layout=build_field_layout(NAME_PX + 450, min_width_px=NAME_PX + 180),
        )
        self.value.observe(changed, "value")
        self.message = create_field_message()
        self.view = ipw.VBox([build_field_row(self.value, name_px=NAME_PX), self.message])

    @property
    def account(self) -> str | None:
        """The id of the author's own account, or None for the external user's account."""
        return self.value.value or None

    def update(self, user: str | None, account: Account | None, own: Sequence[Account], *, is_remote: bool) -> None:
        """Show the external user, the *account* that a run would use, and the author's *own* accounts of the app."""
        chosen = self.account or (self.binding.account if len(self.value.options) == 1 else None) or ""
        whose = "the external user's account" if user is None else f"{user}'s account"
        options = [(f"{whose}: {account.id} ({account.name or user})" if account else whose, "")]
        options += [(f"own account {each.id} ({each.name or each.id})", each.id) for each in own]
        if chosen and chosen not in [value for _, value in options]:
            options.append((f"own account {chosen}", chosen))
        if self.value.options != tuple(options):
            self.value.options = tuple(options)
            self.value.value = chosen
        who = f"{user} has no {self._name} account" if user else "No external user is chosen"
        self.is_missing = not (chosen or account or is_remote)
        show_message(
            self.message, f"{who}: choose or connect one with %pduser." if self.is_missing else "", kind="warn"
        )


class ActionProps:
    """
    The fields of an action.

    Args:
        session: The session; options are loaded with its external user's account.
        chosen: The action and its step.
        form: What the fields need of their form.
    """

    def __init__(self, session: Session, chosen: ChosenAction, form: FormHooks) -> None:
        self.chosen = chosen
        self._session = session
        self._form = form
        self._fields: dict[str, PropField] = {}
        self._added: tuple[PropDeclaration, ...] = ()
        self._scope: object = None
        self._loading, self._reloading = LatestCall(), LatestCall()
        written = {binding.app: binding for binding in chosen.step.apps}
        self._accounts = {
            app.prop: AccountField(
                replace(app, account=written[app.app].account if app.app in written else None),
                changed=form.handler(self._account_changed),
            )
            for app in chosen.description.apps
            if app.app not in ACCOUNTLESS_APPS and app.prop not in chosen.step.props
        }
        self._box, self._optional_box = ipw.VBox(), ipw.VBox(layout={"display": "none"})
        self._optional_button = ipw.Button(layout={"width": "auto", "align_self": "flex-start", "margin": FIELD_MARGIN})
        self._optional_button.on_click(form.handler(self._toggle_optional))
        self._message = create_field_message()
        self.view = ipw.VBox([self._box, self._optional_button, self._optional_box, self._message])

    @property
    def fields(self) -> Sequence[PropField]:
        """The fields of the props, in order."""
        return list(self._fields.values())

    def get_field(self, prop: str) -> PropField:
        """Return the field of *prop*. Raises `KeyError`."""
        return self._fields[prop]

    def get_account_field(self, prop: str) -> AccountField:
        """Return the field of the app prop *prop*. Raises `KeyError`."""
        return self._accounts[prop]

    def update(self) -> None:
        """Show the state of the session, and the props that the action has for the current values."""
        self._update_accounts()
        chosen = self.chosen
        declared = {prop.name: prop for prop in (*chosen.description.props, *self._added)}
        shown = {name: prop for name, prop in declared.items() if is_shown_prop(prop)}
        for name, field in list(self._fields.items()):
            if shown.get(name) != field.prop:
                close_tree(self._fields.pop(name).view)
                if name in shown:
                    self._fields[name] = self._build_field(shown[name], text=field.text)
        bound = {store.prop for store in chosen.step.stores}
        for name, prop in shown.items():
            if name not in self._fields and name not in bound:
                self._fields[name] = self._build_field(prop)
                self._fields[name].show_value(chosen.step.props.get(name))
        self._fields = {name: self._fields[name] for name in shown if name in self._fields}
        first = [each for each in self.fields if each.is_required or each.prop.name in chosen.step.props]
        optional = [each.view for each in self.fields if each not in first]
        accounts = [each.view for each in self._accounts.values()]
        set_children(self._box, [*accounts, *(each.view for each in first)])
        set_children(self._optional_box, optional)
        set_visible(self._optional_button, visible=bool(optional))
        text = f"{'Hide' if self._is_open else 'Show'} {len(optional)} optional {'prop' if len(optional) == 1 else 'props'}"
        set_value(self._optional_button, text, "description")

    def start(self) -> None:
        """Load options and added props in the background."""
        self._start_reloading(delay_s=0)
        self._start_loading()

    def wait(self, timeout_s: float) -> None:
        """Wait up to *timeout_s* seconds for what is loaded in the background."""
        self._reloading.wait(timeout_s)
        self._loading.wait(timeout_s)

    def show_problems(self) -> int:
        """Show below each field why the action cannot run with its value; returns the number of these fields."""
        problems = [field for field in self.fields if field.show_problem()]
        if any(field.view in self._optional_box.children for field in problems):
            self._open_optional()
        return len(problems)

    def build_step(self, name: str) -> Step:
        """Return the step *name* with the values of the fields; a value that is not valid is left out."""
        step = self.chosen.step
        shown = self._collect_values()
        kept = {prop: value for prop, value in step.props.items() if prop not in self._fields}
        values = {**kept, **shown}
        order = [prop for prop in dict.fromkeys((*step.props, *values)) if prop in values]
        fields = {field.binding.app: field for field in self._accounts.values()}
        apps = [_with_account(each, fields.pop(each.app, None)) for each in step.apps]
        apps += [replace(field.binding, account=field.account) for field in fields.values() if field.account]
        return replace(step, name=name, apps=tuple(apps), props={prop: values[prop] for prop in order})

    def close(self) -> None:
        """Discard what is being loaded, and close the widgets."""
        self._loading.cancel()
        self._reloading.cancel()
        close_tree(self.view)

    # ── fields ────────────────────────────────────────────────────────

    @property
    def _is_open(self) -> bool:
        return self._optional_box.layout.display != "none"

    def _update_accounts(self) -> None:
        session = self._session
        user, environment = session.external_user_id, session.environment
        found = []
        for field in self._accounts.values():
            app = field.binding.app
            account = None if user is None else session.directory.newest_account(user, environment, app)
            found.append(account.id if account else None)
            own = session.directory.accounts(app=app, own=True)
            field.update(user, account, own, is_remote=self.chosen.component.file is None)
        scope = (user, environment, found)
        before, self._scope = self._scope, scope
        if before not in (None, scope):
            self._reload_for_account()

    def _build_field(self, prop: PropDeclaration, *, text: str = "") -> PropField:
        field = PropField(
            prop,
            changed=self._form.handler(partial(self._changed, prop.name)),
            entered=self._form.entered,
            load=(lambda field: self._load_page(field, lambda: True)) if prop.definition.get(_DYNAMIC) else None,
        )
        set_value(field.value, text)
        return field

    def _open_optional(self) -> None:
        if not self._is_open:
            self._toggle_optional()

    def _toggle_optional(self) -> None:
        set_visible(self._optional_box, visible=not self._is_open)
        with self._form.filling():
            self.update()
        self._start_loading()

    def _account_changed(self) -> None:
        self._reload_for_account()
        self._form.changed()

    def _reload_for_account(self) -> None:
        """Load options and added props again: those of another account, also if they are still loading, do not count."""
        self._discard_options(self.fields)
        self._start_reloading(delay_s=0)

    def _changed(self, name: str) -> None:
        field = self._fields.get(name)
        if field is None:
            return
        field.forget_secret()
        self._form.changed()
        if any(each.is_missing for each in self._accounts.values()):
            return
        if field.prop.definition.get(_RELOADS):
            self._start_reloading(delay_s=TYPING_S)
        # an action's code may read every prop above the one whose options it lists
        below = self.fields[self.fields.index(field) + 1 :] if field.prop.definition.get(_DYNAMIC) else []
        self._discard_options(
            [each for each in self.fields if each is not field and (each in below or not each.has_options)],
            delay_s=TYPING_S,
        )

    def _collect_values(self) -> dict[str, JSON]:
        values: dict[str, JSON] = {}
        for name, field in list(self._fields.items()):
            try:
                value = field.parse_value()
            except ValueError:
                continue
            if value is not None:
                values[name] = value
        return values

    # ── options and added props ────────────────────────────────────────────────────────

    def _discard_options(self, fields: Sequence[PropField], *, delay_s: float = 0.0) -> None:
        """Remove the options of *fields*, and load them again after *delay_s* seconds without a further change."""
        for field in fields:
            if field.prop.definition.get(_DYNAMIC):
                field.discard_options()
        self._start_loading(delay_s=delay_s)

    def _start_loading(self, *, delay_s: float = 0.0) -> None:
        if any(field.needs_options for field in self.fields):
            self._loading.start(self._load_missing_options, delay_s=delay_s, on_error=self._show_error)

    def _load_missing_options(self, is_latest: Callable[[], bool]) -> None:
        for field in self.fields:
            is_shown = self._is_open or field.view in self._box.children
            if is_shown and field.needs_options and is_latest():
                self._load_page(field, is_latest)

    def _load_page(self, field: PropField, is_latest: Callable[[], bool]) -> None:
        step = self.build_step(self.chosen.step.name)
        others = {name: value for name, value in step.props.items() if name != field.prop.name}
        show_message(field.message, "Loading options ...")
        position = field.position
        try:
            page = actions.fetch_options(
                self._session,
                replace(step, props=others),
                field.prop.name,
                query=OptionsQuery(field.page, field.context, field.query),
            )
        except PdkernelError as fault:
            if is_latest() and field.position == position:
                field.show_failure(str(fault))
            return
        with self._form.filling():
            if is_latest() and field.position == position:
                field.show_options(page)

    def _start_reloading(self, *, delay_s: float) -> None:
        if self.chosen.description.additional:
            self._reloading.start(self._reload, delay_s=delay_s, on_error=self._show_error)

    def _reload(self, is_latest: Callable[[], bool]) -> None:
        step = self.build_step(self.chosen.step.name)
        show_message(self._message, "Loading the props for these values ...")
        added = actions.fetch_additional_props(self._session, step)
        if is_latest():
            self._added = added
            show_message(self._message, "")
            self._form.redraw()
            self._start_loading()

    def _show_error(self, text: str) -> None:
        show_message(self._message, text, kind="error")


def _with_account(binding: AppBinding, field: AccountField | None) -> AppBinding:
    """Return *binding* with the account of *field*; unchanged if it has this account already."""
    if field is None or field.account == binding.account:
        return binding
    # the directive names the external user's account by the slug alone
    return replace(field.binding, account=field.account) if field.account else AppBinding(binding.app, binding.app)

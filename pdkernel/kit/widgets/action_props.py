"""
The fields of a chosen action: its accounts and its props, with what they load in the background.

Options of a prop are loaded with the external user's account: at first, after another user or account was chosen, and
after a prop changed on which they may depend.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial

import ipywidgets as ipw

from pdkernel.actions import Component
from pdkernel.actions.action_reference import ACCOUNTLESS_APPS
from pdkernel.common.identity import Account
from pdkernel.errors import PdkernelError
from pdkernel.kit.session import Session, actions
from pdkernel.kit.widgets.action_fields import (
    FIELD_MARGIN,
    LABEL_STYLE,
    NAME_PX,
    PropField,
    create_field_message,
    is_shown_prop,
)
from pdkernel.kit.widgets.action_search import TYPING_S
from pdkernel.kit.widgets.background_run import LatestCall
from pdkernel.kit.widgets.components import (
    build_field_layout,
    build_field_row,
    close_tree,
    set_children,
    set_value,
    set_visible,
    show_message,
)
from pdkernel.model import JSON, AppBinding, Step
from pdkernel.render.apps import format_app_name
from pdkernel.workers import ComponentDescription, PropDeclaration

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
        """The field of *prop*. Raises `KeyError`."""
        return self._fields[prop]

    def get_account_field(self, prop: str) -> AccountField:
        """The field of the app prop *prop*. Raises `KeyError`."""
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
        """The step *name* with the values of the fields; a value that is not valid is left out."""
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
                page=field.page,
                context=field.context,
                query=field.query,
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
    """*binding* with the account of *field*; unchanged if it has this account already."""
    if field is None or field.account == binding.account:
        return binding
    # the directive names the external user's account by the slug alone
    return replace(field.binding, account=field.account) if field.account else AppBinding(binding.app, binding.app)

"""
Binds a step to the component that it uses: app props, data stores, values, and missing or unknown props.

The functions are pure. The engine looks up the accounts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pdkernel.actions.component import ACCOUNTLESS_APPS, Component, find_declared_apps
from pdkernel.errors import ActionPropsError, did_you_mean
from pdkernel.language.analysis import UNKNOWN_APP, merge_app_bindings
from pdkernel.language.expression import add_missing_braces
from pdkernel.model import ACCOUNT_KEY, JSON, AppBinding, Step, StoreBinding, get_app_slug
from pdkernel.workers import ComponentDescription, PropDeclaration

_STORE = "storeId"
_VALUELESS_PROP_TYPES = frozenset({"alert", "data_store", "dir", "app"})
"""Types of props without a value in the cell: they are only displayed, or the project fills them."""


@dataclass(frozen=True)
class BoundStep:
    """
    A step bound to its component.

    Attributes:
        step: The step with a binding for each app and data store of the component, and values for the other props.
        warnings: Sentences about props that the component does not have.
    """

    step: Step
    warnings: tuple[str, ...] = ()


def guess_app_bindings(step: Step, component: Component | None) -> tuple[AppBinding, ...]:
    """
    Return the app props of an action step whose component is not described yet, read from its module without running the module.

    Without its module, the app is the one that the key starts with; a private key names no app. App props in the directive
    keep their names; otherwise the slug is the name of the prop.
    """
    if component is not None and component.file is not None and component.file.origin != "builtin":
        return merge_declared_apps(step.apps, find_declared_apps(component.file.path))
    app = component.app if component is not None else get_app_slug(step.uses or "")
    is_named = any(binding.app == app for binding in step.apps)
    return merge_app_bindings(step.apps, _with_account((AppBinding(app, app),) if app and not is_named else ()))


def merge_declared_apps(named: tuple[AppBinding, ...], declared: tuple[AppBinding, ...]) -> tuple[AppBinding, ...]:
    """
    Return the app props of *named*, then the other *declared* app props; a declared app replaces the app that *named* has for the prop.

    A prop of an unknown app that is not declared is left out.
    """
    apps = {binding.prop: binding.app for binding in declared}
    known = (replace(binding, app=apps.get(binding.prop, binding.app)) for binding in named)
    return merge_app_bindings(
        tuple(binding for binding in known if binding.app != UNKNOWN_APP), _with_account(declared)
    )


def resolve_app_bindings(step: Step, description: ComponentDescription) -> tuple[AppBinding, ...]:
    """Return the app props of an action step: those in its directive and body, then the component's others with the external user's account."""
    written = tuple(
        AppBinding(declared.prop, declared.app, str(value[ACCOUNT_KEY]) if value.get(ACCOUNT_KEY) else None)
        for declared in description.apps
        if isinstance(value := step.props.get(declared.prop), dict) and ACCOUNT_KEY in value
    )
    named = {binding.prop for binding in written}
    directive = tuple(binding for binding in step.apps if binding.prop not in named)
    return merge_declared_apps((*directive, *written), description.apps)


def bind_step(step: Step, component: Component, description: ComponentDescription) -> BoundStep:
    """
    Bind *step* to its component.

    Args:
        step: The step as written.
        component: The component that runs.
        description: The declarations of the component.

    Raises:
        ActionPropsError: A required prop has no value, or a prop is unknown to a built-in action.
    """
    apps = resolve_app_bindings(step, description)
    stores, values = _stores(step, description)
    values = {name: value for name, value in values.items() if name not in {binding.prop for binding in apps}}
    values = add_prop_braces(values, description.props)
    unknown = [] if description.additional else _unknown(values, description)
    # the builder leaves null for a prop that another version of the action had
    stale = {name for name in unknown if values[name] is None}
    values = {name: value for name, value in values.items() if name not in stale}
    unknown = [name for name in unknown if name not in stale]
    own = component.file is not None and component.file.origin == "builtin"
    if unknown and own:
        line, where = step.locate_prop(unknown[0])
        raise ActionPropsError(
            f"Step {step.name}{where}: the built-in {component.uses} has no prop {' or '.join(map(repr, unknown))}"
            + (f", which {component.key} {component.requested_version} may have" if component.requested_version else "")
            + f".{_format_suggestions(unknown, description)}",
            fix=f"Use the props of the action: {_format_props(description)}.",
            step=step.name,
            line=line,
        )
    missing = [
        prop
        for prop in description.props
        if not prop.optional
        and not prop.definition.get("hidden")
        and prop.type not in _VALUELESS_PROP_TYPES
        and not prop.type.startswith("$.")
        and values.get(prop.name) is None
    ]
    if missing:
        line, where = step.locate_prop(missing[0].name)
        raise ActionPropsError(
            f"Step {step.name}{where}: {component.uses} needs "
            + " and ".join(f"{prop.name} ({_format_prop_type(prop)})" for prop in missing)
            + f", but the cell has no value.{_format_suggestions(unknown, description)}",
            fix=f"Write each prop on a line of the cell's body: {missing[0].name}: VALUE, or an expression "
            f"{{{{steps.trigger.event.body...}}}}. To list all props: pdkernel actions show {component.uses}",
            step=step.name,
            line=line,
        )
    warnings = [f"{component.uses} has no prop {name!r}.{_format_suggestions([name], description)}" for name in unknown]
    return BoundStep(replace(step, apps=apps, stores=stores, props=values), tuple(warnings))


def add_prop_braces(values: Mapping[str, JSON], declarations: Sequence[PropDeclaration]) -> dict[str, JSON]:
    """Return *values* with `{{ }}` added around bare JavaScript in `any` and `object` props."""
    types = {prop.name: prop.type for prop in declarations}
    return {
        name: add_missing_braces(value) if types.get(name) in {"any", "object"} else value
        for name, value in values.items()
    }


def _with_account(apps: tuple[AppBinding, ...]) -> tuple[AppBinding, ...]:
    return tuple(binding for binding in apps if binding.app not in ACCOUNTLESS_APPS)


def _stores(step: Step, description: ComponentDescription) -> tuple[tuple[StoreBinding, ...], dict[str, JSON]]:
    """Return a data store for each store prop of step and component, and the values of the other props."""
    values = dict(step.props)
    stores = {store.prop: store for store in step.stores}
    for prop in description.props:
        if prop.type != "data_store":
            continue
        written = values.pop(prop.name, None)
        name = written.get(_STORE) if isinstance(written, dict) else written
        if prop.name not in stores:
            stores[prop.name] = StoreBinding(prop.name, str(name) if name else None)
    return tuple(stores.values()), values


def _unknown(values: Mapping[str, JSON], description: ComponentDescription) -> list[str]:
    known = {prop.name for prop in description.props} | {binding.prop for binding in description.apps}
    return [name for name in values if name not in known]


def _format_suggestions(unknown: list[str], description: ComponentDescription) -> str:
    names = [prop.name for prop in description.props]
    near = {name: did_you_mean(name, names, lists_all=False) for name in unknown}
    return "".join(f" {sentence}" for sentence in near.values() if sentence)


def _format_props(description: ComponentDescription) -> str:
    return ", ".join(f"{prop.name} ({_format_prop_type(prop)})" for prop in description.props)


def _format_prop_type(prop: PropDeclaration) -> str:
    label = prop.definition.get("label")
    return f"{prop.type}, {label}" if label and str(label).lower() != prop.name.lower() else prop.type

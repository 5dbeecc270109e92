"""
The `props` of a step in `workflow.yaml`, both ways: accounts, stores, picked options and plain values.

Data without a place in the step's model is kept under `ROUND_TRIP_KEY` in its `extra`, so that a file that is read and
written again is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from pdkernel.language.analysis import UNKNOWN_APP
from pdkernel.model import ACCOUNT_KEY, JSON, ROUND_TRIP_KEY, AppBinding, Step, StoreBinding, get_app_slug

CONFIGURABLE_PROPS_KEY = "__configurableProps"
STORE_KEY = "storeId"
LABELLED_VALUE_KEY = "__lv"
PROPS_CURSOR_KEY = "_props_cursor"
"""The platform's id of the props that an action's code added; valid for that action and version only."""


@dataclass(frozen=True, slots=True)
class ParsedProps:
    """
    The props of a step, by kind.

    Attributes:
        apps: App props, with the account ids of the file.
        stores: Data stores, with the store ids of the file.
        values: The other props, picked options as their values.
        bookkeeping: Data that is needed to write the same file again.
    """

    apps: tuple[AppBinding, ...]
    stores: tuple[StoreBinding, ...]
    values: dict[str, JSON]
    bookkeeping: dict[str, JSON]


def parse_props(raw: Mapping[str, Any], *, slugs: Mapping[str, str], action: str | None) -> ParsedProps:
    """
    Parse the `props` mapping of a file.

    Args:
        raw: The file's `props`.
        slugs: App slugs that the step's code declares, by prop.
        action: The action's key, or None. A public key starts with its app's slug; a private key names no app.
    """
    definitions = [item for item in raw.get(CONFIGURABLE_PROPS_KEY) or () if isinstance(item, dict)]
    declared = {str(item.get("name")): item for item in definitions}
    apps: dict[str, AppBinding] = {}
    stores: dict[str, StoreBinding] = {}
    values: dict[str, JSON] = {}
    picked: dict[str, JSON] = {}
    for prop, item in declared.items():
        if item.get("type") == "app":
            apps[prop] = AppBinding(prop, str(item.get("app") or prop))
        elif item.get("type") == "data_store":
            stores[prop] = StoreBinding(prop)
    for prop, value in raw.items():
        if prop == CONFIGURABLE_PROPS_KEY:
            continue
        if isinstance(value, dict) and ACCOUNT_KEY in value:
            fallback = (get_app_slug(action) or UNKNOWN_APP) if action else prop
            slug = str(declared.get(prop, {}).get("app") or slugs.get(prop) or fallback)
            apps[prop] = AppBinding(prop, slug, value[ACCOUNT_KEY] or None)
        elif isinstance(value, dict) and STORE_KEY in value:
            stores[prop] = StoreBinding(prop, value[STORE_KEY] or None)
        else:
            values[prop] = strip_labels(value)
            if values[prop] != value:
                picked[prop] = {"written": value, "value": values[prop]}
    kept: dict[str, JSON] = {"picked": picked, "configurable": cast("JSON", definitions)}
    order = [prop for prop in raw if prop != CONFIGURABLE_PROPS_KEY]
    if order != [prop for prop in (*apps, *stores, *values) if prop in raw]:
        kept["order"] = cast("JSON", order)
    return ParsedProps(
        tuple(apps.values()), tuple(stores.values()), values, {key: value for key, value in kept.items() if value}
    )


def get_explicit_app(app: AppBinding, action: str | None) -> str | None:
    """Return the slug to write beside the account of *app*; None if it equals the prop's name."""
    return None if app.app == app.prop and (action is None or get_app_slug(action) == app.app) else app.app


def strip_labels(value: Any) -> JSON:
    """Return *value* with every picked option replaced by its value, without its label."""
    if isinstance(value, dict):
        if isinstance(value.get(LABELLED_VALUE_KEY), dict) and len(value) == 1:
            return strip_labels(value[LABELLED_VALUE_KEY].get("value"))
        return {key: strip_labels(item) for key, item in value.items()}
    if isinstance(value, list):
        return [strip_labels(item) for item in value]
    return cast("JSON", value)


def build_props_mapping(step: Step, apps: tuple[AppBinding, ...]) -> dict[str, JSON]:
    """
    Return the `props` of *step* for `workflow.yaml`; may be empty.

    Args:
        step: The step.
        apps: All app props of the step, including those that only its code declares.
    """
    kept = get_bookkeeping(step)
    picked = step.picked_options
    mapping: dict[str, JSON] = {}
    for binding in apps:
        # parity[end-user-account-in-git]: the form of "the end user's account" in a synced file is not known. Nothing is
        # written; pdkernel.yaml stores it, and the checklist explains where to choose it in the builder.
        if binding.account is not None:
            mapping[binding.prop] = {ACCOUNT_KEY: binding.account}
    for store in step.stores:
        if store.store is not None and is_store_id(store.store):
            mapping[store.prop] = {STORE_KEY: store.store}
    for prop, value in step.props.items():
        mapping[prop] = picked.get(prop, value)
    order = cast("list[str]", kept.get("order", []))
    mapping = {prop: mapping[prop] for prop in (*order, *mapping) if prop in mapping}
    definitions = _definitions(step, apps)
    return {CONFIGURABLE_PROPS_KEY: definitions, **mapping} if definitions else mapping


def _definitions(step: Step, apps: tuple[AppBinding, ...]) -> list[JSON]:
    """Return the definitions of a Python step's app and store props, which its code cannot declare."""
    if step.language != "python" or step.uses:
        return []
    bound = {"app": {app.prop for app in apps}, "data_store": {store.prop for store in step.stores}}
    kept = [
        item
        for item in cast("list[JSON]", get_bookkeeping(step).get("configurable", []))
        if not isinstance(item, dict)
        or str(item.get("type")) not in bound
        or item.get("name") in bound[str(item["type"])]
    ]
    names = {item.get("name") for item in kept if isinstance(item, dict)}
    # The platform sets authType and appId; without them the account is chosen once in the builder.
    new: list[JSON] = [{"app": app.app, "name": app.prop, "type": "app"} for app in apps if app.prop not in names]
    new += [{"name": store.prop, "type": "data_store"} for store in step.stores if store.prop not in names]
    return [*kept, *new]


def has_valid_cursor(step: Step) -> bool:
    """Return whether the step has a props cursor that belongs to its current action."""
    return PROPS_CURSOR_KEY in step.extra and get_bookkeeping(step).get("cursor_of", step.uses) == step.uses


def get_bookkeeping(step: Step) -> Mapping[str, Any]:
    """Return the data that reading the step kept for writing it."""
    kept = step.extra.get(ROUND_TRIP_KEY)
    return kept if isinstance(kept, dict) else {}


def is_store_id(store: str) -> bool:
    """Return whether *store* is the platform's id of a store, not a local name."""
    return store.startswith("ds_")

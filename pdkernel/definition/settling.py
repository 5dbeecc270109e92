"""
A notebook's step as it stands in a synced folder: with the folder's account ids, data stores, labels and line breaks.

Knows what a notebook does not say, or says of this machine only, and that the folder's word stays then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from pdkernel.definition.matching import is_same_kind
from pdkernel.definition.plan import step_mapping
from pdkernel.definition.read import MARK
from pdkernel.definition.sidecar import AccountChoice, StepSidecar
from pdkernel.definition.step_props import ACCOUNT, CURSOR, PICKED, is_store_id, unpicked
from pdkernel.directive import same
from pdkernel.inspection import apps_of
from pdkernel.model import BOOKKEEPING, JSON, AppBinding, Step, StoreBinding


@dataclass(frozen=True)
class SettledStep:
    """
    A step for the folder.

    Attributes:
        step: With what the folder says where the notebook says nothing.
        entry: Its entry of `workflow.yaml`.
        kept: Account ids that stay in the file, by prop.
    """

    step: Step
    entry: dict[str, JSON]
    kept: Mapping[str, str] = field(default_factory=dict)


def settled(
    step: Step, there: Step, raw: Mapping[str, Any], *, said: StepSidecar | None, complete: bool
) -> SettledStep:
    """
    *step* in the place of the folder's step.

    Args:
        step: The notebook's.
        there: The folder's, with the account ids of the file.
        raw: The folder's entry of `workflow.yaml`.
        said: What the notebook's `pdkernel.yaml` says of the step.
        complete: Whether the notebook says every prop, so that one it does not say is gone.
    """
    if not is_same_kind(step, there):
        return _of_another_kind(step, there, raw)
    props = raw.get("props") if isinstance(raw.get("props"), dict) else {}
    ids = {prop: _id_in(value) for prop, value in cast("dict[str, Any]", props).items()}
    choices = said.accounts if said is not None else {}
    apps, kept = _apps(step, ids, choices)
    named = {app.prop for app in apps} | {store.prop for store in step.stores} | set(step.props)
    whole = complete and not step.uses
    as_there = replace(
        step,
        apps=(*apps, *(app for app in there.apps if app.prop not in named and not whole)),
        stores=_stores(step.stores, () if whole else there.stores, there.stores, named),
        props=step.props if complete or step.uses else {**there.props, **step.props},
        source=_code(step, there),
        notes=step.notes or (there.notes if not there.notes else None),
        extra=there.extra,
    )
    entry = step_mapping(as_there)
    return SettledStep(
        as_there, merged(dict(raw), _like(step_mapping(there), raw), _with_labels(_like(entry, raw), raw)), kept
    )


def new_step(step: Step, said: StepSidecar | None) -> SettledStep:
    """*step*, which the folder does not have yet."""
    apps, kept = _apps(step, {}, said.accounts if said is not None else {})
    ready = replace(step, apps=apps)
    return SettledStep(ready, step_mapping(ready), kept)


def _of_another_kind(step: Step, there: Step, raw: Mapping[str, Any]) -> SettledStep:
    """Code in the place of an action, another action, another language: only keys that nobody knows stay."""
    dropped = {CURSOR, BOOKKEEPING, "runtime"}
    extra = {key: value for key, value in there.extra.items() if key not in dropped}
    runtime = there.extra.get("runtime")
    if step.language == there.language and runtime is not None:
        extra["runtime"] = runtime
    ready = replace(step, extra=extra)
    return SettledStep(ready, merged(dict(raw), _like(step_mapping(there), raw), _like(step_mapping(ready), raw)))


def _apps(
    step: Step, ids: Mapping[str, str | None], choices: Mapping[str, AccountChoice]
) -> tuple[tuple[AppBinding, ...], dict[str, str]]:
    """The step's app props with the ids for the file, and which of those are the file's own still."""
    kept: dict[str, str] = {}
    apps = []
    for app in apps_of(step):
        choice = choices.get(app.prop)
        in_git = ids.get(app.prop) or (choice.synced if choice is not None else None)
        # An answer of pdkernel.yaml is about this project; only an id on the step itself is meant for the file.
        answered = app.account is None or (choice is not None and choice.account == app.account)
        if in_git and answered:
            kept[app.prop] = in_git
        apps.append(replace(app, account=in_git if in_git and answered else app.account))
    return tuple(apps), kept


def _id_in(value: Any) -> str | None:
    found = value.get(ACCOUNT) if isinstance(value, dict) else None
    return found if isinstance(found, str) and found else None


def _stores(
    stores: tuple[StoreBinding, ...],
    more: tuple[StoreBinding, ...],
    there: tuple[StoreBinding, ...],
    named: set[str],
) -> tuple[StoreBinding, ...]:
    """With the file's id where the step says a name of this project's, or nothing."""
    ids = {store.prop: store.store for store in there}
    mine = (
        store if store.store is not None and is_store_id(store.store) else replace(store, store=ids.get(store.prop))
        for store in stores
    )
    return (*mine, *(store for store in more if store.prop not in named))


def _code(step: Step, there: Step) -> str:
    """The step's code with the file's line breaks; a cell that is empty since the file was missing changes nothing."""
    if step.code_missing:
        return there.source
    plain = step.source.replace("\r\n", "\n")
    if plain == there.source.removeprefix(MARK).replace("\r\n", "\n"):
        return there.source
    mark = MARK if there.source.startswith(MARK) and not step.source.startswith(MARK) else ""
    breaks = there.source.count("\n")
    if breaks and there.source.count("\r\n") == breaks and "\r" not in step.source:
        return mark + plain.replace("\n", "\r\n")
    return mark + step.source


def _like(entry: dict[str, JSON], raw: Mapping[str, Any]) -> dict[str, JSON]:
    """*entry* with the file's own word for notes."""
    if "notes" in raw or "note" not in raw:
        return entry
    return {"note" if key == "notes" else key: value for key, value in entry.items()}


def _with_labels(entry: dict[str, JSON], raw: Mapping[str, Any]) -> dict[str, JSON]:
    """*entry* with the file's labels of picked options at values that have not changed."""
    props, written = entry.get("props"), raw.get("props")
    if not isinstance(props, dict) or not isinstance(written, dict):
        return entry
    return {**entry, "props": {prop: _labelled(value, written.get(prop)) for prop, value in props.items()}}


def _labelled(value: JSON, written: Any) -> JSON:
    if same(value, unpicked(written)):
        return cast("JSON", written)
    if isinstance(value, dict) and isinstance(written, dict) and PICKED not in written:
        return {key: _labelled(item, written[key]) if key in written else item for key, item in value.items()}
    if isinstance(value, list) and isinstance(written, list) and len(value) == len(written):
        return [_labelled(item, before) for item, before in zip(value, written, strict=True)]
    return value


def merged(raw: Any, base: Any, new: Any) -> Any:
    """
    What stands in a file with the changes from *base* to *new* made; what is the same in both stays as it is.

    Args:
        raw: What the file says.
        base: What would be written of what the file says.
        new: What would be written now.
    """
    if same(base, new):
        return raw
    if isinstance(raw, dict) and isinstance(base, dict) and isinstance(new, dict):
        return _merged_mapping(raw, base, new)
    if isinstance(raw, list) and isinstance(base, list) and isinstance(new, list) and len(raw) == len(base) == len(new):
        return [merged(*items) for items in zip(raw, base, new, strict=True)]
    return new


def _merged_mapping(raw: dict[str, Any], base: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    result = {key: value for key, value in raw.items() if key in new or key not in base}
    above: str | None = None
    for key, value in new.items():
        if key not in base or not same(base[key], value):
            if key in raw:
                result[key] = merged(raw[key], base.get(key), value)
            else:
                result = with_key(result, key, value, above=above)
        above = key if key in result else above
    return result


def with_key(mapping: Mapping[str, Any], key: str, value: Any, *, above: str | None) -> dict[str, Any]:
    """*mapping* with a new key below *above*, or at the top."""
    made: dict[str, Any] = {} if above is not None else {key: value}
    for known, item in mapping.items():
        made[known] = item
        if known == above:
            made[key] = value
    return made

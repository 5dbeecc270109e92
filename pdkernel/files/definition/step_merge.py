"""
Merges the steps of a notebook into a synced folder: keeps the folder's account ids, data stores, labels and line breaks.

Steps are matched by name, then by content, then by position, so that a renamed step stays the same step.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from pdkernel.common.safe_files import BYTE_ORDER_MARK
from pdkernel.files.definition.file_plan import build_step_mapping
from pdkernel.files.definition.sidecar import AccountChoice, StepSidecar
from pdkernel.files.definition.step_props import LABELLED_VALUE_KEY, PROPS_CURSOR_KEY, is_store_id, strip_labels
from pdkernel.language.analysis import find_app_bindings
from pdkernel.language.directive import is_same_value
from pdkernel.model import ACCOUNT_KEY, JSON, ROUND_TRIP_KEY, AppBinding, Step, StoreBinding


def match_steps(steps: Sequence[Step], folder_steps: Sequence[Step]) -> dict[str, Step]:
    """
    Return the folder's step for each of *steps*, by name; new steps are left out.

    A renamed step matches by equal content, or by the position of a removed step of the same kind.
    """
    by_name = {step.name: step for step in folder_steps}
    pairs = {step.name: by_name[step.name] for step in steps if step.name in by_name}
    for key in (_content_key, _position_key(steps, folder_steps, pairs)):
        _pair_by(key, steps, folder_steps, pairs)
    return pairs


def is_same_kind(one: Step, other: Step) -> bool:
    """Return whether both are code in one language, or the same action in any version."""
    return one.language == other.language and _action(one) == _action(other)


def _action(step: Step) -> str | None:
    return None if step.uses is None else step.uses.rpartition("@")[0]


def _pair_by(
    key: Callable[[Step], Hashable | None], steps: Sequence[Step], folder_steps: Sequence[Step], pairs: dict[str, Step]
) -> None:
    taken = {step.name for step in pairs.values()}
    free: dict[Hashable, list[Step]] = {}
    for step in folder_steps:
        if step.name not in taken and (found := key(step)) is not None:
            free.setdefault(found, []).append(step)
    for step in steps:
        if step.name not in pairs and (found := key(step)) is not None and len(free.get(found, [])) == 1:
            pairs[step.name] = free.pop(found)[0]


def _content_key(step: Step) -> Hashable | None:
    """Return the step's content, or None if it is too little to identify the step."""
    if step.uses is None:
        return (step.language, step.source) if step.source.strip() else None
    return (step.uses, repr(sorted(step.props.items()))) if step.props else None


def _position_key(
    steps: Sequence[Step], folder_steps: Sequence[Step], pairs: dict[str, Step]
) -> Callable[[Step], Hashable | None]:
    """Return a key of the step's matched neighbours and its kind."""
    known = {id(step): step.name for step in pairs.values()}
    known |= {id(step): pairs[step.name].name for step in steps if step.name in pairs}
    places: dict[int, Hashable] = {}
    for side in (steps, folder_steps):
        for index, step in enumerate(side):
            if id(step) in known:
                continue
            above = known.get(id(side[index - 1])) if index else "the top"
            below = known.get(id(side[index + 1])) if index + 1 < len(side) else "the end"
            if above is not None and below is not None:
                places[id(step)] = (above, below, step.language, _action(step))
    return lambda step: places.get(id(step))


@dataclass(frozen=True)
class MergedStep:
    """
    A step for the folder.

    Attributes:
        step: The step, with the folder's values where the notebook has none.
        entry: Its entry of `workflow.yaml`.
        kept_accounts: Account ids that stay in the file, by prop.
    """

    step: Step
    entry: dict[str, JSON]
    kept_accounts: Mapping[str, str] = field(default_factory=dict)


def merge_step(
    step: Step,
    folder_step: Step,
    folder_entry: Mapping[str, Any],
    *,
    step_sidecar: StepSidecar | None,
    is_complete: bool,
) -> MergedStep:
    """
    *step* as a replacement of the folder's step.

    Args:
        step: The notebook's step.
        folder_step: The folder's step, with the account ids of the file.
        folder_entry: The folder's entry of `workflow.yaml`.
        step_sidecar: The step's entry in the notebook's `pdkernel.yaml`.
        is_complete: Whether the notebook holds every prop, so that a missing prop was removed.
    """
    if not is_same_kind(step, folder_step):
        return _of_another_kind(step, folder_step, folder_entry)
    props = folder_entry.get("props") if isinstance(folder_entry.get("props"), dict) else {}
    ids = {prop: _id_in(value) for prop, value in cast("dict[str, Any]", props).items()}
    choices = step_sidecar.accounts if step_sidecar is not None else {}
    apps, kept = _apps(step, ids, choices)
    named = {app.prop for app in apps} | {store.prop for store in step.stores} | set(step.props)
    whole = is_complete and not step.uses
    merged = replace(
        step,
        apps=(*apps, *(app for app in folder_step.apps if app.prop not in named and not whole)),
        stores=_stores(step.stores, () if whole else folder_step.stores, folder_step.stores, named),
        props=step.props if is_complete or step.uses else {**folder_step.props, **step.props},
        source=_restore_line_ends(step, folder_step),
        notes=step.notes or (folder_step.notes if not folder_step.notes else None),
        extra=folder_step.extra,
    )
    entry = build_step_mapping(merged)
    return MergedStep(
        merged,
        merge_value(
            dict(folder_entry),
            _use_file_key(build_step_mapping(folder_step), folder_entry),
            _with_labels(_use_file_key(entry, folder_entry), folder_entry),
        ),
        kept,
    )


def build_new_step(step: Step, step_sidecar: StepSidecar | None) -> MergedStep:
    """Return a step that is new to the folder."""
    apps, kept = _apps(step, {}, step_sidecar.accounts if step_sidecar is not None else {})
    ready = replace(step, apps=apps)
    return MergedStep(ready, build_step_mapping(ready), kept)


def _of_another_kind(step: Step, folder_step: Step, raw: Mapping[str, Any]) -> MergedStep:
    """Return a step of another kind (code for an action, another action or language): only unknown keys are kept."""
    dropped = {PROPS_CURSOR_KEY, ROUND_TRIP_KEY, "runtime"}
    extra = {key: value for key, value in folder_step.extra.items() if key not in dropped}
    runtime = folder_step.extra.get("runtime")
    if step.language == folder_step.language and runtime is not None:
        extra["runtime"] = runtime
    ready = replace(step, extra=extra)
    return MergedStep(
        ready,
        merge_value(
            dict(raw),
            _use_file_key(build_step_mapping(folder_step), raw),
            _use_file_key(build_step_mapping(ready), raw),
        ),
    )


def _apps(
    step: Step, ids: Mapping[str, str | None], choices: Mapping[str, AccountChoice]
) -> tuple[tuple[AppBinding, ...], dict[str, str]]:
    """Return the step's app props with the ids for the file, and the ids that are unchanged from the file."""
    kept: dict[str, str] = {}
    apps = []
    for app in find_app_bindings(step):
        choice = choices.get(app.prop)
        in_git = ids.get(app.prop) or (choice.synced if choice is not None else None)
        # A choice in pdkernel.yaml applies to this project; only an id on the step itself is written to the file.
        answered = app.account is None or (choice is not None and choice.account == app.account)
        if in_git and answered:
            kept[app.prop] = in_git
        apps.append(replace(app, account=(in_git or None) if answered else app.account))
    return tuple(apps), kept


def _id_in(value: Any) -> str | None:
    found = value.get(ACCOUNT_KEY) if isinstance(value, dict) else None
    return found if isinstance(found, str) else None


def _stores(
    stores: tuple[StoreBinding, ...],
    more: tuple[StoreBinding, ...],
    folder_step: tuple[StoreBinding, ...],
    named: set[str],
) -> tuple[StoreBinding, ...]:
    """Return the stores, with the file's id where the step has a local name or none."""
    ids = {store.prop: store.store for store in folder_step}
    resolved = (
        store if store.store is not None and is_store_id(store.store) else replace(store, store=ids.get(store.prop))
        for store in stores
    )
    return (*resolved, *(store for store in more if store.prop not in named))


def _restore_line_ends(step: Step, folder_step: Step) -> str:
    """Return the step's code with the file's line breaks; unchanged for a step whose code is missing."""
    if step.is_code_missing:
        return folder_step.source
    plain = step.source.replace("\r\n", "\n")
    if plain == folder_step.source.removeprefix(BYTE_ORDER_MARK).replace("\r\n", "\n"):
        return folder_step.source
    mark = (
        BYTE_ORDER_MARK
        if folder_step.source.startswith(BYTE_ORDER_MARK) and not step.source.startswith(BYTE_ORDER_MARK)
        else ""
    )
    breaks = folder_step.source.count("\n")
    if breaks and folder_step.source.count("\r\n") == breaks and "\r" not in step.source:
        return mark + plain.replace("\n", "\r\n")
    return mark + step.source


def _use_file_key(entry: dict[str, JSON], raw: Mapping[str, Any]) -> dict[str, JSON]:
    """Return *entry* with the file's own key for notes."""
    if "notes" in raw or "note" not in raw:
        return entry
    return {"note" if key == "notes" else key: value for key, value in entry.items()}


def _with_labels(entry: dict[str, JSON], raw: Mapping[str, Any]) -> dict[str, JSON]:
    """Return *entry* with the file's labels of picked options, where the value has not changed."""
    props, written = entry.get("props"), raw.get("props")
    if not isinstance(props, dict) or not isinstance(written, dict):
        return entry
    return {**entry, "props": {prop: _restore_label(value, written.get(prop)) for prop, value in props.items()}}


def _restore_label(value: JSON, written: Any) -> JSON:
    if is_same_value(value, strip_labels(written)):
        return cast("JSON", written)
    if isinstance(value, dict) and isinstance(written, dict) and LABELLED_VALUE_KEY not in written:
        return {key: _restore_label(item, written[key]) if key in written else item for key, item in value.items()}
    if isinstance(value, list) and isinstance(written, list) and len(value) == len(written):
        return [_restore_label(item, before) for item, before in zip(value, written, strict=True)]
    return value


def merge_value(raw: Any, base: Any, new: Any) -> Any:
    """
    *raw* with the changes from *base* to *new*; values that are equal in both keep the file's form.

    Args:
        raw: The file's value.
        base: The value that would be written for the file's content.
        new: The value to write now.
    """
    if is_same_value(base, new):
        return raw
    if isinstance(raw, dict) and isinstance(base, dict) and isinstance(new, dict):
        return _merged_mapping(raw, base, new)
    if isinstance(raw, list) and isinstance(base, list) and isinstance(new, list) and len(raw) == len(base) == len(new):
        return [merge_value(*items) for items in zip(raw, base, new, strict=True)]
    return new


def _merged_mapping(raw: dict[str, Any], base: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    result = {key: value for key, value in raw.items() if key in new or key not in base}
    above: str | None = None
    for key, value in new.items():
        if key not in base or not is_same_value(base[key], value):
            if key in raw:
                result[key] = merge_value(raw[key], base.get(key), value)
            else:
                result = insert_key(result, key, value, above=above)
        above = key if key in result else above
    return result


def insert_key(mapping: Mapping[str, Any], key: str, value: Any, *, above: str | None) -> dict[str, Any]:
    """Return *mapping* with a new key below *above*, or at the top."""
    result: dict[str, Any] = {} if above is not None else {key: value}
    for known, item in mapping.items():
        result[known] = item
        if known == above:
            result[key] = value
    return result

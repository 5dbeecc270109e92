"""
The difference of two JSON values: added, removed and changed parts.

Items of lists are compared by their `id` if each item has one, so that an inserted item is one difference; else by their place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pdkernel.common.redaction.secret_patterns import is_secret_event_field
from pdkernel.language.shape.inference import format_sample, get_type_name
from pdkernel.language.shape.path_syntax import Segment
from pdkernel.model import JSON

ChangeKind = Literal["added", "removed", "type", "value"]
MAX_CHANGES = 1000
"""Maximum number of listed changes; the others are counted."""
_ID = "id"


@dataclass(frozen=True, slots=True)
class Change:
    """
    A part that differs.

    Attributes:
        kind: `added`, `removed`, `type` for another type, or `value` for another value of the same type.
        path: The part in the second value, or in the first if it was removed.
        before: The part in the first value as a short text, such as `string "a"`; empty if it was added.
        after: The part in the second value as a short text; empty if it was removed.
    """

    kind: ChangeKind
    path: tuple[Segment, ...]
    before: str = ""
    after: str = ""


@dataclass(frozen=True, slots=True)
class Difference:
    """
    The difference of two values.

    Attributes:
        changes: The first `MAX_CHANGES` changes, in the order of the values.
        counts: The number of all changes by kind.
    """

    changes: tuple[Change, ...]
    counts: Mapping[ChangeKind, int]


def compare_values(before: JSON | Mapping[str, JSON], after: JSON | Mapping[str, JSON]) -> Difference:
    """
    The difference of two values. Values of fields with secret names and credentials are compared, but not shown.

    An object or a list that only one value has is one change.
    """
    counts: dict[ChangeKind, int] = {"added": 0, "removed": 0, "type": 0, "value": 0}
    changes: list[Change] = []
    pending: list[tuple[tuple[Segment, ...], Any, Any, bool]] = [((), before, after, False)]
    while pending:
        path, old, new, is_secret = pending.pop()
        kind = _compare(old, new)
        if kind is None:
            pending += reversed(_pair_parts(path, old, new, is_secret))
            continue
        if kind == "same":
            continue
        counts[kind] += 1
        if len(changes) < MAX_CHANGES:
            changes.append(Change(kind, path, _describe(old, is_secret), _describe(new, is_secret)))
    return Difference(tuple(changes), counts)


class _Missing:
    """The part that one of the values lacks."""


_MISSING = _Missing()


def _compare(old: Any, new: Any) -> ChangeKind | Literal["same"] | None:
    """The kind of the change, or None for two objects or two lists, whose parts are compared."""
    if old is _MISSING:
        return "added"
    if new is _MISSING:
        return "removed"
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return None
    if type(old) is not type(new):
        return "type"
    if isinstance(old, list):
        return None
    return "same" if old == new else "value"


def _pair_parts(path: tuple[Segment, ...], old: Any, new: Any, is_secret: bool) -> list[tuple[Any, ...]]:
    if isinstance(new, Mapping):
        keys = [*old, *(key for key in new if key not in old)]
        return [
            ((*path, key), old.get(key, _MISSING), new.get(key, _MISSING), is_secret or is_secret_event_field(key))
            for key in keys
        ]
    old_ids, new_ids = _index_by_id(old), _index_by_id(new)
    if old_ids is None or new_ids is None:
        pairs = [
            (place, old[place] if place < len(old) else _MISSING, new[place] if place < len(new) else _MISSING)
            for place in range(max(len(old), len(new)))
        ]
    else:
        places = {**old_ids, **new_ids}
        pairs = [
            (
                place,
                old[old_ids[name]] if name in old_ids else _MISSING,
                new[new_ids[name]] if name in new_ids else _MISSING,
            )
            for name, place in places.items()
        ]
    return [((*path, place), first, second, is_secret) for place, first, second in pairs]


def _index_by_id(items: Sequence[Any]) -> dict[Any, int] | None:
    """The place of each item by its id, or None if an item has no id of its own."""
    found = {
        (type(item[_ID]), item[_ID]): place
        for place, item in enumerate(items)
        if isinstance(item, dict) and isinstance(item.get(_ID), str | int)
    }
    return found if len(found) == len(items) else None


def _describe(value: Any, is_secret: bool) -> str:
    if value is _MISSING:
        return ""
    if isinstance(value, Mapping):
        return f"object of {len(value):,}"
    if isinstance(value, list):
        return f"array of {len(value):,}"
    return f"{get_type_name(value)} {format_sample(value, is_secret=is_secret)}" if value is not None else "null"

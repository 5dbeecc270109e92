"""
The shape of JSON values (the types of each path, their counts, a few samples), its forms in other libraries, and differences.

All values of one path are processed together, level by level. So the work per value runs in C: ten megabytes take a
fraction of a second. Batches of values are merged, so that thousands of events need the memory of one batch. genson processes
every value on its own, so it gets a few example values that are built from the shape, and the JSON Schema is the same.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest, nsmallest
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

from pdkernel.common.secret_patterns import find_credential_form, is_secret_event_field
from pdkernel.errors import RequestError
from pdkernel.event import MASK
from pdkernel.language.shape.path_syntax import EVENT_PATH, Segment, format_node_path, parse_path
from pdkernel.model import JSON

if TYPE_CHECKING:
    from pandas import DataFrame

MAX_SHAPE_DEPTH = 100
"""Maximum depth in levels. For deeper values only the type is counted."""
MAX_KEYS = 1000
"""An object with more different keys is a map: its values share one path."""
MAX_PATHS = 20_000
"""About the most paths of a shape. Beyond, objects with fewer keys are maps, too."""
MIN_MAP_KEYS = 50
"""The fewest different keys of a map, if its keys look like ids, or if each of them is in few objects only."""
MAX_SAMPLES = 3
MAX_SAMPLE_CHARS = 60
ANY_KEY = "{*}"
"""The segment of a path that stands for each key of a map."""
_BATCH_BYTES = 4_000_000
_BATCH_VALUES = 200
_RARE = 0.1
"""The share of the objects that have a key, averaged over the keys; below, the keys are ids."""
_MAX_STORED_CHARS = 200
"""A stored sample is longer than a shown one, because a credential is recognised by more characters."""

_TYPE_NAMES: Mapping[type, str] = {
    dict: "object",
    list: "array",
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    type(None): "null",
}
_encode = json.JSONEncoder(ensure_ascii=False).encode


@dataclass(frozen=True, slots=True)
class Shape:
    """
    The values at one path.

    Attributes:
        path: Segments below the root value; the items of a list share the segment 0, the values of a map `ANY_KEY`.
        types: Type names as JSON Schema has them, each with its count, in order of first appearance.
        samples: The shortest distinct values other than null, up to three, as JSON text. Long texts are shortened; values of
            fields with secret names and credentials are masked.
        present_count: Number of values at the path.
        possible_count: Number of objects that could have this key, of items of the list, or of values of the map.
        children: The keys of the objects in order of first appearance or the values of the map, then the items of the lists.
        keys: For the values of a map, up to three of its keys; else empty.
    """

    path: tuple[Segment, ...]
    types: tuple[tuple[str, int], ...]
    samples: tuple[str, ...]
    present_count: int
    possible_count: int
    children: tuple[Shape, ...] = ()
    keys: tuple[str, ...] = ()

    @property
    def type_names(self) -> tuple[str, ...]:
        """The names of the types, without their counts."""
        return tuple(name for name, _ in self.types)

    @property
    def is_optional(self) -> bool:
        """Whether some objects lack this key."""
        return self.present_count < self.possible_count


class ShapeBuilder:
    """
    Merges the shapes of values. Neither the order of the values nor their batches matter, apart from the order of keys and types.

    Above `MAX_PATHS` paths, which objects are maps may depend on the order.
    """

    def __init__(self) -> None:
        self._root = _Node()
        self._max_keys = MAX_KEYS
        self._batch: list[JSON] = []
        self._size = 0

    def add(self, value: JSON | Mapping[str, JSON], *, size: int = 0) -> None:
        """Add *value*, whose JSON text has *size* bytes, if that is known: it is held until a batch is full."""
        self._batch.append(to_json_value(value))
        self._size += size
        if self._size >= _BATCH_BYTES or len(self._batch) >= _BATCH_VALUES:
            self._merge_batch()

    def _merge_batch(self) -> None:
        _merge(self._root, _infer(self._batch, self._max_keys), self._max_keys)
        self._batch, self._size = [], 0
        while _count(self._root) > MAX_PATHS and self._max_keys > 1:
            self._max_keys //= 2
            _fold_wide(self._root, self._max_keys)

    def build(self) -> Shape:
        """Return the merged shape. Nothing can be added afterwards."""
        self._merge_batch()
        _fold_maps(self._root)
        return _shape(self._root, (), self._root.count, is_secret=False)


def infer_shape(*values: JSON | Mapping[str, JSON]) -> Shape:
    """Return the shape of *values*, merged."""
    builder = ShapeBuilder()
    for value in values:
        builder.add(value)
    return builder.build()


def to_json_value(value: JSON | Mapping[str, JSON]) -> JSON:
    """Return *value* with a mapping converted to a dict: the data of an event is a mapping of any class."""
    return dict(value) if isinstance(value, Mapping) else value


def get_type_name(value: JSON) -> str:
    """Return the type of *value* as JSON Schema names it."""
    return _TYPE_NAMES[type(value)]


def format_sample(value: JSON, *, is_secret: bool = False) -> str:
    """Return *value* as a short JSON text; masked if its field is secret or if it is a credential."""
    if is_secret or (isinstance(value, str) and find_credential_form(value) is not None):
        value = MASK
    if isinstance(value, str):
        return _encode(value if len(value) <= MAX_SAMPLE_CHARS else f"{value[: MAX_SAMPLE_CHARS - 1]}…")
    text = _encode_scalar(value)
    return text if len(text) <= MAX_SAMPLE_CHARS else f"{text[: MAX_SAMPLE_CHARS - 1]}…"


class _Node:
    """The values at one path while they are counted; *entries* are the values of a map, whose *fields* are not kept."""

    __slots__ = ("count", "entries", "fields", "items", "keys", "samples", "types")

    def __init__(self) -> None:
        self.count = 0
        self.types: dict[type, int] = {}
        self.samples: Sequence[Any] = ()
        self.fields: dict[str, _Node] = {}
        self.items: _Node | None = None
        self.entries: _Node | None = None
        self.keys: Sequence[str] = ()

    @property
    def children(self) -> Iterable[_Node]:
        return (*self.fields.values(), *(each for each in (self.entries, self.items) if each is not None))


def _infer(values: list[Any], max_keys: int) -> _Node:
    """Return the node of *values*, level by level, so that a huge value is bounded before all of its paths exist."""
    root = _Node()
    level, count = [(root, values)], 1
    for depth in range(MAX_SHAPE_DEPTH + 1):
        deeper: list[tuple[_Node, list[Any]]] = []
        for node, column in level:
            counts: Mapping[type, int] = Counter(map(type, column)) if len(column) != 1 else {type(column[0]): 1}
            node.types, node.count, node.samples = dict(counts), len(column), _select_samples(column, counts)
            if depth == MAX_SHAPE_DEPTH or count > 2 * MAX_PATHS:
                continue
            if dict in counts:
                columns = _columns(value for value in column if type(value) is dict)
                if len(columns) > max_keys or count + len(columns) > MAX_PATHS:
                    node.entries, node.keys = _Node(), _shortest_texts(columns)
                    deeper.append((node.entries, list(chain.from_iterable(columns.values()))))
                    count += 1
                else:
                    node.fields = {key: _Node() for key in columns}
                    deeper += zip(node.fields.values(), columns.values(), strict=True)
                    count += len(columns)
            if list in counts:
                items = list(chain.from_iterable(value for value in column if type(value) is list))
                if items:
                    node.items = _Node()
                    deeper.append((node.items, items))
                    count += 1
        level = deeper
    return root


def _columns(objects: Iterable[dict[str, Any]]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {}
    for item in objects:
        for key, value in item.items():
            if key in columns:
                columns[key].append(value)
            else:
                columns[key] = [value]
    return columns


def _merge(into: _Node, other: _Node, max_keys: int) -> None:
    """Add *other*, which is not used afterwards, to *into*."""
    into.count += other.count
    for kind, count in other.types.items():
        into.types[kind] = into.types.get(kind, 0) + count
    into.samples = _smallest_samples([*into.samples, *other.samples])
    into.items = _merged(into.items, other.items, max_keys)
    if into.entries is not None or other.entries is not None:
        for node in (into, other):
            _fold(node, max_keys)
        into.entries = _merged(into.entries, other.entries, max_keys)
        into.keys = _shortest_texts({*into.keys, *other.keys})
        return
    for key, node in other.fields.items():
        if key in into.fields:
            _merge(into.fields[key], node, max_keys)
        else:
            into.fields[key] = node
    if len(into.fields) > max_keys:
        _fold(into, max_keys)


def _merged(first: _Node | None, second: _Node | None, max_keys: int) -> _Node | None:
    if first is None or second is None:
        return first or second
    _merge(first, second, max_keys)
    return first


def _fold(node: _Node, max_keys: int) -> None:
    """Make the objects at *node* maps."""
    for key, field in node.fields.items():
        node.entries = _merged(node.entries, field, max_keys)
        node.keys = (*node.keys, key)
    node.fields = {}
    node.keys = _shortest_texts(set(node.keys))


def _fold_wide(node: _Node, max_keys: int) -> None:
    for child in node.children:
        _fold_wide(child, max_keys)
    if len(node.fields) > max_keys:
        _fold(node, max_keys)


def _fold_maps(node: _Node) -> None:
    """Fold objects whose keys are ids."""
    if _is_map(node):
        _fold(node, MAX_KEYS)
    for child in node.children:
        _fold_maps(child)


def _is_map(node: _Node) -> bool:
    fields = node.fields.values()
    if len(fields) < MIN_MAP_KEYS:
        return False
    kinds = {frozenset(field.types) - {type(None)} for field in fields} - {frozenset()}
    if len(kinds) > 1:
        return False
    share = sum(field.count for field in fields) / len(fields) / node.types[dict]
    return share < _RARE or all(map(_is_id, node.fields))


def _is_id(key: str) -> bool:
    return "@" in key or any(map(str.isdigit, key))


def _count(node: _Node) -> int:
    return 1 + sum(map(_count, node.children))


def _shape(
    node: _Node, path: tuple[Segment, ...], possible: int, *, is_secret: bool, keys: Sequence[str] = ()
) -> Shape:
    objects = node.types.get(dict, 0)
    children = [
        _shape(field, (*path, key), objects, is_secret=is_secret or is_secret_event_field(key))
        for key, field in node.fields.items()
    ]
    if node.entries is not None:
        entries = node.entries
        children.append(_shape(entries, (*path, ANY_KEY), entries.count, is_secret=is_secret, keys=node.keys))
    if node.items is not None:
        children.append(_shape(node.items, (*path, 0), node.items.count, is_secret=is_secret))
    return Shape(
        path=path,
        types=tuple((_TYPE_NAMES.get(kind, kind.__name__), count) for kind, count in node.types.items()),
        samples=tuple(dict.fromkeys(format_sample(value, is_secret=is_secret) for value in node.samples)),
        present_count=node.count,
        possible_count=possible,
        children=tuple(children),
        keys=tuple(dict.fromkeys(json.loads(format_sample(key)) for key in keys)),
    )


def _select_samples(values: list[Any], counts: Mapping[type, int]) -> Sequence[Any]:
    """Return the shortest distinct scalars other than null, which do not depend on the order of *values*."""
    kinds = counts.keys() - {dict, list, type(None)}
    found: list[Any] = []
    for kind in kinds:
        # by type, because 1, 1.0 and true are equal
        distinct = set(values if len(counts) == 1 else (value for value in values if type(value) is kind))
        if kind is str:
            found += _shortest_texts({text[:_MAX_STORED_CHARS] for text in distinct})
        elif kind is int:  # the shortest are the nearest to zero
            found += nsmallest(MAX_SAMPLES, (number for number in distinct if number >= 0))
            found += nlargest(MAX_SAMPLES, (number for number in distinct if number < 0))
        elif kind is float:
            found += map(float, _shortest_texts(set(map(repr, distinct))))
        else:
            found += distinct
    return _smallest_samples(found)


def _smallest_samples(values: Iterable[Any]) -> Sequence[Any]:
    by_rank = {_rank(value): value for value in values}
    return [by_rank[rank] for rank in nsmallest(MAX_SAMPLES, by_rank)]


def _rank(value: Any) -> tuple[int, str]:
    text = f'"{value}"' if isinstance(value, str) else _encode_scalar(value)
    return len(text), text


def _shortest_texts(texts: Collection[str]) -> Sequence[str]:
    """Up to `MAX_SAMPLES` of *texts* by length, then by the alphabet."""
    if len(texts) <= MAX_SAMPLES:
        return sorted(texts, key=_by_length)
    longest = nsmallest(MAX_SAMPLES, map(len, texts))[-1]
    short = [text for text in texts if len(text) < longest]
    return sorted(
        [*short, *nsmallest(MAX_SAMPLES - len(short), (text for text in texts if len(text) == longest))], key=_by_length
    )


def _by_length(text: str) -> tuple[int, str]:
    return len(text), text


def _encode_scalar(value: Any) -> str:
    try:
        return _encode(value)[:_MAX_STORED_CHARS]
    except (ValueError, TypeError):  # an integer of more digits than Python converts
        return hex(value)[:_MAX_STORED_CHARS] if isinstance(value, int) else type(value).__name__


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
    Return the difference of two values. Values of fields with secret names and credentials are compared, but not shown.

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
    """Return the kind of the change, or None for two objects or two lists, whose parts are compared."""
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
    """Return the place of each item by its id, or None if an item has no id of its own."""
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


_MAP_PROPERTY = "\0{*}"
"""A property of the exemplars that stands for the keys of a map."""
_SAMPLE_BY_TYPE: dict[str, JSON] = {"null": None, "boolean": True, "integer": 0, "number": 0.5, "string": ""}


def infer_schema(value: JSON | Mapping[str, JSON]) -> dict[str, Any]:
    """Return the JSON Schema of *value*, equal to the schema of `genson.SchemaBuilder` down to `MAX_SHAPE_DEPTH` levels."""
    return build_schema(infer_shape(value))


def build_schema(shape: Shape) -> dict[str, Any]:
    """Return the JSON Schema of the values with the shape *shape*."""
    from genson import SchemaBuilder

    builder = SchemaBuilder()
    for exemplar in _exemplars(shape):
        builder.add_object(exemplar)
    made: dict[str, Any] = _with_maps(builder.to_schema())
    return made


def _with_maps(schema: Any) -> Any:
    """Return *schema* with the property that stands for the keys of a map as `additionalProperties`."""
    if isinstance(schema, list):
        return [_with_maps(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: each if name == "properties" else _with_maps(each) for name, each in schema.items()}
    properties = {key: _with_maps(each) for key, each in made.pop("properties", {}).items()}
    if _MAP_PROPERTY in properties:
        made["additionalProperties"] = properties.pop(_MAP_PROPERTY)
        made["required"] = [key for key in made.get("required", ()) if key != _MAP_PROPERTY]
    return {
        **{name: each for name, each in made.items() if name != "required"},
        **({"properties": properties} if properties else {}),
        **({"required": made["required"]} if made.get("required") else {}),
    }


def _exemplars(shape: Shape) -> list[JSON]:
    """Example values with the types of *shape*, in order of first appearance; some lack the optional keys."""
    made: list[JSON] = []
    for name in shape.type_names:
        if name == "object":
            made += _objects([child for child in shape.children if isinstance(child.path[-1], str)])
        elif name == "array":
            items = [child for child in shape.children if isinstance(child.path[-1], int)]
            made.append(_exemplars(items[0]) if items else [])
        else:
            made.append(_SAMPLE_BY_TYPE[name])
    return made


def _objects(properties: list[Shape]) -> list[JSON]:
    """Return the fewest objects that contain every exemplar of every property, with each optional property missing once."""
    columns = [
        (_MAP_PROPERTY if child.keys else str(child.path[-1]), _exemplars(child), child.is_optional)
        for child in properties
    ]
    rows = max((len(column) + optional for _, column, optional in columns), default=1)
    return [
        {
            key: column[min(row, len(column) - 1)]
            for key, column, optional in columns
            if row < len(column) or not optional
        }
        for row in range(rows)
    ]


def build_data_frame(value: JSON | Mapping[str, JSON], list_path: str | Sequence[Segment] | None = None) -> DataFrame:
    """
    *value* as a table.

    Without *list_path*: one row per leaf, with the columns `path`, `type` and `value`. Each item of a list has its
    own rows, under its index (`body.commits[0].message`). An empty list or object is a leaf.

    With *list_path*, the path of a list: one row per record, with nested objects flattened with dots (`author.name`).
    Items that are not objects go to the column `value`. The path may be written as the shape copies it
    (`steps.trigger.event.body.commits`) or without `steps.trigger.event`. A key after a list selects that key of all
    items (`body.commits.added`).

    Raises:
        RequestError: There is no value at *list_path*; the message names the existing lists.
    """
    import pandas as pd

    if list_path is None:
        rows = list(_iter_leaves("", to_json_value(value)))
        return pd.DataFrame(
            {
                "path": [row[0] for row in rows],
                "type": [row[1] for row in rows],
                "value": pd.Series([row[2] for row in rows], dtype=object),
            }
        )
    records = _records(to_json_value(value), list_path)
    return pd.json_normalize([item if isinstance(item, dict) else {"value": item} for item in records])


def _iter_leaves(path: str, value: Any) -> Iterator[tuple[str, str, Any]]:
    pending = [(path, value)]
    while pending:
        path, value = pending.pop()
        if isinstance(value, dict) and value:
            pending += [(_joined(path, key), item) for key, item in reversed(value.items())]
        elif isinstance(value, list) and value:
            pending += [(f"{path}[{index}]", value[index]) for index in reversed(range(len(value)))]
        else:
            yield path, get_type_name(value), value


def _joined(path: str, key: str) -> str:
    written = format_node_path((key,))
    return f"{path}.{written}" if path and not written.startswith("[") else f"{path}{written}"


def _records(value: JSON, at: str | Sequence[Segment]) -> list[Any]:
    try:
        path = parse_path(at) if isinstance(at, str) else tuple(at)
    except ValueError as fault:
        raise RequestError(str(fault), fix="Write the path as the shape copies it, for example body.commits.") from None
    if path[:3] == EVENT_PATH and not (isinstance(value, dict) and "steps" in value):
        path = path[3:]
    found: list[Any] = [value]
    for segment in path:
        found = [below for item in found for below in _get_children(item, segment)]
    if not found:
        lists = ", ".join(_paths_of_lists(infer_shape(value))) or "none"
        raise RequestError(f"There is no value at {format_node_path(path)}.", fix=f"Use the path of a list: {lists}.")
    return [record for item in found for record in (item if isinstance(item, list) else [item])]


def _get_children(item: Any, segment: Segment) -> list[Any]:
    match item, segment:
        case dict(), str():
            return [item[segment]] if segment in item else []
        case list(), int():
            return [item[segment]] if segment < len(item) else []
        case list(), str():
            return [below for inner in item for below in _get_children(inner, segment)]
        case _:
            return []


def _paths_of_lists(shape: Shape) -> Iterator[str]:
    if "array" in shape.type_names:
        yield format_node_path(shape.path)
    for child in shape.children:
        yield from _paths_of_lists(child)

"""
Inference of the shape of JSON values: the types of each path, their counts, and a few samples.

All values of one path are processed together, level by level. So the work per value runs in C: ten megabytes take a
fraction of a second.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from pdkernel.model import JSON
from pdkernel.shape.path_syntax import Segment

MAX_SHAPE_DEPTH = 100
"""Maximum depth in levels. For deeper values only the type is counted."""
MAX_SAMPLES = 3
MAX_SAMPLE_CHARS = 60

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
        path: Segments below the root value; the items of a list share the segment 0.
        types: Type names as JSON Schema has them, each with its count, in order of first appearance.
        samples: Up to three distinct values other than null, as JSON text; long texts are shortened.
        present_count: Number of values at the path.
        possible_count: Number of objects that could have this key, or of items of the list.
        children: The keys of the objects in order of first appearance, then the items of the lists.
    """

    path: tuple[Segment, ...]
    types: tuple[tuple[str, int], ...]
    samples: tuple[str, ...]
    present_count: int
    possible_count: int
    children: tuple[Shape, ...] = ()

    @property
    def type_names(self) -> tuple[str, ...]:
        """The names of the types, without their counts."""
        return tuple(name for name, _ in self.types)

    @property
    def is_optional(self) -> bool:
        """Whether some objects lack this key."""
        return self.present_count < self.possible_count


def infer_shape(*values: JSON | Mapping[str, JSON]) -> Shape:
    """
    The shape of *values*, merged.

    Samples contain values of the input, so pass an event's masked data.
    """
    return _shape((), list(map(to_json_value, values)), len(values))


def to_json_value(value: JSON | Mapping[str, JSON]) -> JSON:
    """*value* with a mapping converted to a dict: the data of an event is a mapping of any class."""
    return dict(value) if isinstance(value, Mapping) else value


def get_type_name(value: JSON) -> str:
    """The type of *value* as JSON Schema names it."""
    return _TYPE_NAMES[type(value)]


def _shape(path: tuple[Segment, ...], values: list[Any], total: int) -> Shape:
    counts: Mapping[type, int] = Counter(map(type, values)) if len(values) != 1 else {type(values[0]): 1}
    children: list[Shape] = []
    if len(path) < MAX_SHAPE_DEPTH:
        if dict in counts:
            for key, column in _columns(value for value in values if type(value) is dict).items():
                children.append(_shape((*path, key), column, counts[dict]))
        if list in counts:
            items = list(chain.from_iterable(value for value in values if type(value) is list))
            if items:
                children.append(_shape((*path, 0), items, len(items)))
    return Shape(
        path=path,
        types=tuple((_TYPE_NAMES[kind], count) for kind, count in counts.items()),
        samples=_samples(values, counts),
        present_count=len(values),
        possible_count=total,
        children=tuple(children),
    )


def _columns(objects: Iterable[dict[str, Any]]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {}
    for item in objects:
        for key, value in item.items():
            if key in columns:
                columns[key].append(value)
            else:
                columns[key] = [value]
    return columns


def _samples(values: list[Any], counts: Mapping[type, int]) -> tuple[str, ...]:
    if counts.keys() <= {dict, list, type(None)}:
        return ()
    if not counts.keys().isdisjoint((dict, list)):
        values = [value for value in values if type(value) is not dict and type(value) is not list]
    distinct = dict.fromkeys(values)
    distinct.pop(None, None)
    return tuple(map(_sample, islice(distinct, MAX_SAMPLES)))


def _sample(value: JSON) -> str:
    if isinstance(value, str) and len(value) > MAX_SAMPLE_CHARS:
        return _encode(f"{value[: MAX_SAMPLE_CHARS - 1]}…")
    return _encode(value)

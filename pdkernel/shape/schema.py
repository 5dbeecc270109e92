"""
The JSON Schema of a value.

genson makes the schema. It looks at every value one by one, so it is not given the value but a small one of the same
structure, built from the shape: the result is equal, and ten megabytes cost no more than one record.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pdkernel.model import JSON
from pdkernel.shape.inference import Shape, infer_shape

_SAMPLE_BY_TYPE: dict[str, JSON] = {"null": None, "boolean": True, "integer": 0, "number": 0.5, "string": ""}


def infer_schema(value: JSON | Mapping[str, JSON]) -> dict[str, Any]:
    """The JSON Schema of *value*, equal to what `genson.SchemaBuilder` makes of it (down to `MAX_DEPTH` levels)."""
    return build_schema(infer_shape(value))


def build_schema(shape: Shape) -> dict[str, Any]:
    """The JSON Schema of the values whose shape *shape* is."""
    from genson import SchemaBuilder

    builder = SchemaBuilder()
    for exemplar in _exemplars(shape):
        builder.add_object(exemplar)
    made: dict[str, Any] = builder.to_schema()
    return made


def _exemplars(shape: Shape) -> list[JSON]:
    """A few values with the types of *shape*, in order of first appearance, that lack what may be lacking."""
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
    """As few objects as show every exemplar of every property, and each optional property missing at least once."""
    columns = [(str(child.path[-1]), _exemplars(child), child.is_optional) for child in properties]
    rows = max((len(column) + optional for _, column, optional in columns), default=1)
    return [
        {
            key: column[min(row, len(column) - 1)]
            for key, column, optional in columns
            if row < len(column) or not optional
        }
        for row in range(rows)
    ]

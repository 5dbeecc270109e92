"""
The JSON Schema of a value.

genson builds the schema. genson processes every value on its own, so it gets a few example values that are built
from the shape. The schema is equal, and ten megabytes cost no more than one record.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pdkernel.model import JSON
from pdkernel.shape.inference import Shape, infer_shape

_MAP_PROPERTY = "\0{*}"
"""A property of the exemplars that stands for the keys of a map."""
_SAMPLE_BY_TYPE: dict[str, JSON] = {"null": None, "boolean": True, "integer": 0, "number": 0.5, "string": ""}


def infer_schema(value: JSON | Mapping[str, JSON]) -> dict[str, Any]:
    """The JSON Schema of *value*, equal to the schema of `genson.SchemaBuilder` down to `MAX_SHAPE_DEPTH` levels."""
    return build_schema(infer_shape(value))


def build_schema(shape: Shape) -> dict[str, Any]:
    """The JSON Schema of the values with the shape *shape*."""
    from genson import SchemaBuilder

    builder = SchemaBuilder()
    for exemplar in _exemplars(shape):
        builder.add_object(exemplar)
    made: dict[str, Any] = _with_maps(builder.to_schema())
    return made


def _with_maps(schema: Any) -> Any:
    """*schema* with the property that stands for the keys of a map as `additionalProperties`."""
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
    """The fewest objects that contain every exemplar of every property, with each optional property missing once."""
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

"""
JSON values in the forms of other libraries: a JSON Schema by genson, and tables of pandas with a row per leaf or per record.

genson processes every value on its own, so it gets a few example values that are built from the shape. The schema is equal, and ten
megabytes cost no more than one record. Both libraries are imported at first use.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pdkernel.errors import RequestError
from pdkernel.language.shape.inference import Shape, get_type_name, infer_shape, to_json_value
from pdkernel.language.shape.path_syntax import EVENT_PATH, Segment, format_node_path, parse_path
from pdkernel.model import JSON

if TYPE_CHECKING:
    from pandas import DataFrame

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

"""The JSON Schema of a value."""

from __future__ import annotations

import json

import pytest
from genson import SchemaBuilder
from hypothesis import given
from hypothesis import strategies as st

from pdkernel.model import JSON
from pdkernel.shape import (
    build_schema,
    infer_schema,
    infer_shape,
)
from tests.shape.values import json_values


@given(st.lists(json_values, max_size=4))
def test_schema_equals_the_schema_of_genson(values: list[JSON]) -> None:
    """The schema that is built from the shape equals the schema of genson for the values."""
    builder = SchemaBuilder()
    for value in values:
        builder.add_object(value)

    made = build_schema(infer_shape(*values))

    assert json.dumps(made) == json.dumps(builder.to_schema())


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        [[]],
        [{}],
        {"a": []},
        [[], [1], [None]],
        [1, 0.5, True],
        [{"a": 1}, {}, {"a": "x", "b": []}],
        [{"a": 1, "b": 1}, {"a": "x", "b": 1}, {"a": None, "b": 1}],
        [0.5, "", 1],
    ],
)
def test_schema_of_small_values(value: JSON) -> None:
    """Empty lists and objects, mixed types and missing keys have the schema of genson."""
    builder = SchemaBuilder()
    builder.add_object(value)

    made = infer_schema(value)

    assert made == builder.to_schema()

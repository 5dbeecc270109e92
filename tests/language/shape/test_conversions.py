"""JSON values as JSON Schemas and as pandas tables."""

from __future__ import annotations

import json
from typing import Any

import pytest
from genson import SchemaBuilder
from hypothesis import given
from hypothesis import strategies as st

from pdkernel.errors import RequestError
from pdkernel.language.shape import (
    build_data_frame,
    build_schema,
    infer_schema,
    infer_shape,
    parse_path,
)
from pdkernel.model import JSON
from tests.language.shape.values import COMMITS, json_values


def test_frame_has_a_row_for_each_leaf() -> None:
    """An event as a table: one row for each leaf, lists unrolled, empty containers kept."""
    table = build_data_frame(COMMITS)

    assert list(table.itertuples(index=False, name=None)) == [
        ("ref", "string", "main"),
        ("commits[0].id", "string", "a1"),
        ("commits[0].author.name", "string", "ada"),
        ("commits[0].added[0]", "string", "one.py"),
        ("commits[0].added[1]", "string", "two.py"),
        ("commits[1].id", "string", "b2"),
        ("commits[1].author.name", "string", "bob"),
        ("commits[1].author.email", "string", "bob@example.com"),
        ("commits[1].added", "array", []),
        ("tags[0]", "string", "x"),
        ("tags[1]", "integer", 1),
    ]


@given(st.dictionaries(st.text(max_size=4), json_values, min_size=1, max_size=3))
def test_every_row_of_a_frame_names_its_place(value: dict[str, Any]) -> None:
    """The path of each row leads to the value of that row."""
    table = build_data_frame(value)

    for path, leaf in zip(table["path"], table["value"], strict=True):
        found: Any = value
        for segment in parse_path(path):
            found = found[segment]
        assert found is leaf or found == leaf


def test_frame_of_a_list_has_a_row_for_each_record() -> None:
    """A list of records as a table: nested objects become columns with dots."""
    table = build_data_frame(COMMITS, list_path="commits")

    assert list(table.columns) == ["id", "added", "author.name", "author.email"]
    assert list(table["author.name"]) == ["ada", "bob"]


@pytest.mark.parametrize("at", ["commits.added", ("commits", "added")])
def test_frame_unrolls_lists_in_lists(at: str | tuple[str, ...]) -> None:
    """A key after a list selects that key of all items."""
    table = build_data_frame(COMMITS, list_path=at)

    assert list(table["value"]) == ["one.py", "two.py"]


@pytest.mark.parametrize("at", ["steps.trigger.event.tags", 'pd.steps["trigger"]["event"]["tags"]', "tags"])
def test_frame_takes_a_path_as_it_was_copied(at: str) -> None:
    """The path may be written as the shape copies it, for either language."""
    table = build_data_frame(COMMITS, list_path=at)

    assert list(table["value"]) == ["x", 1]


@pytest.mark.parametrize("at", ["commit", "tags[9]", "ref.x", "commits[0].nothing"])
def test_frame_of_a_missing_path_names_the_lists(at: str) -> None:
    """A path without a value is refused with the existing lists."""
    with pytest.raises(RequestError) as refused:
        build_data_frame(COMMITS, list_path=at)

    assert refused.value.message == f"There is no value at {at}."
    assert refused.value.fix == "Use the path of a list: commits, commits[0].added, tags."


def test_frame_of_an_invalid_path_shows_an_example() -> None:
    """An invalid path is refused with an example."""
    with pytest.raises(RequestError) as refused:
        build_data_frame(COMMITS, list_path="body commits")

    assert "is not a path" in refused.value.message
    assert "body.commits" in refused.value.fix


def test_frame_of_an_item_that_does_not_exist() -> None:
    """An index after the last item has no value, and the error for a value without lists reports it."""
    assert list(build_data_frame({"a": [{"n": 1}, {"n": 2}]}, ("a", 1))["n"]) == [2]
    with pytest.raises(RequestError, match=r"no value at a\[2\]"):
        build_data_frame({"a": [{"n": 1}, {"n": 2}]}, ("a", 2))
    with pytest.raises(RequestError) as caught:
        build_data_frame({"a": 1}, "b")
    assert caught.value.fix == "Use the path of a list: none."


def test_a_path_of_steps_in_a_value_with_steps() -> None:
    """The path of the event is that of the value itself, unless the value has a key `steps` of its own."""
    event = {"tags": ["a", "b"]}

    for value in (event, {"steps": {"trigger": {"event": event}}}):
        frame = build_data_frame(value, list_path="steps.trigger.event.tags")
        assert list(frame["value"]) == ["a", "b"]


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

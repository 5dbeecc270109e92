"""The shape of JSON values."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from genson import SchemaBuilder
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from pdkernel.errors import RequestError
from pdkernel.event import Event
from pdkernel.language.shape import (
    ANY_KEY,
    MAX_CHANGES,
    MAX_KEYS,
    MAX_PATHS,
    MAX_SHAPE_DEPTH,
    MIN_MAP_KEYS,
    Change,
    Segment,
    Shape,
    ShapeBuilder,
    build_data_frame,
    build_schema,
    compare_values,
    infer_schema,
    infer_shape,
    parse_path,
)
from pdkernel.model import JSON
from tests.language.shape.values import COMMITS, json_values


def comparable(shape: Shape) -> dict[str, Any]:
    """*shape* without the order of its keys and types."""
    return {
        "types": dict(shape.types),
        "samples": shape.samples,
        "counts": (shape.present_count, shape.possible_count),
        "keys": shape.keys,
        "children": {child.path: comparable(child) for child in shape.children},
    }


def child(shape: Shape, *segments: Segment) -> Shape:
    """The shape at a path below *shape*."""
    for segment in segments:
        (shape,) = (below for below in shape.children if below.path[-1] == segment)
    return shape


def test_shape_merges_the_items_of_a_list() -> None:
    """All items of a list share one child, which counts how many of them have a key."""
    shape = infer_shape(COMMITS)

    items = child(shape, "commits", 0)
    email = child(items, "author", "email")

    assert items.types == (("object", 2),)
    assert (email.present_count, email.possible_count, email.is_optional) == (1, 2, True)
    assert email.path == ("commits", 0, "author", "email")
    assert child(shape, "tags", 0).types == (("string", 1), ("integer", 1))
    assert child(shape, "commits", 0, "added", 0).samples == ('"one.py"', '"two.py"')


def test_shape_of_several_events_counts_presence() -> None:
    """Several events have one shape, in which each path counts the events that have it."""
    shape = infer_shape({"body": {"a": 1}}, {"body": {"a": "x", "b": 2}}, {})

    assert (child(shape, "body").present_count, child(shape, "body").possible_count) == (2, 3)
    assert child(shape, "body", "a").types == (("integer", 1), ("string", 1))
    assert (child(shape, "body", "b").present_count, child(shape, "body", "b").possible_count) == (1, 2)


def test_samples_are_few_distinct_and_short() -> None:
    """A path has its three shortest distinct samples, long samples are shortened, and null is not a sample."""
    shape = infer_shape([None, "d", "a", "a", "b" * 500, "cc", {"e": 1}], ["b" * 500, 1, 1.0, True])

    assert child(shape, 0).samples == ("1", '"a"', '"d"')
    assert infer_shape(["b" * 500, "a"]).children[0].samples == ('"a"', '"' + "b" * 59 + '…"')
    assert infer_shape([1, True, 1.0]).children[0].samples == ("1", "1.0", "true")


@pytest.mark.parametrize(
    ("value", "sample"),
    [
        ({"password": "made-up"}, '"***"'),
        ({"Client_Secret": {"value": "made-up"}}, '"***"'),
        ({"access_token": ["made-up"]}, '"***"'),
        ({"credentials": {f"user-{number}": "made-up" for number in range(MIN_MAP_KEYS)}}, '"***"'),
        ({"next_page_token": "made-up"}, '"made-up"'),
        ({"note": f"xoxb-{'1' * 40}"}, '"***"'),
        ({"note": f"eyJ{'a' * 90}.eyJ{'b' * 40}.{'c' * 20}"}, '"***"'),
    ],
)
def test_secret_values_are_not_samples(value: JSON, sample: str) -> None:
    """The values of fields with secret names, also inside of them, and credentials in any field are masked."""
    shape = infer_shape(value)
    while shape.children:
        shape = shape.children[0]

    assert shape.samples == (sample,)


@given(st.lists(json_values, max_size=8), st.randoms(), st.integers(1, 4))
def test_the_order_of_values_does_not_matter(values: list[JSON], chance: random.Random, batch: int) -> None:
    """Merged in any order and in any batches, values have one shape, apart from the order of keys and types."""
    shuffled = chance.sample(values, len(values))
    builder = ShapeBuilder()
    for position, value in enumerate(shuffled, start=1):
        builder.add(value, size=0 if position % batch else 10_000_000)

    assert comparable(builder.build()) == comparable(infer_shape(*values))


@given(st.lists(json_values, min_size=1, max_size=8))
def test_the_shape_of_events_accepts_each_of_them(values: list[JSON]) -> None:
    """The JSON Schema of a merged shape accepts each merged value."""
    schema = build_schema(infer_shape(*values))

    for value in values:
        Draft202012Validator(schema).validate(value)


@pytest.mark.parametrize(
    ("keys", "values", "is_map"),
    [
        ([f"u_{number}" for number in range(50)], [1], True),
        ([f"{number}@example.com" for number in range(60)], [{"a": 1}], True),
        ([f"u_{number}" for number in range(49)], [1], False),  # few
        ([f"u_{number}" for number in range(60)], [1, "x"], False),  # fields of several types
        (
            ["".join(letters) for letters in itertools.islice(itertools.product("abcdefgh", repeat=3), 60)],
            [1],
            False,
        ),  # no ids
        (["".join(letters) for letters in itertools.product("abcdefghijk", repeat=3)], [1, "x"], True),  # very many
    ],
)
def test_keys_that_are_ids_are_one_path(keys: list[str], values: list[JSON], is_map: bool) -> None:
    """An object with ids as keys has one child for all of them, with examples; many fields of an object stay apart."""
    event: JSON = {key: values[place % len(values)] for place, key in enumerate(keys)}

    shape = infer_shape({"body": event}).children[0]

    assert [each.path for each in shape.children] == (
        [("body", ANY_KEY)] if is_map else [("body", key) for key in keys]
    )
    if is_map:
        (entry,) = shape.children
        assert (entry.present_count, entry.possible_count, len(entry.keys)) == (len(keys), len(keys), 3)
        assert set(entry.keys) <= set(keys)
        Draft202012Validator(infer_schema({"body": event})).validate({"body": event})


def test_names_that_differ_between_events_are_keys_of_a_map() -> None:
    """Names of which each is in few events are ids, although no name looks like one."""
    names = ["".join(letters) for letters in itertools.islice(itertools.product("abcdefgh", repeat=3), 200)]

    shape = infer_shape(*({"body": {"stock": {name: place}}} for place, name in enumerate(names)))

    (entry,) = child(shape, "body", "stock").children
    assert (entry.path, entry.present_count) == (("body", "stock", ANY_KEY), 200)


def test_a_map_is_merged_with_events_that_have_few_keys() -> None:
    """A map stays a map if other events have a few of its keys, whichever comes first."""
    many: JSON = {"m": {f"key {number}": {"a": 1} for number in range(MAX_KEYS + 1)}}
    few: JSON = {"m": {"key one": {"b": "x"}}}

    shapes = [infer_shape(*values) for values in ([many, few], [few, many])]

    assert comparable(shapes[0]) == comparable(shapes[1])
    (entry,) = child(shapes[0], "m").children
    assert [(each.path[-1], each.present_count, each.possible_count) for each in entry.children] == [
        ("a", MAX_KEYS + 1, MAX_KEYS + 2),
        ("b", 1, MAX_KEYS + 2),
    ]


def size_of(shape: Shape) -> int:
    """The number of paths of *shape*."""
    return 1 + sum(map(size_of, shape.children))


@pytest.mark.parametrize("repeat", [1, 3])
def test_a_shape_is_bounded(repeat: int) -> None:
    """Objects in objects with hundreds of different keys each have a shape with a limited number of paths."""
    builder = ShapeBuilder()
    for number in range(repeat):
        event: JSON = {f"k{number}x{a}": {f"{a}x{b}": {f"v{b}": [a, "b"]} for b in range(49)} for a in range(999)}
        builder.add(event, size=10_000_000)

    shape = builder.build()

    assert size_of(shape) <= MAX_PATHS
    assert shape.types == (("object", repeat),)


def test_numbers_that_are_not_json_have_a_shape() -> None:
    """NaN, infinity and an integer of more digits than Python converts, from Python code, do not end in an error."""
    shape = infer_shape({"a": float("nan"), "b": float("inf"), "c": 10**5000, "d": 10**4000})

    assert [each.types[0][0] for each in shape.children] == ["number", "number", "integer", "integer"]
    assert all(len(each.samples[0]) <= 60 for each in shape.children)


def test_masked_headers_are_not_samples() -> None:
    """The shape of a masked event has the secret header without its value."""
    event = Event({"headers": {"authorization": "Bearer made-up-token", "accept": "*/*"}})

    shape = infer_shape(event.with_masked_headers().data)

    assert child(shape, "headers", "authorization").samples == ('"***"',)
    assert "made-up" not in repr(shape)


def test_a_deep_value_counts_with_its_type() -> None:
    """A deeply nested value is examined down to a fixed depth."""
    value: JSON = 1
    for _ in range(5 * MAX_SHAPE_DEPTH):
        value = [value]

    shape = infer_shape(value)

    for _ in range(MAX_SHAPE_DEPTH):
        shape = shape.children[0]
    assert shape.types == (("array", 1),)
    assert shape.children == ()


def test_a_shape_does_not_need_pandas() -> None:
    """Importing the package does not load pandas or genson."""
    program = (
        "import sys, pdkernel.language.shape; print([name for name in ('pandas', 'genson') if name in sys.modules])"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3]
    )

    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("length", "sample"), [(60, "x" * 60), (61, "x" * 59 + "…")])
def test_the_longest_sample(length: int, sample: str) -> None:
    """A text of 60 characters is a whole sample; a longer one is cut to 60."""
    assert infer_shape("x" * length).samples == (f'"{sample}"',)


@given(json_values)
def test_a_value_does_not_differ_from_itself(value: JSON) -> None:
    """Equal values have no difference."""
    assert compare_values(value, value).changes == ()


@given(json_values, json_values)
def test_the_reverse_difference_has_the_reverse_counts(before: JSON, after: JSON) -> None:
    """What is added in one direction is removed in the other; types and values differ in both."""
    there, back = compare_values(before, after).counts, compare_values(after, before).counts

    assert (there["added"], there["removed"], there["type"], there["value"]) == (
        back["removed"],
        back["added"],
        back["type"],
        back["value"],
    )


def test_each_kind_of_change() -> None:
    """Added, removed, retyped and changed parts have their paths and both values."""
    before: JSON = {"a": 1, "b": {"c": [1, 2]}, "d": "x", "e": True, "n": None}
    after: JSON = {"a": 2, "b": {"c": [1, "2", 3]}, "e": 1, "n": None, "f": {"g": 1}}

    found = compare_values(before, after)

    assert found.changes == (
        Change("value", ("a",), "integer 1", "integer 2"),
        Change("type", ("b", "c", 1), "integer 2", 'string "2"'),
        Change("added", ("b", "c", 2), "", "integer 3"),
        Change("removed", ("d",), 'string "x"', ""),
        Change("type", ("e",), "boolean true", "integer 1"),
        Change("added", ("f",), "", "object of 1"),
    )
    assert found.counts == {"added": 2, "removed": 1, "type": 2, "value": 1}


def test_items_are_compared_by_their_id() -> None:
    """An item that is inserted at the front of a list is one difference; a changed item has its new place."""
    assert isinstance(COMMITS, dict)
    items = COMMITS["commits"]
    assert isinstance(items, list)
    changed = {**items[1], "author": {"name": "Bob"}} if isinstance(items[1], dict) else None

    found = compare_values({"commits": items}, {"commits": [{"id": "new"}, items[0], changed]})

    assert [(change.kind, change.path) for change in found.changes] == [
        ("value", ("commits", 2, "author", "name")),
        ("removed", ("commits", 2, "author", "email")),
        ("added", ("commits", 0)),
    ]


@pytest.mark.parametrize("name", ["password", "authorization", "token"])
def test_secret_values_are_compared_and_not_shown(name: str) -> None:
    """A changed value of a field with a secret name is a difference without the values."""
    (change,) = compare_values({"body": {name: {"value": "one"}}}, {"body": {name: {"value": "two"}}}).changes

    assert (change.kind, change.before, change.after) == ("value", 'string "***"', 'string "***"')


def test_very_many_changes_are_counted() -> None:
    """Of very many changes the first are listed, and all are counted; deep values do not end in an error."""
    deep: JSON = 1
    for _ in range(900):
        deep = [deep]

    found = compare_values({}, {f"k{number}": deep for number in range(3 * MAX_CHANGES)})

    assert (len(found.changes), found.counts["added"]) == (MAX_CHANGES, 3 * MAX_CHANGES)
    assert compare_values(deep, [deep]).counts["type"] == 1


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

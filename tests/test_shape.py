"""Shapes, tables and schemas of JSON values, and paths that can be pasted into a step."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from genson import SchemaBuilder
from hypothesis import given, settings
from hypothesis import strategies as st

from pdkernel.errors import RequestError
from pdkernel.event import Event
from pdkernel.model import JSON
from pdkernel.shape import (
    MAX_SHAPE_DEPTH,
    Segment,
    Shape,
    build_data_frame,
    build_schema,
    format_node_path,
    format_python_path,
    infer_schema,
    infer_shape,
    parse_path,
)
from pdkernel.workers import find_node

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.floats(allow_nan=False)
    | st.sampled_from(["", "a", "long " * 20]),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=4),
    max_leaves=40,
)
paths = st.lists(st.text(max_size=6) | st.integers(0, 3), max_size=5)
ODD_KEYS = (
    "title", "x-y", "", "0", "1e3", "class", "__proto__", "ключ", "a b", 'say "hi"', "it's", "back\\slash", "new\nline",
    "\u2028", "\x00", "😀", "\U000e0001", "\ud800", "$dollar", "a.b", "[0]", "}}", "${x}", "`",
)  # fmt: skip
COMMITS: JSON = {
    "ref": "main",
    "commits": [
        {"id": "a1", "author": {"name": "ada"}, "added": ["one.py", "two.py"]},
        {"id": "b2", "author": {"name": "bob", "email": "bob@example.com"}, "added": []},
    ],
    "tags": ["x", 1],
}


def nested(segments: list[Segment], leaf: JSON) -> JSON:
    """A value that holds *leaf* at *segments* and nothing else."""
    for segment in reversed(segments):
        leaf = {segment: leaf} if isinstance(segment, str) else [None] * segment + [leaf]
    return leaf


def child(shape: Shape, *segments: Segment) -> Shape:
    """The shape at a path below *shape*."""
    for segment in segments:
        (shape,) = (below for below in shape.children if below.path[-1] == segment)
    return shape


@settings(deadline=None)
@given(st.lists(json_values, max_size=4))
def test_schema_is_what_genson_makes_of_the_whole(values: list[JSON]) -> None:
    """The schema made from the shape is the one that genson makes by looking at every value."""
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
        [0.5, "", 1],
    ],
)
def test_schema_of_small_values(value: JSON) -> None:
    """Empty lists and objects, mixed types and missing keys have the schema that genson gives them."""
    builder = SchemaBuilder()
    builder.add_object(value)

    made = infer_schema(value)

    assert made == builder.to_schema()


def test_shape_merges_the_items_of_a_list() -> None:
    """All items of a list share one child, which says how many of them have a key."""
    shape = infer_shape(COMMITS)

    items = child(shape, "commits", 0)
    email = child(items, "author", "email")

    assert items.types == (("object", 2),)
    assert (email.present_count, email.possible_count, email.is_optional) == (1, 2, True)
    assert email.path == ("commits", 0, "author", "email")
    assert child(shape, "tags", 0).types == (("string", 1), ("integer", 1))
    assert child(shape, "commits", 0, "added", 0).samples == ('"one.py"', '"two.py"')


def test_shape_of_several_events_counts_presence() -> None:
    """Several events have one shape, in which each path says in how many of them it stands."""
    shape = infer_shape({"body": {"a": 1}}, {"body": {"a": "x", "b": 2}}, {})

    assert (child(shape, "body").present_count, child(shape, "body").possible_count) == (2, 3)
    assert child(shape, "body", "a").types == (("integer", 1), ("string", 1))
    assert (child(shape, "body", "b").present_count, child(shape, "body", "b").possible_count) == (1, 2)


def test_samples_are_few_distinct_and_short() -> None:
    """A path shows at most three different values, long ones cut, and null is none of them."""
    shape = infer_shape([None, "a", "a", "b" * 500, "c", "d", {"e": 1}])

    samples = child(shape, 0).samples

    assert samples == ('"a"', '"' + "b" * 59 + '…"', '"c"')


def test_masked_headers_are_no_samples() -> None:
    """The shape of a masked event shows that a secret header is there and not what it says."""
    event = Event({"headers": {"authorization": "Bearer made-up-token", "accept": "*/*"}})

    shape = infer_shape(event.with_masked_headers().data)

    assert child(shape, "headers", "authorization").samples == ('"***"',)
    assert "made-up" not in repr(shape)


def test_what_lies_very_deep_counts_with_its_type() -> None:
    """A value nested beyond reason is looked at down to a fixed depth."""
    value: JSON = 1
    for _ in range(5 * MAX_SHAPE_DEPTH):
        value = [value]

    shape = infer_shape(value)

    for _ in range(MAX_SHAPE_DEPTH):
        shape = shape.children[0]
    assert shape.types == (("array", 1),)
    assert shape.children == ()


@settings(deadline=None)
@given(paths)
def test_python_path_finds_its_value(segments: list[Segment]) -> None:
    """A path pasted into a Python step is the value that stands there, whatever the keys are."""

    class pd:  # noqa: N801 - what a step calls it
        steps = nested(segments, "found")

    expression = format_python_path(["steps", *segments])

    assert eval(expression, {"pd": pd}) == "found"
    assert expression.isprintable()


@settings(deadline=None)
@given(paths)
def test_paths_are_read_back(segments: list[Segment]) -> None:
    """Both forms of a path are read as the segments that they were written from."""
    path = ("steps", *segments)

    assert parse_path(format_node_path(path)) == path
    assert parse_path(format_python_path(path)) == path


def test_node_path_finds_its_value() -> None:
    """A path pasted into a Node.js step is the value that stands there, whatever the keys are."""
    cases = [
        {"expression": format_node_path(("steps", *segments)), "steps": nested(list(segments), "found")}
        for key in ODD_KEYS
        for segments in ((key,), (2, key), (key, 0, key))
    ]
    program = """
        const cases = JSON.parse(require("fs").readFileSync(0, "utf8"));
        const wrong = cases.filter((one) => Function("steps", `return (${one.expression})`)(one.steps) !== "found");
        console.log(JSON.stringify(wrong));
    """

    done = subprocess.run(
        [str(find_node()), "-e", program], input=json.dumps(cases), capture_output=True, text=True, check=True
    )

    assert json.loads(done.stdout) == []


@pytest.mark.parametrize(
    ("segments", "node", "python"),
    [
        (("issue", "title"), "steps.issue.title", 'pd.steps["issue"]["title"]'),
        (("x-y", 0), 'steps["x-y"][0]', 'pd.steps["x-y"][0]'),
        (("0", ""), 'steps["0"][""]', 'pd.steps["0"][""]'),
        (("ключ",), 'steps["ключ"]', 'pd.steps["ключ"]'),
        (('"\\\n',), r'steps["\"\\\n"]', r'pd.steps["\"\\\n"]'),
    ],
)
def test_paths_as_people_write_them(segments: tuple[Segment, ...], node: str, python: str) -> None:
    """Paths look as a person would write them in each language."""
    path = ("steps", *segments)

    assert format_node_path(path) == node
    assert format_python_path(path) == python


@pytest.mark.parametrize("text", ["a b", "a[", "a['x]", "a.-", "[x]"])
def test_what_is_no_path_is_refused(text: str) -> None:
    """A text that is no path is refused with the part that is wrong."""
    with pytest.raises(ValueError, match="is not a path"):
        parse_path(text)


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


@settings(deadline=None)
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
    """A key below a list stands for that key of all its items."""
    table = build_data_frame(COMMITS, list_path=at)

    assert list(table["value"]) == ["one.py", "two.py"]


@pytest.mark.parametrize("at", ["steps.trigger.event.tags", 'pd.steps["trigger"]["event"]["tags"]', "tags"])
def test_frame_takes_a_path_as_it_was_copied(at: str) -> None:
    """The path may be written as the shape copies it, for either language."""
    table = build_data_frame(COMMITS, list_path=at)

    assert list(table["value"]) == ["x", 1]


@pytest.mark.parametrize("at", ["commit", "tags[9]", "ref.x", "commits[0].nothing"])
def test_frame_of_nothing_names_the_lists(at: str) -> None:
    """A path at which nothing stands is refused with the lists that could be meant."""
    with pytest.raises(RequestError) as refused:
        build_data_frame(COMMITS, list_path=at)

    assert refused.value.message == f"There is nothing at {at}."
    assert refused.value.fix == "Lists that there are: commits, commits[0].added, tags."


def test_frame_of_what_is_no_path_says_how_to_write_one() -> None:
    """A path that cannot be read is refused with an example."""
    with pytest.raises(RequestError) as refused:
        build_data_frame(COMMITS, list_path="body commits")

    assert "is not a path" in refused.value.message
    assert "body.commits" in refused.value.fix


def test_a_shape_does_not_need_pandas() -> None:
    """Shapes and paths are there without loading pandas or genson."""
    program = "import sys, pdkernel.shape; print([name for name in ('pandas', 'genson') if name in sys.modules])"

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]
    )

    assert done.stdout.strip() == "[]"

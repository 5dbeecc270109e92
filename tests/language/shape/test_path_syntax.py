"""Paths in the syntax of Node.js and Python."""

from __future__ import annotations

import json
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdkernel.language.shape import Segment, StepKind, format_node_path, format_path, format_python_path, parse_path
from pdkernel.model import JSON
from pdkernel.workers import find_node

paths = st.lists(st.text(max_size=6) | st.integers(0, 3), max_size=5)
ODD_KEYS = (
    "title", "x-y", "", "0", "1e3", "class", "__proto__", "ключ", "a b", 'say "hi"', "it's", "back\\slash", "new\nline",
    "\u2028", "\x00", "😀", "\U000e0001", "\ud800", "$dollar", "a.b", "[0]", "}}", "${x}", "`",
)  # fmt: skip


def nested(segments: list[Segment], leaf: JSON) -> JSON:
    """A value with *leaf* at *segments*."""
    for segment in reversed(segments):
        leaf = {segment: leaf} if isinstance(segment, str) else [None] * segment + [leaf]
    return leaf


@given(paths)
def test_python_path_finds_its_value(segments: list[Segment]) -> None:
    """A path in a Python step evaluates to the value at the path, for any keys."""

    class pd:  # noqa: N801 - what a step calls it
        steps = nested(segments, "found")

    expression = format_python_path(["steps", *segments])

    assert eval(expression, {"pd": pd}) == "found"
    assert expression.isprintable()


@given(paths)
def test_paths_are_read_back(segments: list[Segment]) -> None:
    """Both forms of a path parse to the segments that they were formatted from."""
    path = ("steps", *segments)

    assert parse_path(format_node_path(path)) == path
    assert parse_path(format_python_path(path)) == path


def test_node_path_finds_its_value() -> None:
    """A path in a Node.js step evaluates to the value at the path, for any keys."""
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
def test_paths_in_the_usual_notation(segments: tuple[Segment, ...], node: str, python: str) -> None:
    """Paths have the usual notation of each language."""
    path = ("steps", *segments)

    assert format_node_path(path) == node
    assert format_python_path(path) == python


@pytest.mark.parametrize(
    ("kind", "expression"),
    [
        ("python", 'pd.steps["it\'s"]["$x"][1]["b"]'),
        ("node", 'steps["it\'s"].$x[1].b'),
        ("action", '{{steps["it\'s"].$x[1].b}}'),
        ("bash", """jq -r '.["it'\\''s"]["$x"][1].b' "$PIPEDREAM_STEPS\""""),
        ("go", 'pd.Steps["it\'s"].(map[string]interface{})["$x"].([]interface{})[1].(map[string]interface{})["b"]'),
    ],
)
def test_a_path_is_written_in_the_language_of_the_step(kind: StepKind, expression: str) -> None:
    """A step of each kind reads a value by an expression of its own."""
    assert format_path(("steps", "it's", "$x", 1, "b"), kind) == expression


@pytest.mark.parametrize("text", ["a b", "a[", "a['x]", "a.-", "[x]"])
def test_an_invalid_path_is_refused(text: str) -> None:
    """A text that is not a path is refused with the wrong part."""
    with pytest.raises(ValueError, match="is not a path"):
        parse_path(text)

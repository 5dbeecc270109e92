"""Substitution of expressions by their results."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pdkernel.common.encode import encode_json
from pdkernel.language.expression import UNDEFINED, evaluate_plain_paths, is_plain_path, substitute_results
from pdkernel.workers import find_node


@pytest.mark.parametrize("result", [5, 1.5, True, None, "s", [1, 2], {"a": 1}])
def test_a_sole_expression_keeps_its_type(result: Any) -> None:
    """A value that is one whole expression is the result itself."""
    assert substitute_results({"x": "{{ a }}"}, [result]) == {"x": result}


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (5, "5"),
        (1.0, "1"),
        (1e-7, "1e-7"),
        (1e-6, "0.000001"),
        (1.5e-6, "0.0000015"),
        (0.00001, "0.00001"),
        (1.25e-9, "1.25e-9"),
        (-123.5, "-123.5"),
        (1e20, "100000000000000000000"),
        (1.5e20, "150000000000000000000"),
        (1e21, "1e+21"),
        (123456.75, "123456.75"),
        (1.5e21, "1.5e+21"),
        (-0.0, "0"),
        ({"a": [1e-7, 0.00002, "\ud800"]}, '{"a":[1e-7,0.00002,"\\ud800"]}'),
        (True, "true"),
        (None, ""),
        (UNDEFINED, ""),
        ("é", "é"),
        ([1, "é"], '[1,"é"]'),
        ({"a": None}, '{"a":null}'),
    ],
)
def test_text_of_results(result: Any, text: str) -> None:
    """In text, a result is written as in JavaScript, an object as JSON, null as empty text."""
    assert substitute_results({"x": "n={{ a }}"}, [result]) == {"x": f"n={text}"}


def test_undefined_is_not_set() -> None:
    """A prop whose expression is undefined is not set; in a list it is null."""
    assert substitute_results({"x": "{{a}}", "y": ["{{b}}", 1]}, [UNDEFINED, UNDEFINED]) == {"y": [None, 1]}
    assert substitute_results("{{a}}", [UNDEFINED]) is None
    assert repr(UNDEFINED) == "UNDEFINED"


def test_list_of_one_expression() -> None:
    """A list prop of one expression that gives a list is that list; deeper lists stay."""
    value: Any = {"list": ["{{a}}"], "deep": {"list": ["{{b}}"]}, "one": ["{{c}}"]}

    assert substitute_results(value, [[1, 2], [3], 4]) == {"list": [1, 2], "deep": {"list": [[3]]}, "one": [4]}


def test_results_must_match() -> None:
    """The number of results must equal the number of expressions."""
    with pytest.raises(ValueError, match="more results"):
        substitute_results({"x": "{{a}}"}, [1, 2])


RUNTIME = Path(__file__).parents[3] / "pdkernel" / "runtimes" / "node" / "expressions.mjs"
PROGRAM = """
import { createInterface } from "node:readline";
const { evaluateExpressions } = await import(process.argv[1]);
for await (const line of createInterface(process.stdin)) {
  const { sources, steps, variables } = JSON.parse(line);
  const texts = new Map(Object.entries(steps));
  const results = evaluateExpressions(sources, [...texts.keys()], { texts, variables });
  const format = (result) => {
    const { value } = result;
    if (value === undefined || value === null) return "";
    return typeof value === "string" ? value : JSON.stringify(value);
  };
  console.log(JSON.stringify(results.map((result) => ({ result, text: format(result) }))));
}
"""

Steps = dict[str, Any]


@pytest.mark.parametrize(
    ("number", "written"), [(1e21, "1e+21"), (-1e21, "-1e+21"), (1e20, "1" + "0" * 20), (2.0**53, "9007199254740992")]
)
def test_a_large_number_is_written_as_in_javascript(number: float, written: str) -> None:
    """A whole number from 1e21 has an exponent, and a smaller one has not."""
    found = evaluate_plain_paths(["steps.a.n"], {"a": {"n": number}}, {})

    assert found is not None
    assert substitute_results("n: {{ 1 }}", [found[0]["value"]]) == f"n: {written}"


def test_only_array_indexes_come_first() -> None:
    """The largest index of an array is 2 to the power of 32 minus 2; a larger number is a name like any other."""
    keys = dict.fromkeys(("x", "4294967295", "4294967294", "01", "2"), 0)

    found = evaluate_plain_paths(["steps.a"], {"a": keys}, {})

    assert found is not None
    assert json.dumps(found[0]["value"]) == json.dumps(dict.fromkeys(("2", "4294967294", "x", "4294967295", "01"), 0))


class NodeEvaluator:
    """The runtime's own evaluator in one Node.js process."""

    def __init__(self, node: Path) -> None:
        self._process = subprocess.Popen(
            [node, "--input-type=module", "--eval", PROGRAM, str(RUNTIME)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def evaluate(self, sources: list[str], steps: Steps, variables: dict[str, str]) -> list[dict[str, Any]]:
        """Return the results and their texts."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        texts = {name: encode_json(value).decode() for name, value in steps.items()}
        self._process.stdin.write(
            json.dumps({"sources": sources, "steps": texts, "variables": variables}).encode() + b"\n"
        )
        self._process.stdin.flush()
        answer: list[dict[str, Any]] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


@pytest.fixture(scope="module")
def node() -> Iterator[NodeEvaluator]:
    """Node.js with the evaluator of the runtime."""
    evaluator = NodeEvaluator(Path(find_node()))
    yield evaluator
    evaluator.close()


NAMES = ["a", "b", "length", "né", "$x", "_", "class", "0", "1", "01", "toJSON", "__lv", "then", "event"]
numbers = st.one_of(
    st.integers(),
    st.integers(min_value=-(10**24), max_value=10**24),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0, -0.0, 1e16, 1e20, 1e21, 1.5e-7, 1e-6, 2**53 + 1, 2**64, 10**400, 123456789012345680000]),
)
texts = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=4),
    st.sampled_from(["", "😀b", "2026-11-27T10:00:00.000Z", "\ud800", "\u2028"]),
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.one_of(st.sampled_from(NAMES), texts), inner, max_size=4)
    ),
    max_leaves=10,
)


def format_segment(name: str, style: str, optional: bool) -> str:
    """A segment of a path in one of JavaScript's notations."""
    if style == "dot" and name.replace("$", "_").isidentifier():
        return ("?." if optional else ".") + name
    if style == "index" and (name == "0" or (name.isdecimal() and not name.startswith("0"))):
        return ("?." if optional else "") + f"[{name}]"
    quote = "'" if style == "dot" else '"'
    return ("?." if optional else "") + f"[{quote}{name}{quote}]"


segments = st.builds(
    format_segment, st.sampled_from([*NAMES, "2", "7"]), st.sampled_from(["dot", "index", "key"]), st.booleans()
)
paths = st.builds(
    lambda blank, root, rest: f"{blank}{root}{''.join(rest)}{blank}",
    st.sampled_from(["", " ", "\n"]),
    st.sampled_from(
        ["steps", "steps.a", "steps?.b", 'steps["a"]', "event", "event.a", "steps.trigger.event", "process.env"]
    ),
    st.lists(segments, max_size=4),
)


@settings(max_examples=40, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    a=values,
    b=values,
    event=values,
    variables=st.dictionaries(st.sampled_from(NAMES), texts, max_size=2),
    sources=st.lists(paths, min_size=20, max_size=20),
)
def test_same_results_as_node(
    node: NodeEvaluator, a: Any, b: Any, event: Any, variables: dict[str, str], sources: list[str]
) -> None:
    """A plain path has the value, the type, the error and the text in a prop that it has in Node.js."""
    steps = {"trigger": {"event": event}, "a": a, "b": b}
    expected = node.evaluate(sources, steps, variables)

    for source, node_result in zip(sources, expected, strict=True):
        assert is_plain_path(source)
        results = evaluate_plain_paths([source], steps, variables)
        if results is None:  # a property of a list, a text or a number that Python leaves to Node.js
            continue
        (result,) = results
        assert describe(result) == describe(node_result["result"])
        if "value" in result:
            assert substitute_results({"p": f"x{{{{{source}}}}}"}, [result["value"]]) == {
                "p": f"x{node_result['text']}"
            }


def describe(result: Any) -> str:
    """A result with the order of keys and the types of numbers."""
    return json.dumps(result)


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("steps.a.list[1]", 2),
        ('steps["a"].list.length', 2),
        ("steps.a.text.length", 3),
        ("steps.a.text[1]", "\ude00"),
        ("steps.a?.missing?.deeper.still", None),
        (" event.body.x\n", "y"),
        ("steps.trigger.event.body", {"x": "y"}),
        ("process.env.TOKEN", "t"),
        ("steps.a.ordered", {"2": 0, "10": 0, "b": 0}),
    ],
)
def test_examples_need_no_node(source: str, value: Any) -> None:
    """The paths that workflows use are evaluated in Python."""
    steps = {
        "trigger": {"event": {"body": {"x": "y"}}},
        "a": {"list": [1, 2], "text": "😀b", "ordered": {"b": 0, "10": 0, "2": 0}},
    }

    results = evaluate_plain_paths([source], steps, {"TOKEN": "t"})

    assert json.dumps(results) == json.dumps([{"undefined": True} if value is None else {"value": value}])


def test_errors_of_null_and_undefined() -> None:
    """Reading a property of null or undefined fails with JavaScript's message."""
    results = evaluate_plain_paths(
        ["steps.a.b", "steps.c['it\"s']", "event.x.y[3]"], {"a": None, "trigger": {"event": {}}}, {}
    )

    assert [result["error"]["message"] for result in results or ()] == [
        "Cannot read properties of null (reading 'b')",
        "Cannot read properties of undefined (reading 'it\"s')",
        "Cannot read properties of undefined (reading 'y')",
    ]


@pytest.mark.parametrize(
    "source",
    [
        "steps.a.constructor",
        'steps.a["__proto__"]',
        "steps.toString",
        "steps.a + 1",
        "steps.a.map(x => x)",
        "steps.a[i]",
        "steps.a[-1]",
        "steps.a[01]",
        "steps.a['\\x41']",
        "steps.a.b // comment",
        "(steps.a)",
        "process.version",
        "processes",
        "stepsx.a",
        "steps.",
        "steps.#a",
        "steps.a;",
        "Math.PI",
        "eventual.a",
    ],
)
def test_other_expressions_need_node(source: str) -> None:
    """Anything but own properties by literal names is left to Node.js."""
    assert not is_plain_path(source)
    assert evaluate_plain_paths([source, "steps.a"], {"a": 1}, {}) is None


def test_deep_values_need_node() -> None:
    """Node.js refuses a value that is nested too deeply, so Python does not evaluate its path."""
    deep: Any = 1
    for _ in range(300):
        deep = [deep]

    assert evaluate_plain_paths(["steps.a"], {"a": deep}, {}) is None

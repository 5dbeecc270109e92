"""Values that pass as JSON from a step of one language to a step of another."""

from __future__ import annotations

import json
import math
import shlex
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pdkernel.model import JSON, Language
from tests.workers.conftest import Bench

EXAMPLES = settings().max_examples // 4  # each example runs two steps; the profile `sweep` has more examples

KEYS = st.text(max_size=6) | st.sampled_from(["2", "10", "b", "a", "__proto__", "constructor", "length", "\ud800", ""])
NUMBERS = (
    st.integers(-(10**30), 10**30)
    | st.integers(2**53 - 2, 2**53 + 2)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([0.0, -0.0, 1.0, 5e-324, 1.7976931348623157e308])
)
TEXTS = st.text(st.characters(), max_size=8) | st.sampled_from(
    ["\ud800", "\udc00x", "\0", "\u2028", "😀", "⟦secret:x⟧"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=10,
)
AWKWARD: JSON = {
    "b": [2**53 + 1, -0.0, 1.0, 1e21, 10**25],
    "10": "\ud800",
    "2": {"__proto__": {"x": 1}},
    "a": "\0\u2028é😀",
}


@pytest.fixture
def bench(warm_bench: Bench) -> Bench:
    """A run whose processes earlier tests may have used."""
    return warm_bench


def writer(language: Language, text: str) -> str:
    """A step that exports the JSON *text* as `v`."""
    if language == "python":
        return f"import json\ndef handler(pd):\n    pd.export('v', json.loads({text!r}))\n"
    if language == "node":
        return (
            "export default defineComponent({ async run({ $ }) "
            f"{{ $.export('v', JSON.parse({json.dumps(text)})) }} }})"
        )
    return f'printf "%s\\n" {shlex.quote("v:json=" + text)} >> "$PIPEDREAM_EXPORTS"'


def reader(language: Language) -> str:
    """A step that exports its JSON of `steps.one.v` as the text `seen`."""
    if language == "python":
        return "import json\ndef handler(pd):\n    pd.export('seen', json.dumps(pd.steps['one']['v']))\n"
    if language == "node":
        return (
            "export default defineComponent({ async run({ steps, $ }) "
            "{ $.export('seen', JSON.stringify(steps.one.v)) } })"
        )
    return 'printf "whole=%s\\n" "$(cat "$PIPEDREAM_STEPS")" >> "$PIPEDREAM_EXPORTS"'


def through_javascript(value: Any) -> Any:
    """Return *value* as JSON.stringify(JSON.parse(text)) returns it: doubles, no -0, keys like 2 before the others."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return float(value) + 0.0
    if isinstance(value, list):
        return [through_javascript(item) for item in value]
    indexes = sorted((key for key in value if _is_index(key)), key=int)
    others = [key for key in value if not _is_index(key)]
    return {key: through_javascript(value[key]) for key in [*indexes, *others]}


def _is_index(key: str) -> bool:
    return key.isascii() and key.isdigit() and str(int(key)) == key and int(key) < 2**32 - 1


def doubles(value: Any) -> Any:
    """*value* with every number as a double: JavaScript writes some large numbers with fewer digits."""
    if isinstance(value, dict):
        return {key: doubles(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [doubles(inner) for inner in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def same(left: Any, right: Any) -> bool:
    """Whether two values are equal, with the order of keys and the sign of 0; 1 and 1.0 are equal."""
    if isinstance(left, dict) and isinstance(right, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, bool) or isinstance(right, bool) or not isinstance(left, int | float):
        return type(left) is type(right) and bool(left == right)
    return left == right and math.copysign(1, left) == math.copysign(1, right)


@pytest.mark.parametrize("target", ["python", "node", "bash"])
@pytest.mark.parametrize("source", ["python", "node", "bash"])
@settings(
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(value=VALUES)
@example(value=AWKWARD)
async def test_values_pass_between_languages_as_json(
    bench: Bench, source: Language, target: Language, value: JSON
) -> None:
    """A value arrives as JSON for every pair of languages; only JavaScript turns numbers into doubles."""
    bench.steps = {}
    wrote = await bench.run(source, writer(source, json.dumps(value)), name="one")
    read = await bench.run(target, reader(target), name="two")

    assert wrote.error is None, wrote.error
    assert read.error is None, read.error
    if target == "bash":
        seen = json.loads(str(read.exports["whole"]))["one"]["v"]
    else:
        seen = json.loads(str(read.exports["seen"]))
    expected = value
    if "node" in (source, target):
        seen, expected = doubles(seen), through_javascript(value)
    assert same(seen, expected), (seen, expected)


RETURNS = {
    "python": 'def handler(pd):\n    pd.export("kept", 1)\n    return {}\n',
    "node": "export default {{ run({{ $ }}) {{ $.export('kept', 1); return {} }} }}",
    "bash": 'echo "kept:json=1" >> "$PIPEDREAM_EXPORTS"; echo "v:json={}" >> "$PIPEDREAM_EXPORTS"',
}


@pytest.mark.parametrize(
    ("language", "expression", "message"),
    [
        ("python", '{"items": [1, 2, {"when": __import__("datetime").datetime(2026, 1, 1)}]}', "$return_value.items[2].when is a datetime"),
        ("python", "__import__('datetime').date(2026, 1, 1)", "isoformat"),
        ("python", '{"a": [float("nan")]}', "$return_value.a[0] is nan"),
        ("python", 'float("-inf")', "$return_value is -inf"),
        ("python", "{1.5: 2}", "$return_value has the key 1.5, a float"),
        ("python", '{"odd key": {3}}', '$return_value["odd key"] is a set'),
        ("python", "b'x'", "$return_value is a bytes"),
        ("python", "b'x'", "base64"),
        ("python", "(lambda a: (a.append(a), a)[1])([])", "$return_value[0] contains itself"),
        ("python", "__import__('functools').reduce(lambda a, _: [a], range(5000), 1)", "nested more than 256 deep"),
        ("node", "{ a: [0, { big: 10n }] }", "$return_value.a[1].big is a BigInt"),
        ("node", "(() => { const o = { a: {} }; o.a['odd key'] = o; return o })()", '$return_value.a["odd key"] contains itself'),
        ("node", "new (class Reply { constructor() { this.self = this } })()", "$return_value.self contains itself"),
        ("node", "({ a: new (class { constructor() { this.self = this } })(), b: { big: 1n } })", "$return_value.b.big is a BigInt"),
        ("bash", "[NaN]", "v is not JSON"),
        ("bash", "1e999", "v is not JSON"),
    ],
)  # fmt: skip
async def test_value_that_is_not_json_is_an_error_with_its_path(
    bench: Bench, language: Language, expression: str, message: str
) -> None:
    """A value that JSON cannot represent is not replaced silently: the error has the path inside the value, and earlier exports are kept."""
    outcome = await bench.run(language, RETURNS[language].format(expression))

    assert outcome.error is not None
    assert outcome.error.code == "export_not_json"
    assert message in str(outcome.error)
    assert outcome.exports == {"kept": 1}

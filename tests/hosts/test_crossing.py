"""JSON values that cross from Python to Node.js and back."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.hosts.conftest import Bench

BACK = "export default defineComponent({ run({ steps }) { return steps.one.$return_value } });"
SAFE = 2**53
KEYS = st.text().filter(lambda key: not key.isdigit() and key != "__proto__")
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-SAFE, SAFE)
    | st.floats(-SAFE, SAFE).filter(bool)
    | st.text(st.characters(codec=None, categories=None)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(VALUES)
async def test_values_come_back_as_they_were(bench: Bench, value: Any) -> None:
    """Order of keys, half surrogate pairs and every digit of a float are kept."""
    source = f"import json\ndef handler(pd):\n    return [json.loads({json.dumps(json.dumps(value))})]\n"
    await bench.run("python", source, name="one")

    back = (await bench.run("node", BACK, name="two")).exports["$return_value"]

    assert back == [value]
    assert _keys(back) == _keys([value])


async def test_a_long_integer_is_told_where_it_is_exported(bench: Bench) -> None:
    """Python steps below read every digit; Node.js cannot, and the record says so."""
    number = SAFE + 1
    outcome = await bench.run("python", f"def handler(pd):\n    return {{'id': {number}}}\n", name="one")
    below = await bench.run("python", "def handler(pd):\n    return pd.steps['one']['$return_value']['id']\n")

    assert below.exports["$return_value"] == number
    assert outcome.warnings[0].startswith(f"$return_value.id is {number}, and JavaScript has no such integer")


def _keys(value: Any) -> Any:
    if isinstance(value, dict):
        return [[key, _keys(item)] for key, item in value.items()]
    return [_keys(item) for item in value] if isinstance(value, list) else None

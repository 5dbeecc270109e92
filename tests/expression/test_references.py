"""Steps that JavaScript reads."""

from __future__ import annotations

import pytest

from pdkernel.expression import (
    find_javascript_references,
)


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("steps.a.b + steps['c'] + steps?.d", {"a", "c", "d"}),
        ("`x${steps.a.$return_value}`", {"a"}),
        ("this.steps.a + x.steps.b", set()),
        ("steps[name]", set()),
        ("'steps.a'", set()),
        ("{a: steps.b}", {"b"}),
        (
            "export default { run({ steps }) { const { a, b: c, d = 1 } = steps; return steps.e } } // steps.f",
            {"a", "b", "e"},
        ),
        ("const steps = [1]; steps.length", set()),
        ("function f(steps) { return steps.a }", set()),
        ("x.map(steps => steps.a)", set()),
        ("steps.hasOwnProperty('x')", set()),
    ],
)
def test_references(source: str, names: set[str]) -> None:
    """References are literal names read from the platform's `steps`."""
    assert find_javascript_references(source) == names

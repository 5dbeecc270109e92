"""Steps that JavaScript reads."""

from __future__ import annotations

import pytest

from pdkernel.language.expression import (
    find_javascript_references,
)
from pdkernel.language.expression.references import find_reference_lines


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


def test_the_first_line_of_each_reference() -> None:
    """A step is listed with the line that reads it first; a key with a default may be missing, and is not a reference."""
    source = "const { a: renamed, b = 1, c: d = 2 } = steps;\nreturn [\n  steps.late,\n  steps.late.again,\n  steps.a];"

    assert find_reference_lines(source) == {"a": 1, "late": 3}


def test_an_escaped_name_is_not_read() -> None:
    """A name with an escape sequence is not a literal name."""
    assert find_javascript_references(r"steps['a\x62'].x + steps['plain']") == {"plain"}

"""Substitution of expressions by their results."""

from __future__ import annotations

from typing import Any

import pytest

from pdkernel.language.expression import (
    UNDEFINED,
    substitute_results,
)


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

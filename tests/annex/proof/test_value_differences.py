"""Places where two JSON values differ."""

from __future__ import annotations

from typing import Any

import pytest

from pdkernel.annex.proof.report import Difference
from pdkernel.annex.proof.value_differences import MISSING, ValueDifference, find_differences
from pdkernel.common.redaction import Redactor, Secret


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, []),
        (1, 1.0, [("exports", 1, 1.0)]),
        (1, True, [("exports", 1, True)]),
        (0, None, [("exports", 0, None)]),
        ({"a": 1}, {"c": 2}, [("exports.a", 1, MISSING), ("exports.c", MISSING, 2)]),
        ({"a": None}, {}, [("exports.a", None, MISSING)]),
        ([1, 2], [1], [("exports[1]", 2, MISSING)]),
        ([1], [2, 3], [("exports[0]", 1, 2), ("exports[1]", MISSING, 3)]),
        ({"a": [{"b-c": 1}]}, {"a": [{"b-c": 2}]}, [("exports.a[0].b-c", 1, 2)]),
        ({"a b": 1, "": 1}, {"a b": 2, "": 2}, [('exports["a b"]', 1, 2), ('exports[""]', 1, 2)]),
        ({"é": 1}, {"é": 2}, [('exports["é"]', 1, 2)]),
        ([], {}, [("exports", [], {})]),
        ("a", "b", [("exports", "a", "b")]),
        ("a\nb\nc", "a\nx\ny", [("exports line 2", "b\n", "x\n")]),
        ("a\n", "a", [("exports line 1", "a\n", "a")]),
        ("a\nb", "a\n", [("exports line 2", "b", MISSING)]),
        ("a\nb", "a\nb", []),
    ],
)
def test_every_place_is_found(one: Any, other: Any, expected: list[tuple[str, Any, Any]]) -> None:
    """Types count, the order of keys does not; of texts of several lines the first differing line is reported."""
    found = [(each.path, each.notebook, each.files) for each in find_differences("exports", one, other)]

    assert found == expected
    assert [tuple(map(type, each)) for each in found] == [tuple(map(type, each)) for each in expected]


def test_a_path_may_be_empty() -> None:
    """A key of the value itself has no dot before it."""
    assert [each.path for each in find_differences("", {"a": 1, "b c": 1}, {})] == ["a", '["b c"]']


def test_a_report_has_no_secret() -> None:
    """Path and values are redacted JSON texts; a missing value is not null."""
    redactor = Redactor([Secret("env/KEY", "a-planted-secret")])
    found = ValueDifference("exports.a-planted-secret", {"é": "a-planted-secret"}, MISSING).to_difference(redactor)

    assert found == Difference("exports.⟦secret:env/KEY⟧", '{"é": "⟦secret:env/KEY⟧"}', None)
    assert ValueDifference("a", None, "x").to_difference(redactor) == Difference("a", "null", '"x"')

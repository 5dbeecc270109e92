"""Values that stay the same from run to run."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdkernel.annex.snapshot_tests import differs
from pdkernel.annex.snapshot_tests.stable_values import find_unstable_paths, merge_samples, replace_current_dates

NOW = datetime(2026, 11, 24, 10, tzinfo=UTC)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(samples=st.lists(JSON, min_size=1, max_size=3))
def test_the_merged_value_equals_every_sample(samples: list[Any]) -> None:
    """Every sample equals the merged value of all samples."""
    held_to = merge_samples(samples)

    assert all(sample == held_to for sample in samples)


@given(value=JSON)
def test_an_equal_value_is_compared_by_value(value: Any) -> None:
    """A value that is equal in all runs is compared by value."""
    assert list(find_unstable_paths(merge_samples([value, value, value]), "it")) == []


@pytest.mark.parametrize(
    ("samples", "text"),
    [
        ([1, 1.0], "differs(int, float)"),
        ([1, True], "differs(int, bool)"),
        (["a", None], "differs(str, None)"),
        ([[1], [1, 2]], "differs(list)"),
        ([{"a": 1}, {"b": 1}], "differs(dict)"),
        ([{"a": 1, "b": 2}, {"a": 1, "b": 3}], "{'a': 1, 'b': differs(int, float)}"),
    ],
)
def test_differing_values(samples: list[Any], text: str) -> None:
    """The smallest differing part is compared by its types."""
    assert repr(merge_samples(samples)) == text


@pytest.mark.parametrize(
    ("value", "held_to_type"),
    [
        ("2026-11-24T09:59:00Z", True),
        ("today is 2026-11-24", True),
        ("2019-05-15T15:20:18Z", False),
        (NOW.timestamp(), True),
        (int(NOW.timestamp() * 1000), True),
        (int(NOW.timestamp() * 1_000_000), True),
        ("2026-11-23T23:30:00-11:00", True),  # today elsewhere
        ("2026-11-25", True),
        ("2026-11-26", False),
        (12345, False),
        (True, False),
    ],
)
def test_current_dates(value: object, held_to_type: bool) -> None:
    """Today's date and the current time are equal in two runs and different tomorrow: they are compared by type."""
    assert isinstance(replace_current_dates(value, NOW, known_text=""), differs) is held_to_type


def test_a_date_of_the_input_is_compared_by_value() -> None:
    """A date of today in the event or in a recorded response does not come from a clock."""
    at = int(NOW.timestamp())
    value = {"days": ["2026-11-24"], "at": at, "now": at + 1}

    found = replace_current_dates(value, NOW, known_text=f'{{"day": "2026-11-24", "at": {at}}}')

    assert list(find_unstable_paths(found, "it")) == ["it.now"]  # a value with `differs` would equal the others, too


def test_a_value_of_another_type_is_different() -> None:
    """A number that becomes true, or a text that becomes null, fails the test; each of several types is equal."""
    numbers: list[Any] = [1, 1.5, True, "1", None]
    texts: list[Any] = ["", None, 0, []]

    assert [value == differs(int, float) for value in numbers] == [True, True, False, False, False]
    assert [value == differs(str, None) for value in texts] == [True, True, False, False]


def test_paths_of_unstable_values() -> None:
    """A path names keys, and numbers of items in lists and tuples."""
    assert list(find_unstable_paths({"a": [1, {"b": differs(str)}], "c": (differs(int),)}, "it")) == [
        "it.a[1].b",
        "it.c[0]",
    ]

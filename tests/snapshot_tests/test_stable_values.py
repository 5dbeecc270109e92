"""What stays the same from run to run."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdkernel.snapshot_tests import differs
from pdkernel.snapshot_tests.stable_values import find_unstable_paths, merge_samples, replace_current_dates

NOW = datetime(2026, 11, 24, 10, tzinfo=UTC)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(samples=st.lists(JSON, min_size=1, max_size=3))
def test_what_is_common_equals_every_sample(samples: list[Any]) -> None:
    """Whatever was seen in a run passes the comparison with what all runs have in common."""
    held_to = merge_samples(samples)

    assert all(sample == held_to for sample in samples)


@given(value=JSON)
def test_what_never_differs_is_held_to_itself(value: Any) -> None:
    """A value that is the same in all runs is compared as it is."""
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
def test_what_differs(samples: list[Any], text: str) -> None:
    """The smallest part that differs is held to its types."""
    assert repr(merge_samples(samples)) == text


@pytest.mark.parametrize(
    ("value", "held_to_type"),
    [
        ("2026-11-24T09:59:00Z", True),
        ("today is 2026-11-24", True),
        ("2019-05-15T15:20:18Z", False),
        (NOW.timestamp(), True),
        (int(NOW.timestamp() * 1000), True),
        (12345, False),
        (True, False),
    ],
)
def test_what_tells_the_present_day(value: object, held_to_type: bool) -> None:
    """Today's date and the present moment are the same in two runs and another tomorrow: only their type counts."""
    assert isinstance(replace_current_dates(value, NOW, known_text=""), differs) is held_to_type


def test_a_date_that_was_given_is_held_to() -> None:
    """A date of today that stands in the event or a recorded answer does not come from a clock."""
    assert replace_current_dates("2026-11-24", NOW, known_text='{"day": "2026-11-24"}') == "2026-11-24"

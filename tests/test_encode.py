"""JSON encoding, with values that the fast encoder rejects."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from pdkernel.encode import encode_json

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(values)
def test_every_value_is_unchanged(value: object) -> None:
    """Every value survives, including integers of any size and lone surrogates."""
    assert json.loads(encode_json(value)) == value


@given(values)
def test_json_is_one_line(value: object) -> None:
    """The JSON has no line break, because a line ends a request to a worker."""
    assert b"\n" not in encode_json(value)


def test_a_number_of_more_than_64_bits_keeps_its_digits() -> None:
    """An integer of more than 64 bits keeps its digits."""
    assert encode_json({"n": 2**70}) == b'{"n":1180591620717411303424}'


def test_half_a_surrogate_pair_is_escaped() -> None:
    """A lone surrogate is escaped: UTF-8 cannot hold it."""
    assert encode_json(["\ud83d"]) == b'["\\ud83d"]'


def test_nan_and_infinity_are_null() -> None:
    """NaN and Infinity become null, as in JavaScript."""
    assert encode_json([float("nan"), float("inf")]) == b"[null,null]"

"""Values as JSON: the quick encoder, and what it refuses."""

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
def test_every_value_comes_back_as_it_was(value: object) -> None:
    """Numbers of any size and half surrogate pairs among them."""
    assert json.loads(encode_json(value)) == value


@given(values)
def test_it_is_one_line(value: object) -> None:
    """A line's end would end a request to a step's process."""
    assert b"\n" not in encode_json(value)


def test_a_number_of_more_than_64_bits_keeps_its_digits() -> None:
    """Python's numbers have no end."""
    assert encode_json({"n": 2**70}) == b'{"n":1180591620717411303424}'


def test_half_a_surrogate_pair_is_escaped() -> None:
    """No UTF-8 holds it."""
    assert encode_json(["\ud83d"]) == b'["\\ud83d"]'


def test_what_is_no_number_is_null() -> None:
    """As JavaScript writes it: JSON has no word for it."""
    assert encode_json([float("nan"), float("inf")]) == b"[null,null]"

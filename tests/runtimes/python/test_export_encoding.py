"""The exports of a Python step, as JSON."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdkernel.runtimes.python.export_encoding import ExportNotJSONError, encode_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=30,
)


@given(VALUES)
def test_json_values_are_unchanged(value: object) -> None:
    """Encoding loses nothing, and the text is one line of ASCII."""
    text = encode_json(value, "x")

    assert json.loads(text) == value
    assert "\n" not in text
    assert text.isascii()


@given(VALUES, st.sampled_from([float("nan"), object(), b"", {1: 2}, {1}]))
def test_an_invalid_value_is_found_by_its_path(value: object, wrong: object) -> None:
    """The error has the path of the value, whatever precedes it."""
    with pytest.raises(ExportNotJSONError, match=r"^x\.a\[1\]\.b"):
        encode_json({"first": value, "a": [value, {"b": wrong}]}, "x")


def test_a_shared_object_is_not_a_cycle() -> None:
    """Only an object that contains itself is a cycle."""
    shared = {"n": 1}

    assert encode_json([shared, shared], "x") == '[{"n":1},{"n":1}]'

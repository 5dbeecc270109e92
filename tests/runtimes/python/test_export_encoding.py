"""The exports of a Python step, as JSON."""

from __future__ import annotations

import json
from datetime import date

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


@given(VALUES, st.sampled_from([float("nan"), object(), b"", {(1,): 2}, {1}]))
def test_an_invalid_value_is_found_by_its_path(value: object, wrong: object) -> None:
    """The error has the path of the value, whatever precedes it."""
    with pytest.raises(ExportNotJSONError, match=r"^x\.a\[1\]\.b"):
        encode_json({"first": value, "a": [value, {"b": wrong}]}, "x")


def test_a_shared_object_is_not_a_cycle() -> None:
    """Only an object that contains itself is a cycle."""
    shared = {"n": 1}

    assert encode_json([shared, shared], "x") == '[{"n":1},{"n":1}]'


def test_the_depth_of_a_value() -> None:
    """A value has at most 256 levels, with a text at the deepest; code that is called deep inside a step gets the same error."""
    value: object = "deep"
    for _ in range(256):
        value = [value]

    def encode_inside(calls: int) -> str:
        return encode_inside(calls - 1) if calls else encode_json({"a": value}, "x")

    assert encode_json(value, "x").count("[") == 256
    with pytest.raises(ExportNotJSONError, match=r"^JSON Nested Property Limit Exceeded: x\.a\[0\]"):
        encode_inside(250)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({1, 2}, "x.a is a set, which JSON does not support. Use list(...)."),
        (date(2026, 1, 2), "x.a is a date, which JSON does not support. Use .isoformat()."),
        (b"a", "x.a is a bytes, which JSON does not support. Use .decode(), or base64."),
        (float("inf"), "x.a is inf, which JSON does not support."),
        ({5.5: 1}, "x.a has the key 5.5, a float, but keys in JSON are texts. Use str(key)."),
        ({True: 1}, "x.a has the key True, a bool, but keys in JSON are texts. Use str(key)."),
        ({5: 1, "5": 2}, 'x.a has the keys 5 and "5", which are one key in JSON. Use one of them.'),
        ({5: {1, 2}}, 'x.a["5"] is a set, which JSON does not support. Use list(...).'),
    ],
)
def test_what_json_does_not_support_has_a_hint(value: object, says: str) -> None:
    """The message names the type, and what to write instead."""
    with pytest.raises(ExportNotJSONError) as caught:
        encode_json({"a": value}, "x")

    assert str(caught.value) == says


def test_integer_keys_are_texts() -> None:
    """Integer keys, as of `df.to_dict()`, become texts."""
    assert encode_json({"name": {0: "a", 1: "b"}}, "x") == '{"name":{"0":"a","1":"b"}}'

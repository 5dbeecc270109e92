"""JSON of plain data, with values that the fast encoder rejects, and of structs."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any, Self

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdkernel.common.encode import JsonStruct, decode_json, encode_json

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


class Point(JsonStruct, frozen=True):
    """A value with a JSON form."""

    x: Any
    items: tuple[int, ...] = (1, 2)


class Secretive(Point, frozen=True, omit_defaults=True):
    """A value with a field that is not in its JSON."""

    hidden: str | None = None

    def json_form(self) -> Self:
        """Return the value without `hidden`."""
        return msgspec.structs.replace(self, hidden=None)


@given(values)
def test_struct_is_read_from_its_json(value: object) -> None:
    """A struct equals the one that is read from its text and from its JSON; a tuple is a list in the JSON."""
    point = Point(value)

    assert decode_json(encode_json(point), Point) == Point.from_json(point.to_json()) == point
    assert point.to_json() == {"x": value, "items": [1, 2]}


def test_structs_in_plain_data_are_encoded() -> None:
    """Plain data may hold structs at any depth."""
    assert encode_json({"a": [Point(1)]}) == b'{"a":[{"x":1,"items":[1,2]}]}'
    assert encode_json([Point("\ud83d")]) == b'[{"x":"\\ud83d","items":[1,2]}]'


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (PurePosixPath("a/b"), "a/b"),
        (MappingProxyType({"a": 1}), {"a": 1}),
        (type("Text", (str,), {})("x"), "x"),
        (type("Whole", (int,), {})(7), 7),
        (type("Number", (float,), {})(1.5), 1.5),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_that_are_almost_plain(value: object, plain: object) -> None:
    """A path is its text; another mapping and subclasses of plain types are encoded as the plain type."""
    assert Point(value).to_json()["x"] == plain


@pytest.mark.parametrize("x", [1, "\ud83d"])
def test_field_that_is_not_in_the_json_is_left_out(x: object) -> None:
    """`json_form` decides which fields are in the JSON, for a value that the fast encoder rejects too."""
    value = Secretive(x, hidden="planted")

    assert b"planted" not in encode_json(value)
    assert value.to_json() == {"x": x}


def test_value_without_a_json_form_is_refused() -> None:
    """An object that is not JSON is a type error."""
    with pytest.raises(TypeError):
        encode_json(Point(object()))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"items":[1]}', '{"x":1,"items":["a"]}'])
def test_text_that_does_not_fit_is_refused(text: str) -> None:
    """A text that is not JSON, or not of the type, is a value error."""
    with pytest.raises(ValueError, match=r"."):
        decode_json(text, Point)

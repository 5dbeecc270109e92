"""Numbers in the JSON of an event."""

from __future__ import annotations

import pytest

from pdkernel.errors import EventError
from pdkernel.event import parse_json


@pytest.mark.parametrize("number", ["1e400", "-1E+999", "9" * 400 + ".5"])
def test_a_number_beyond_every_double_is_refused(number: str) -> None:
    """A number that every language reads as Infinity is refused with its position."""
    with pytest.raises(EventError, match="is not a JSON value at line 2, column 7"):
        parse_json(f'{{\n "a": {number}}}')


def test_large_numbers_are_read() -> None:
    """The largest double and whole numbers of any length are numbers."""
    assert parse_json(f"[1.7976931348623157e308, 1e-400, {'9' * 400}]") == [1.7976931348623157e308, 0.0, int("9" * 400)]


@pytest.mark.parametrize("number", ["9" * 4301, "-" + "9" * 400_000])
def test_a_whole_number_beyond_pythons_limit_is_refused(number: str) -> None:
    """A whole number with more digits than Python converts is refused with its position; the message shortens the number."""
    with pytest.raises(EventError, match="is too long at line 2, column 7") as caught:
        parse_json(f'{{\n "a": {number}}}')

    assert len(str(caught.value)) < 200


def test_a_long_number_that_is_refused_is_not_repeated_in_full() -> None:
    """The message shows only the beginning of a refused number."""
    with pytest.raises(EventError) as caught:
        parse_json("9" * 400 + ".5")

    assert len(str(caught.value)) < 200

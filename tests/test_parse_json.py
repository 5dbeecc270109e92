"""Numbers in JSON that a person typed."""

from __future__ import annotations

import pytest

from pdkernel.errors import EventError
from pdkernel.event import parse_json


@pytest.mark.parametrize("number", ["1e400", "-1E+999", "9" * 400 + ".5"])
def test_a_number_beyond_every_double_is_refused(number: str) -> None:
    """A number that every language reads as Infinity, which JSON cannot carry on, is refused with its place."""
    with pytest.raises(EventError, match="is no JSON value at line 2, column 7"):
        parse_json(f'{{\n "a": {number}}}')


def test_great_numbers_that_a_double_holds_are_read() -> None:
    """The largest double and whole numbers of any length are numbers."""
    assert parse_json(f"[1.7976931348623157e308, 1e-400, {'9' * 400}]") == [1.7976931348623157e308, 0.0, int("9" * 400)]

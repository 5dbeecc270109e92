"""URL-encoded fields: the result of the standard library, in linear time and within limits."""

from __future__ import annotations

import asyncio
import time
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdkernel.server.endpoint.form_fields import (
    MAX_FIELDS,
    TooManyFieldsError,
    collect_fields,
    parse_form,
    parse_query,
)
from tests.growth import assert_linear

SLICE = 32 * 1024


@given(st.text(alphabet="%&=+;a4Ff0é\ud7ff \0", max_size=60))
def test_the_fields_are_those_of_the_standard_library(text: str) -> None:
    """Valid and invalid escapes, blanks, empty names and repeated names are read as `parse_qsl` reads them."""
    expected = collect_fields(parse_qsl(text, keep_blank_values=True))

    assert parse_query(text) == expected
    assert asyncio.run(parse_form(text)) == expected


@pytest.mark.parametrize("before", range(SLICE - 6, SLICE + 2))
@pytest.mark.parametrize("escape", ["%41", "%C3%A9", "%%41", "%4", "%"])
def test_an_escape_between_two_slices(before: int, escape: str) -> None:
    """A long value is parsed in slices, none of which cuts an escape."""
    text = f"a={'x' * before}{escape}"

    assert asyncio.run(parse_form(text)) == dict(parse_qsl(text))


@pytest.mark.parametrize("item", ["%", "%4", "%41", "%41a", "%41%", "é%41", "%ff", "+", "="])
def test_the_time_grows_with_the_size(item: str) -> None:
    """Four times the text takes about four times as long, whatever the escapes."""
    assert_linear(lambda text: asyncio.run(parse_form(text)), lambda size: "a=" + item * (size // len(item)))


@pytest.mark.parametrize("item", ["a&", "%=&", "%41=%41&"])
def test_the_number_of_fields_is_limited(item: str) -> None:
    """More fields than the limit are refused, of a form and of a query."""
    assert parse_query(item * (MAX_FIELDS - 1))
    with pytest.raises(TooManyFieldsError, match="more than 10,000 fields"):
        parse_query(item * (MAX_FIELDS + 1))
    with pytest.raises(TooManyFieldsError):
        asyncio.run(parse_form(item * (MAX_FIELDS + 1)))


@pytest.mark.parametrize("text", ["a=" + "%41a" * 128 * 1024, "%41=%41&" * (MAX_FIELDS - 1)])
async def test_other_tasks_run_while_a_form_is_parsed(text: str) -> None:
    """A long value and many fields do not stop the event loop for long."""
    stops = []

    async def watch() -> None:
        while True:
            began = time.thread_time()
            await asyncio.sleep(0)
            stops.append(time.thread_time() - began)

    watching = asyncio.create_task(watch())
    await parse_form(text)
    watching.cancel()

    assert max(stops) < 0.05

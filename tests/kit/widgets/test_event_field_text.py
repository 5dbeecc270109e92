"""An event converted to texts and back."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdkernel.errors import EventError
from pdkernel.kit.widgets.event_field_text import (
    EventFieldTexts,
    describe_event_fields,
    find_lost_headers,
    find_masked_headers,
    format_event_fields,
    is_same_event,
    parse_event_fields,
    remove_identity_headers,
)

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
names = st.text(min_size=1) | st.sampled_from(["authorization", ":path", "a:b", "a: b", "x\ny"])
pairs = st.dictionaries(names, values, max_size=4) | values
events = st.fixed_dictionaries(
    {},
    optional={
        "method": values,
        "path": values,
        "query": pairs,
        "headers": pairs,
        "client_ip": values,
        "url": values,
        "odd": values,
    },
)


@given(events)
def test_untouched_is_unchanged(data: dict[str, Any]) -> None:
    """Any unedited event is returned unchanged, with its keys in the same order."""
    base = remove_identity_headers(data)

    assert is_same_event(parse_event_fields(format_event_fields(base), base), base)


plain = st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1)


@given(st.dictionaries(plain.map(str.lower), plain, min_size=1), plain)
def test_touching_one_line_keeps_the_others(query: dict[str, str], value: str) -> None:
    """An edit of a field's last line changes only that line's value."""
    data: dict[str, Any] = {"query": {**query, "n": 5, "last": "old"}}
    texts = format_event_fields(data)
    edited = texts.query.removesuffix("last: old") + f"last: {value}"

    read = parse_event_fields(dataclasses.replace(texts, query=edited), data)

    assert read == {"query": {**query, "n": 5, "last": value}}


def test_a_masked_value_survives_other_edits() -> None:
    """A secret header is shown as ***, and an edit of another line keeps its value."""
    data: dict[str, Any] = {"headers": {"Authorization": "Bearer real", "accept": "*/*"}}
    texts = format_event_fields(data)

    read = parse_event_fields(dataclasses.replace(texts, headers=texts.headers + "\nx-new: 1"), data)

    assert texts.headers == "Authorization: ***\naccept: */*"
    assert read == {"headers": {"Authorization": "Bearer real", "accept": "*/*", "x-new": "1"}}


def test_masked_headers_are_distinguished() -> None:
    """A value lost on saving is distinguished from a hidden value."""
    data: dict[str, Any] = {"headers": {"authorization": "***", "x-api-key": "real", "accept": "*/*"}}

    assert find_lost_headers(data) == ["authorization"]
    assert find_masked_headers(data) == ["x-api-key"]


def test_an_empty_field_has_no_key() -> None:
    """An empty field removes its key."""
    data: dict[str, Any] = {"method": "POST", "query": {"a": "1"}, "client_ip": "::1", "url": "https://x.test/"}

    assert parse_event_fields(EventFieldTexts(), data) == {"url": "https://x.test/"}


def test_name_may_hold_a_colon() -> None:
    """A name of the original event may contain colons; a new name may begin with a colon."""
    data: dict[str, Any] = {"headers": {"a:b": "1"}}

    read = parse_event_fields(EventFieldTexts(headers="a:b: 2\n:path: /x"), data)

    assert read == {"headers": {"a:b": "2", ":path": "/x"}}
    data = {"query": {"a": "1", "a:b": "2"}}
    read = parse_event_fields(EventFieldTexts(query="a: 1\na:b: 3"), data)
    assert read == {"query": {"a": "1", "a:b": "3"}}


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ("accept: a\nno colon", "headers, line 2: write `name: value`."),
        ("Accept: a\n\naccept: b", "headers, line 3: accept is already in line 1."),
        (
            "X-PD-Environment: production",
            "headers, line 1: pdkernel sets X-PD-Environment from the picked external user.",
        ),
    ],
)
def test_an_invalid_line_is_named(headers: str, message: str) -> None:
    """A line that cannot be read is named."""
    with pytest.raises(EventError) as caught:
        parse_event_fields(EventFieldTexts(headers=headers), {})

    assert caught.value.message == message


def test_identity_is_the_sessions() -> None:
    """Headers that follow the session are removed, in any case of letters; headers that consist only of them too."""
    assert remove_identity_headers({"headers": {"X-Pd-Environment": "x", "a": "b"}}) == {"headers": {"a": "b"}}
    assert remove_identity_headers({"headers": {"x-pd-external-user-id": "ada"}, "body": 1}) == {"body": 1}


def test_one_is_not_true() -> None:
    """Values that are equal in Python and different in JSON are different."""
    assert not is_same_event({"body": 1}, {"body": True})


def test_a_saved_notebook_has_no_value_that_may_be_secret() -> None:
    """Of query and body the keys are shown; of the path, no value of a secret parameter; an empty field is left out."""
    data: dict[str, Any] = {
        "method": "POST",
        "path": "/in?token=planted-1&page=2",
        "query": {"key": "planted-2", "page": "\ud800"},
        "headers": {"authorization": "planted-3"},
        "body": {"name": "planted-4"},
        "client_ip": "planted-5",
    }

    described = dict(describe_event_fields(data))

    assert "planted" not in str(described)
    assert (described["path"].partition("?")[0], "page=2" in described["path"]) == ("/in", True)
    assert (described["query"], described["headers"]) == ("key, page", "authorization: ***")
    assert described["body"] == "object: name"
    assert [dict(describe_event_fields({"body": body})) for body in ([1], "text", 5, None)] == [
        {"body": "array"},
        {"body": "text"},
        {"body": "JSON"},
        {"body": "JSON"},
    ]
    assert describe_event_fields({"query": "planted", "client_ip": "::1"}) == []

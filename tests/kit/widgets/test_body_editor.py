"""The fields of an event as texts, and the editor of its body."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdkernel.errors import EventError
from pdkernel.kit.widgets.body_editor import (
    ABSENT,
    MAX_EDITABLE_CHARACTERS,
    BodyEditor,
    BodyText,
    EventFieldTexts,
    describe_event_fields,
    find_lost_headers,
    find_masked_headers,
    format_body,
    format_event_fields,
    is_same_event,
    parse_body,
    parse_event_fields,
    remove_identity_headers,
)
from tests.kit.widgets.front_end import pick, press, screen, type_into

BIG = {"rows": [{"n": n, "text": "x" * 100} for n in range(3000)]}

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def pick_kind(editor: BodyEditor, label: str) -> None:
    """Pick the kind of the body."""
    pick(editor.kind, dict(editor.kind.options)[label])


@pytest.fixture
def editor() -> BodyEditor:
    """An editor without a body."""
    editor = BodyEditor(lambda: None)
    editor.load(ABSENT, empty_kind="json")
    return editor


@given(values.filter(lambda value: not isinstance(value, str)))
def test_json_is_unchanged(value: Any) -> None:
    """JSON that is shown reads back as the same JSON."""
    shown = format_body(value)

    assert json.dumps(parse_body(shown.kind, shown.text)) == json.dumps(value)


@given(st.text(st.characters(codec="utf-8")).filter(lambda text: bool(text.strip())))
def test_text_is_unchanged(text: str) -> None:
    """Text that is shown reads back as the same text."""
    shown = format_body(text)

    assert (shown.kind, parse_body(shown.kind, shown.text)) == ("text", text)


@pytest.mark.parametrize("value", [ABSENT, None, "", " ", "a\r\nb", "\ud800", 0, False, [], {}, "{}"])
def test_untouched_is_unchanged(editor: BodyEditor, value: Any) -> None:
    """An unedited body stays the same object, even if blank, null or a lone surrogate."""
    editor.load(value)

    assert editor.read_body() is value
    assert not editor.is_modified


def test_a_lone_surrogate_can_be_sent(editor: BodyEditor) -> None:
    """A text that is not valid Unicode is shown with question marks, and can be sent to a front end."""
    editor.load("a\ud800")

    assert editor.text.value == "a?"


def test_an_error_is_shown_while_typing(editor: BodyEditor) -> None:
    """A JSON error is shown with line and column until the text is corrected."""
    type_into(editor.text, '{"a": 1,\n  b: 2}')
    wrong = screen(editor.view)

    type_into(editor.text, '{"a": 1,\n  "b": 2}')

    assert "at line 2, column 3" in wrong
    assert "line" not in screen(editor.view)
    assert editor.read_body() == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("kind", "text", "body"), [("JSON", " \n", ABSENT), ("JSON", "null", None), ("text", "a=1&b=2", "a=1&b=2")]
)
def test_a_typed_text_is_the_body(editor: BodyEditor, kind: str, text: str, body: Any) -> None:
    """An empty text is not a body, a typed null is one, and a text is not checked."""
    pick_kind(editor, kind)

    type_into(editor.text, text)

    assert editor.read_body() == body
    assert editor.error_message == ""


def test_kind_none_keeps_the_text(editor: BodyEditor) -> None:
    """Choosing no body and then JSON restores the typed text."""
    type_into(editor.text, "[1]")
    pick_kind(editor, "none")
    none = editor.read_body()

    pick_kind(editor, "JSON")

    assert none is ABSENT
    assert editor.read_body() == [1]


def test_pretty_print(editor: BodyEditor) -> None:
    """Pretty-printing indents the JSON and does not escape letters."""
    type_into(editor.text, '{"a":"é"}')

    press(editor.view, "Pretty-print")

    assert editor.text.value == '{\n  "a": "é"\n}'


def test_big_body_is_shown_in_part(editor: BodyEditor) -> None:
    """A large body is shown in part and read-only, and is kept whole."""
    editor.load(BIG)

    assert len(editor.text.value) < 10_000
    assert editor.text.disabled
    assert "too long to edit here" in screen(editor.view)
    assert editor.read_body() is BIG


def test_a_big_body_can_be_removed_and_restored(editor: BodyEditor) -> None:
    """Choosing no body and then JSON restores the whole body."""
    editor.load(BIG)
    pick_kind(editor, "none")

    pick_kind(editor, "JSON")

    assert editor.read_body() is BIG


def test_big_body_as_text(editor: BodyEditor) -> None:
    """A big JSON body that becomes text is the whole JSON."""
    editor.load(BIG)

    pick_kind(editor, "text")

    assert json.loads(str(editor.read_body())) == BIG


def test_big_body_can_be_replaced(editor: BodyEditor) -> None:
    """A big body can be replaced by typing another."""
    editor.load(BIG)

    press(editor.view, "Write another body")
    emptied = (editor.read_body(), editor.is_modified, editor.text.disabled)
    type_into(editor.text, "[1]")

    assert emptied == (ABSENT, True, False)
    assert editor.read_body() == [1]
    assert editor.is_modified


def test_a_text_in_the_place_of_the_preview_is_the_body(editor: BodyEditor) -> None:
    """A front end that lets a person edit the shown part replaces the whole body."""
    editor.load(BIG)

    type_into(editor.text, "[1]")

    assert editor.read_body() == [1]
    assert not editor.text.disabled


def test_pasting_a_big_body(editor: BodyEditor) -> None:
    """A pasted large body is kept whole, shown in part, and counts as an edit."""
    type_into(editor.text, json.dumps(BIG))

    assert editor.read_body() == BIG
    assert len(editor.text.value) < 10_000
    assert editor.is_modified


def test_pasting_a_big_invalid_text(editor: BodyEditor) -> None:
    """A big text that is not JSON stays editable in the field."""
    pasted = json.dumps(BIG)[:-1]

    type_into(editor.text, pasted)

    assert len(pasted) > MAX_EDITABLE_CHARACTERS
    assert editor.text.value == pasted
    assert not editor.text.disabled
    with pytest.raises(EventError):
        editor.read_body()


@pytest.mark.parametrize("length", [MAX_EDITABLE_CHARACTERS, MAX_EDITABLE_CHARACTERS + 1])
def test_the_longest_body_that_can_be_edited(length: int) -> None:
    """A body of 200,000 characters can be edited; of a longer one the first 4,000 characters are shown."""
    shown = format_body("x" * length)

    if length == MAX_EDITABLE_CHARACTERS:
        assert (shown.kind, len(shown.text), shown.total_characters) == ("text", length, None)
    else:
        assert shown == BodyText("text", "x" * 4000 + "\n…", length)


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
def test_an_untouched_event_is_unchanged(data: dict[str, Any]) -> None:
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

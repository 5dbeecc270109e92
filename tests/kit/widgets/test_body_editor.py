"""The editor of an event's body."""

from __future__ import annotations

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
    format_body,
    parse_body,
)
from tests.kit.widgets.front_end import pick, press, screen, type_into

BIG = {"rows": [{"n": n, "text": "x" * 100} for n in range(3000)]}

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
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


def test_empty_text_is_not_a_body(editor: BodyEditor) -> None:
    """An empty text is not a body."""
    type_into(editor.text, " \n")

    assert editor.read_body() is ABSENT
    assert editor.error_message == ""


def test_null_is_a_body(editor: BodyEditor) -> None:
    """A typed null is a body."""
    type_into(editor.text, "null")

    assert editor.read_body() is None


def test_text_is_not_checked(editor: BodyEditor) -> None:
    """A body of another kind than JSON is sent unchanged."""
    pick_kind(editor, "text")

    type_into(editor.text, "a=1&b=2")

    assert editor.read_body() == "a=1&b=2"
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

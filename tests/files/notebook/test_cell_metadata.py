"""What a cell cannot show: written to its metadata and read back."""

from __future__ import annotations

import pytest

from pdkernel.files.notebook.cell_metadata import (
    build_step_cell,
    decode_mapping,
    encode_mapping,
    merge_stored_values,
    restore_source,
    restore_step,
)
from pdkernel.model import JSON, Step, StoreBinding


@pytest.mark.parametrize(
    ("value", "kept"),
    [({"a": 1, "b": 2}, {"a": 1, "b": 2}), ({"b": 1, "a": 2}, '{"b": 1, "a": 2}'), ({"a": {"d": 1, "c": 2}}, None)],
)
def test_an_order_that_jupyter_would_lose_is_kept_as_text(value: dict[str, JSON], kept: JSON) -> None:
    """A mapping with sorted keys stays a mapping; any other, at any depth, is text; both read back in their order."""
    encoded = encode_mapping(value)

    assert isinstance(encoded, str) if kept is None else encoded == kept
    assert repr(decode_mapping(encoded)) == repr(value)


@pytest.mark.parametrize("kept", [None, 5, [], "{", "[1]"])
def test_metadata_that_is_not_a_mapping(kept: JSON) -> None:
    """A value that is not a mapping, as text or not, is ignored."""
    assert decode_mapping(kept) is None


@pytest.mark.parametrize(
    ("body", "stored", "source"),
    [
        ("a\nb\n", "a\r\nb\r\n", "a\r\nb\r\n"),
        ("a\nb\n", "\ufeffa\nb\n", "\ufeffa\nb\n"),
        ("a\nc\n", "a\r\nb\r\n", "a\r\nc\r\n"),
        ("x\na\n", "\ufeffa\n", "\ufeffx\na\n"),
        ("a\nb\nx\n", "a\r\nb\n", "a\r\nb\nx\n"),
        ("a\nb\n", None, "a\nb\n"),
        ("a\nb\n", "", "a\nb\n"),
        ("a\nb\n", 5, "a\nb\n"),
    ],
    ids=["line ends", "mark", "changed line", "new line", "half of the lines", "none", "empty", "number"],
)
def test_the_original_form_of_code(body: str, stored: object, source: str) -> None:
    """Unchanged lines have their line ends, and new lines those of more than half of the lines."""
    assert restore_source(body, stored) == source


def test_the_cells_text_wins() -> None:
    """A value and a store that the cell shows win over the metadata; the order of props is that of the metadata."""
    stored = {"values": {"b": 1, "a": 1}, "order": ["c", "b", "gone", "a"]}

    assert list(merge_stored_values({"a": 2, "c": 3, "new": 4}, stored).items()) == [
        ("c", 3),
        ("b", 1),
        ("a", 2),
        ("new", 4),
    ]
    assert merge_stored_values({"a": 2}, {"order": ["a"]}) == {"a": 2}
    step = restore_step(Step("s", stores=(StoreBinding("db", "ds_1"),)), {"stores": [["db", "ds_2"], ["other", None]]})
    assert step.stores == (StoreBinding("other", None), StoreBinding("db", "ds_1"))


@pytest.mark.parametrize(
    ("metadata", "note", "notes"),
    [({"notes": "a"}, None, "a"), ({"notes": "a"}, "b", "b"), ({"notes": "a"}, "", ""), ({"notes": 5}, None, None)],
)
def test_the_note_of_a_cell_wins(metadata: dict[str, JSON], note: str | None, notes: str | None) -> None:
    """The Markdown cell wins over the metadata, also if it is empty."""
    assert restore_step(Step("s"), metadata, note=note).notes == notes


def test_an_action_has_no_code() -> None:
    """The code in the metadata is ignored for an action, whose cell has props."""
    assert restore_step(Step("s", uses="a-b@1.0.0"), {"source": "\ufeffx\n"}).source == ""


def test_a_plain_step_needs_no_metadata() -> None:
    """A step that its cell shows completely has no metadata; a note, line ends and extra keys are kept."""
    plain = Step("s", source="a\n", props={"n": 1})
    assert build_step_cell(plain)[1] == {}

    odd = Step("s", source="a\r\n", notes="n", extra={"b": 1, "a": 2})
    assert build_step_cell(odd)[1] == {"notes": "n", "extra": '{"b": 1, "a": 2}', "source": "a\r\n"}


def test_a_prop_that_a_line_cannot_hold_is_kept_with_the_order() -> None:
    """Only the value that the cell cannot hold is in the metadata, with the order of all values."""
    step = Step("s", props={"z": 1, "a b": 2, "c": 3})
    text, metadata = build_step_cell(step)

    assert metadata == {"props": {"values": {"a b": 2}, "order": ["z", "a b", "c"]}}
    assert "--prop z=1 --prop c=3" in text
    assert list(merge_stored_values({"z": 1, "c": 3}, metadata["props"])) == ["z", "a b", "c"]

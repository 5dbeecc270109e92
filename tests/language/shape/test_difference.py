"""The difference of two JSON values."""

from __future__ import annotations

import pytest
from hypothesis import given

from pdkernel.language.shape import MAX_CHANGES, Change, compare_values
from pdkernel.model import JSON
from tests.language.shape.values import COMMITS, json_values


@given(json_values)
def test_a_value_does_not_differ_from_itself(value: JSON) -> None:
    """Equal values have no difference."""
    assert compare_values(value, value).changes == ()


@given(json_values, json_values)
def test_the_reverse_difference_has_the_reverse_counts(before: JSON, after: JSON) -> None:
    """What is added in one direction is removed in the other; types and values differ in both."""
    there, back = compare_values(before, after).counts, compare_values(after, before).counts

    assert (there["added"], there["removed"], there["type"], there["value"]) == (
        back["removed"],
        back["added"],
        back["type"],
        back["value"],
    )


def test_each_kind_of_change() -> None:
    """Added, removed, retyped and changed parts have their paths and both values."""
    before: JSON = {"a": 1, "b": {"c": [1, 2]}, "d": "x", "e": True, "n": None}
    after: JSON = {"a": 2, "b": {"c": [1, "2", 3]}, "e": 1, "n": None, "f": {"g": 1}}

    found = compare_values(before, after)

    assert found.changes == (
        Change("value", ("a",), "integer 1", "integer 2"),
        Change("type", ("b", "c", 1), "integer 2", 'string "2"'),
        Change("added", ("b", "c", 2), "", "integer 3"),
        Change("removed", ("d",), 'string "x"', ""),
        Change("type", ("e",), "boolean true", "integer 1"),
        Change("added", ("f",), "", "object of 1"),
    )
    assert found.counts == {"added": 2, "removed": 1, "type": 2, "value": 1}


def test_items_are_compared_by_their_id() -> None:
    """An item that is inserted at the front of a list is one difference; a changed item has its new place."""
    assert isinstance(COMMITS, dict)
    items = COMMITS["commits"]
    assert isinstance(items, list)
    changed = {**items[1], "author": {"name": "Bob"}} if isinstance(items[1], dict) else None

    found = compare_values({"commits": items}, {"commits": [{"id": "new"}, items[0], changed]})

    assert [(change.kind, change.path) for change in found.changes] == [
        ("value", ("commits", 2, "author", "name")),
        ("removed", ("commits", 2, "author", "email")),
        ("added", ("commits", 0)),
    ]


@pytest.mark.parametrize("name", ["password", "authorization", "token"])
def test_secret_values_are_compared_and_not_shown(name: str) -> None:
    """A changed value of a field with a secret name is a difference without the values."""
    (change,) = compare_values({"body": {name: {"value": "one"}}}, {"body": {name: {"value": "two"}}}).changes

    assert (change.kind, change.before, change.after) == ("value", 'string "***"', 'string "***"')


def test_very_many_changes_are_counted() -> None:
    """Of very many changes the first are listed, and all are counted; deep values do not end in an error."""
    deep: JSON = 1
    for _ in range(900):
        deep = [deep]

    found = compare_values({}, {f"k{number}": deep for number in range(3 * MAX_CHANGES)})

    assert (len(found.changes), found.counts["added"]) == (MAX_CHANGES, 3 * MAX_CHANGES)
    assert compare_values(deep, [deep]).counts["type"] == 1

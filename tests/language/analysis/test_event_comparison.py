"""Drift: a field that steps read is gone, or has another type than before."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from pdkernel.language.analysis.contract import derive_contract
from pdkernel.language.analysis.event_comparison import Drift, compare_event, detect_drift
from tests.builders import a_workflow, an_event, node_step, python_step

CONTRACT = derive_contract(
    a_workflow(
        replace(
            python_step(
                "read",
                "body = pd.steps['trigger']['event']['body']\n"
                "print(body['title'], body['issue']['number'])\n"
                "for label in body.get('labels', []):\n    print(label['name'])",
            ),
            cell_index=2,
        ),
        replace(node_step("tell", "return steps.trigger.event.body.title;"), cell_index=3),
    )
)
BEFORE = {"title": "a", "issue": {"number": 1}, "labels": [{"name": "x"}], "unread": 1}


def drifts(after: Any, *before: Any) -> tuple[Drift, ...]:
    """The drift of a body against earlier ones."""
    return detect_drift(CONTRACT, [an_event(each).data for each in before or (BEFORE,)], an_event(after).data)


def test_the_same_structure_is_not_drift() -> None:
    """Other values of the same types are not drift; integers and fractions are both numbers."""
    assert drifts({"title": "b", "issue": {"number": 1.5}, "labels": [], "unread": 2}) == ()


def test_unread_fields_are_not_drift() -> None:
    """Changed, missing and new fields that no step reads are not drift."""
    after = {key: value for key, value in BEFORE.items() if key != "unread"}
    assert drifts({**after, "new": True}) == drifts({**BEFORE, "unread": ["x"]}) == ()


def test_a_missing_field_names_its_readers() -> None:
    """If a field of every earlier event is missing, the drift names the step, cell and line of each reader."""
    (found,) = drifts({key: value for key, value in BEFORE.items() if key != "title"})

    assert (found.kind, found.path, found.types_before, found.types_after, found.required) == (
        "gone",
        "body.title",
        ("string",),
        (),
        True,
    )
    assert [str(reader) for reader in found.readers] == ["read (line 4)", "tell (line 4)"]


def test_a_missing_container_is_named() -> None:
    """If the object around a field is missing, the drift names the field and the object."""
    (found,) = drifts({**{key: value for key, value in BEFORE.items() if key != "issue"}})
    assert (found.kind, found.path, found.to_json()["at"]) == ("gone", "body.issue.number", "body.issue")


def test_the_items_of_a_list_are_compared_together() -> None:
    """A key that one item of a list lacks is missing, and a type that one item has is new."""
    assert [(each.kind, each.path) for each in drifts({**BEFORE, "labels": [{"name": "x"}, {}]})] == [
        ("gone", "body.labels[].name")
    ]
    assert [(each.kind, each.types_after) for each in drifts({**BEFORE, "labels": [{"name": "x"}, {"name": 1}]})] == [
        ("type", ("number", "string"))
    ]


def test_an_object_that_became_a_list_has_none_of_its_keys() -> None:
    """The keys of the items of a list are not keys of the list."""
    (as_list,) = drifts({**BEFORE, "issue": [{"number": 1}]})
    (as_object,) = drifts({**BEFORE, "labels": {"name": "x"}})

    assert (as_list.kind, as_list.path, as_list.types_after) == ("type", "body.issue.number", ("array",))
    assert (as_object.kind, as_object.path, as_object.types_after) == ("type", "body.labels[].name", ("object",))


def test_without_earlier_events_nothing_is_drift() -> None:
    """An event is not compared with nothing."""
    assert detect_drift(CONTRACT, [], an_event({}).data) == ()


def test_a_compatible_event_has_neither_violations_nor_drift() -> None:
    """An event with a violation, or with drift alone, is not compatible."""
    earlier = {"old": an_event(BEFORE).data}
    events: list[Any] = [{**BEFORE, "title": "b"}, {"title": "b"}, {**BEFORE, "title": 1}]

    found = [compare_event(CONTRACT, "new", an_event(each).data, earlier) for each in events]

    assert [(bool(each.violations), bool(each.drifts), each.is_compatible) for each in found] == [
        (False, False, True),
        (True, True, False),
        (False, True, False),
    ]
    assert not compare_event(CONTRACT, "new", an_event({"title": "b"}).data, {}).is_compatible


def test_another_type_is_drift() -> None:
    """A read field of a type that no earlier event had is drift."""
    (found,) = drifts({**BEFORE, "issue": {"number": "1"}})
    assert (found.kind, found.path, found.types_before, found.types_after) == (
        "type",
        "body.issue.number",
        ("number",),
        ("string",),
    )


def test_null_is_another_type() -> None:
    """A field that becomes null has drifted; a null field that gets a value has not."""
    assert [(each.kind, each.types_after) for each in drifts({**BEFORE, "title": None})] == [("type", ("null",))]
    assert drifts(BEFORE, {**BEFORE, "title": None}) == ()


def test_differences_among_earlier_events_are_not_drift() -> None:
    """A field that some earlier events lacked may be missing, and each of its types is known."""
    without = {key: value for key, value in BEFORE.items() if key != "labels"}
    assert drifts(without, BEFORE, without) == ()
    assert drifts({**BEFORE, "title": 2}, BEFORE, {**BEFORE, "title": 1}) == ()


def test_items_of_a_list_are_compared_together() -> None:
    """One item that lacks a read field, or has another type there, is drift."""
    assert [each.kind for each in drifts({**BEFORE, "labels": [{"name": "x"}, {}]})] == ["gone"]
    assert [each.kind for each in drifts({**BEFORE, "labels": [{"name": "x"}, {"name": 1}]})] == ["type"]


def test_a_missing_optional_field_is_drift() -> None:
    """A missing optional field is drift that is not required."""
    (found,) = drifts({key: value for key, value in BEFORE.items() if key != "labels"})
    assert (found.path, found.required, found.to_json()["at"]) == ("body.labels[].name", False, "body.labels")


def test_an_object_that_became_a_text_is_another_type() -> None:
    """If the container of a field has another type, the drift names the field and the container."""
    (found,) = drifts({**BEFORE, "issue": "#1"})
    assert (found.kind, found.path, found.types_before, found.types_after) == (
        "type",
        "body.issue.number",
        ("object",),
        ("string",),
    )
    assert found.to_json()["at"] == "body.issue"


def test_types_are_sorted() -> None:
    """The types of a field are in the order of their names, whether the field is gone or has another type."""
    kinds = ["text", 1, True, {}, None]
    before = [{**BEFORE, "title": kind} for kind in kinds]
    names = ("boolean", "null", "number", "object", "string")

    (gone,) = drifts({"issue": {"number": 1}, "labels": []}, *before)
    (changed,) = drifts({**BEFORE, "title": []}, *before)
    (mixed,) = drifts({**BEFORE, "labels": [{"name": kind} for kind in kinds]})

    assert (gone.types_before, gone.types_after) == (names, ())
    assert (changed.types_before, changed.types_after) == (names, ("array",))
    assert (mixed.types_before, mixed.types_after) == (("string",), names)


def test_without_earlier_events_there_is_no_drift() -> None:
    """The first event has no drift."""
    assert detect_drift(CONTRACT, [], an_event({}).data) == ()


def test_events_of_another_kind_and_of_the_same_name_are_not_earlier() -> None:
    """An event is compared with events that have at least half of the required fields, and never with itself."""
    event = an_event({**BEFORE, "title": 1}).data
    other = an_event({"title": "t", "pull_request": {}}).data  # lacks the issue: one of two

    alone = compare_event(CONTRACT, "now", event, {"now": an_event(BEFORE).data, "push": an_event({"ref": "x"}).data})
    against = compare_event(CONTRACT, "now", event, {"before": other, "same": event})

    assert (alone.earlier_count, alone.drifts) == (0, ())
    assert (against.earlier_count, [each.path for each in against.drifts]) == (1, ["body.title"])


def test_json_of_a_comparison() -> None:
    """The JSON has the violations and the drifts with their readers, and the number of earlier events."""
    event = an_event({"title": None, "issue": {"number": 1}, "labels": []}).data
    readers = [
        {"step": name, "cell": cell, "line": 4, "prop": None, "file": None} for name, cell in (("read", 3), ("tell", 4))
    ]

    found = compare_event(CONTRACT, "now", event, {"before": an_event(BEFORE).data})

    assert json.dumps(found.to_json()) == json.dumps(
        {
            "event": "now",
            "findings": [],
            "drift": [
                {
                    "kind": "type",
                    "path": "body.title",
                    "at": "body.title",
                    "before": ["string"],
                    "after": ["null"],
                    "required": True,
                    "readers": readers,
                }
            ],
            "earlier": 1,
        }
    )

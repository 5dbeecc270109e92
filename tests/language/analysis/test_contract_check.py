"""Events checked against a contract: missing fields and fields of another type."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pdkernel.language.analysis.abstract_values import FieldPath
from pdkernel.language.analysis.contract import Contract, PathExpectation, derive_contract
from pdkernel.language.analysis.contract_check import check_event
from tests.builders import a_workflow, an_event, node_step, python_step


def contract(body: str) -> Contract:
    """The contract of one Python step, where `body` is the body of the event."""
    return derive_contract(
        a_workflow(python_step("read", "event = pd.steps['trigger']['event']\nbody = event['body']\n" + body))
    )


def findings(found: Contract, body: Any) -> list[tuple[str, str, str]]:
    """Kind, path and found type."""
    return [(each.kind, each.path, each.actual_type) for each in check_event(found, an_event(body).data)]


def test_a_complete_event_has_no_findings() -> None:
    """An event with the required fields has no violations; a whole number is a number, and additional fields are ignored."""
    found = contract("print(body['title'].lower(), body['n'] + 1, [x['id'] for x in body['list']])")
    for number in (1.5, 2):
        assert findings(found, {"title": "a", "n": number, "list": [{"id": 1}], "more": None}) == []


def test_a_required_field_that_is_missing_is_named_once() -> None:
    """The violation names the first missing container, with all readers of the fields in it."""
    found = contract("issue = body['issue']\nprint(issue['title'], issue['number'])")

    (finding,) = check_event(found, an_event({"other": 1}).data)

    assert (finding.kind, finding.path) == ("missing", "body.issue")
    assert [reader.line for reader in finding.readers] == [6]


def test_an_optional_field_may_be_missing_or_null() -> None:
    """An optional field is not a violation."""
    found = contract("print(body.get('title', 'x').lower())\nif body.get('user'):\n    print(body['user']['id'])")
    assert findings(found, {}) == []
    assert findings(found, {"title": "a", "user": None}) == []


def test_fields_of_an_optional_object_are_required_with_the_object() -> None:
    """If an optional object is present, its required fields must be too."""
    found = contract("if 'user' in body:\n    print(body['user'].get('name'))")
    assert findings(found, {"user": {}}) == []


@pytest.mark.parametrize(
    ("value", "kind"), [(1, "integer"), (True, "boolean"), ([], "array"), ({"a": 1}, "object"), (None, "null")]
)
def test_another_type_is_named(value: Any, kind: str) -> None:
    """A value that is not the expected text is a violation."""
    found = contract("print(body['title'].lower())")
    assert findings(found, {"title": value}) == [("type", "body.title", kind)]


def test_a_text_in_place_of_an_object_is_one_violation() -> None:
    """A text in the place of an object is one violation."""
    found = contract("print(body['user']['id'], body['user']['name'])")
    assert findings(found, {"user": "ada"}) == [("type", "body.user", "string")]


def test_every_item_of_a_list_is_checked() -> None:
    """A field that one of several items lacks is missing, once; an empty list lacks nothing."""
    found = contract("for x in body['list']:\n    print(x['id'])")
    assert findings(found, {"list": [{"id": 1}, {}, {}]}) == [("missing", "body.list[].id", "")]
    assert findings(found, {"list": []}) == []


def test_a_list_whose_first_item_is_read_must_have_one() -> None:
    """`body["list"][0]` fails on an empty list."""
    assert findings(contract("print(body['list'][0]['id'])"), {"list": []}) == [("missing", "body.list[]", "")]


def test_a_required_body_must_be_present() -> None:
    """A step that reads the body fails on an event without a body."""
    assert [each.path for each in check_event(contract("return body"), {"method": "GET"})] == ["body"]


def test_javascript_takes_a_text_that_is_a_number() -> None:
    """JavaScript computes with `"12"`, and not with `"twelve"`."""
    found = derive_contract(a_workflow(node_step("pay", "return steps.trigger.event.body.amount * 100;")))
    assert findings(found, {"amount": "12"}) == []
    assert findings(found, {"amount": "twelve"}) == [("type", "body.amount", "string")]


def test_a_type_that_the_code_checks_is_not_expected() -> None:
    """A type that the code checks is not an expectation."""
    found = contract("tags = body['tags']\nif isinstance(tags, str):\n    tags = tags.split(',')\nprint(tags)")
    assert findings(found, {"tags": "a"}) == findings(found, {"tags": ["a"]}) == []


def test_json_of_a_violation() -> None:
    """The JSON has what the steps expect, what the event has, and the readers."""
    found = contract("print(body['n'] + 1, body['m'].lower())")
    reader = {"step": "read", "cell": None, "line": 5, "prop": None, "file": None}

    assert json.dumps([each.to_json() for each in check_event(found, an_event({"n": [1]}).data)]) == json.dumps(
        [
            {"kind": "missing", "path": "body.m", "expected": ["string"], "found": None, "readers": [reader]},
            {"kind": "type", "path": "body.n", "expected": ["number"], "found": "array", "readers": [reader]},
        ]
    )


@pytest.mark.parametrize(
    ("types", "value", "found"),
    [
        (("numeric",), 1, []),
        (("numeric",), 1.5, []),
        (("numeric",), "1.5", []),
        (("numeric",), "one", [("type", "body.n", "string")]),
        (("numeric",), True, [("type", "body.n", "boolean")]),
        (("number",), 1, []),
        (("number",), "1", [("type", "body.n", "string")]),
        (("string", "number"), "1", []),
        ((), None, []),
        (("string",), None, [("type", "body.n", "null")]),
    ],
)
def test_the_types_of_a_required_value(types: tuple[str, ...], value: Any, found: list[tuple[str, str, str]]) -> None:
    """A whole number is a number, and a numeric text too where the code accepts both; null is a wrong type."""
    expected: dict[FieldPath, PathExpectation] = {
        ("body",): PathExpectation(True, ("object",)),
        ("body", "n"): PathExpectation(True, types),
    }

    assert findings(Contract(expectations=expected), {"n": value}) == found


def test_null_among_the_items_of_a_list_is_accepted() -> None:
    """An item may be null, and an item of another type is a violation."""
    expected = {
        ("body",): PathExpectation(True, ("object",)),
        ("body", "list"): PathExpectation(True, ("array",)),
        ("body", "list", 0): PathExpectation(True, ("string",)),
    }

    assert findings(Contract(expectations=expected), {"list": ["a", None]}) == []
    assert findings(Contract(expectations=expected), {"list": ["a", 1]}) == [("type", "body.list[]", "integer")]

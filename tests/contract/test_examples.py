"""An event that keeps a contract, and the contract as JSON Schema."""

from __future__ import annotations

import jsonschema
import pytest

from pdkernel.contract import check, contract_of, contract_schema, example, example_body
from pdkernel.model import Workflow
from tests.builders import a_workflow, an_event, python_step
from tests.contract.labelled import Case, cases

STEP = python_step(
    "read",
    "event = pd.steps['trigger']['event']\nbody = event['body']\n"
    "print(body['title'].lower(), body['count'] + 1, event['headers']['x-kind'])\n"
    "for item in body['items']:\n    print(item['sku'])\n"
    "print(body.get('note'))",
)
CONTRACT = contract_of(a_workflow(STEP))
ALL = [case for language in ("python", "node") for case in cases(language)]


def test_without_saved_events_values_are_made_up_by_type() -> None:
    """Required fields have values of their types; what is not required is left out."""
    assert example(CONTRACT) == {
        "method": "POST",
        "path": "/",
        "query": {},
        "headers": {"content-type": "application/json", "x-kind": "x-kind"},
        "body": {"title": "title", "count": 1, "items": [{"sku": "sku"}]},
    }


def test_values_are_taken_from_saved_events() -> None:
    """What a saved event has stands in the example, unread fields left out; what it lacks is made up."""
    saved = an_event({"title": "Café", "note": "n", "secret": "s", "items": [{"sku": "A1", "price": 2}]}).data

    made = example(CONTRACT, [saved])

    assert made["body"] == {"title": "Café", "note": "n", "items": [{"sku": "A1"}], "count": 1}


def test_the_event_without_fault_comes_first() -> None:
    """Of several saved events the one that keeps the contract is taken."""
    bad = an_event({"title": 7}).data
    good = {**an_event({"title": "t", "count": 3, "items": [{"sku": "B"}]}).data, "headers": {"x-kind": "k"}}
    assert example_body(CONTRACT, [bad, good]) == {"title": "t", "count": 3, "items": [{"sku": "B"}]}


def test_only_what_is_required() -> None:
    """The body for a caller's snippet holds nothing that may be left out."""
    saved = an_event({"title": "t", "note": "n"}).data
    assert example_body(CONTRACT, [saved], required=True) == {"title": "t", "count": 1, "items": [{"sku": "sku"}]}


def test_an_event_that_is_no_request_has_no_request_line() -> None:
    """What a source emits has only what is read of it."""
    step = python_step("read", "print(pd.steps['trigger']['event']['timestamp'])")
    assert example(contract_of(a_workflow(step)), http=False) == {"timestamp": "timestamp"}


@pytest.mark.parametrize("case", ALL, ids=lambda case: f"{case.language}: {case.name}")
def test_every_example_keeps_its_contract(case: Case) -> None:
    """The example has no fault, and the JSON Schema takes it."""
    from pdkernel.model import Step

    contract = contract_of(Workflow("case", steps=(Step("case", case.language, case.code),)))
    made = example(contract)

    assert check(contract, made) == ()
    jsonschema.validate(made, contract_schema(contract))


def test_the_schema_refuses_what_the_check_finds() -> None:
    """Missing fields and other types are faults by the schema, too."""
    schema = contract_schema(CONTRACT)
    good = example(CONTRACT)
    assert isinstance(good["body"], dict)

    jsonschema.validate(good, schema)
    for body in ({**good["body"], "count": "1"}, {"title": "t"}, {**good["body"], "items": [{}]}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**good, "body": body}, schema)


def test_the_schema() -> None:
    """Objects, lists and what is required of them."""
    schema = contract_schema(CONTRACT)
    assert schema["required"] == ["body", "headers"]
    assert schema["properties"]["body"] == {
        "type": "object",
        "properties": {
            "count": {"type": "number"},
            "items": {
                "type": "array",
                "items": {"type": "object", "properties": {"sku": {}}, "required": ["sku"]},
            },
            "note": {},
            "title": {"type": "string"},
        },
        "required": ["count", "items", "title"],
    }

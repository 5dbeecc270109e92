"""Example events for a contract, and the contract as JSON Schema."""

from __future__ import annotations

import jsonschema
import pytest

from pdkernel.language.analysis.abstract_values import FieldPath
from pdkernel.language.analysis.contract import Contract, PathExpectation, derive_contract
from pdkernel.language.analysis.contract_check import check_event
from pdkernel.language.analysis.contract_examples import build_contract_schema, build_example_body, build_example_event
from pdkernel.model import Workflow
from tests.builders import a_workflow, an_event, python_step
from tests.language.analysis.labelled import Case, cases

STEP = python_step(
    "read",
    "event = pd.steps['trigger']['event']\nbody = event['body']\n"
    "print(body['title'].lower(), body['count'] + 1, event['headers']['x-kind'])\n"
    "for item in body['items']:\n    print(item['sku'])\n"
    "print(body.get('note'))",
)
CONTRACT = derive_contract(a_workflow(STEP))
ALL = [case for language in ("python", "node") for case in cases(language)]


def test_without_saved_events_values_follow_the_types() -> None:
    """Required fields have values of their types; optional fields are left out."""
    assert build_example_event(CONTRACT) == {
        "method": "POST",
        "path": "/",
        "query": {},
        "headers": {"content-type": "application/json", "x-kind": "x-kind"},
        "body": {"title": "title", "count": 1, "items": [{"sku": "sku"}]},
    }


def test_values_are_taken_from_saved_events() -> None:
    """The example has the read fields of a saved event; missing fields get values of their types."""
    saved = an_event({"title": "Café", "note": "n", "secret": "s", "items": [{"sku": "A1", "price": 2}]}).data

    made = build_example_event(CONTRACT, [saved])

    assert made["body"] == {"title": "Café", "note": "n", "items": [{"sku": "A1"}], "count": 1}


def test_the_event_without_violations_comes_first() -> None:
    """The values come from the saved event without violations."""
    bad = an_event({"title": 7}).data
    good = {**an_event({"title": "t", "count": 3, "items": [{"sku": "B"}]}).data, "headers": {"x-kind": "k"}}
    assert build_example_body(CONTRACT, [bad, good]) == {"title": "t", "count": 3, "items": [{"sku": "B"}]}


def test_a_value_of_every_type() -> None:
    """A saved value of another type stays unless the steps expect an object; missing values have the expected type."""
    types = {
        "any": (),
        "object": ("object",),
        "flag": ("boolean",),
        "list": ("array",),
        "empty": ("object",),
        "n": ("numeric",),
    }
    expectations: dict[FieldPath, PathExpectation] = {
        (key,): PathExpectation(True, kinds) for key, kinds in types.items()
    }
    expectations |= {(key, "inner_url"): PathExpectation(True, ("string",)) for key in ("any", "object")}

    made = build_example_event(Contract(expectations=expectations), [{"any": "text", "object": "text"}], is_http=False)

    assert made == {
        "any": "text", "object": {"inner_url": "https://example.com"}, "flag": True, "list": [], "empty": {}, "n": 1,
    }  # fmt: skip


def test_an_event_that_a_step_reads_as_a_list() -> None:
    """An event is an object, so an item of it has no example."""
    contract = derive_contract(a_workflow(python_step("read", "return pd.steps['trigger']['event'][0]")))

    assert build_example_event(contract, is_http=False) == {}


def test_only_required_fields() -> None:
    """The body for a caller's snippet has no optional fields."""
    saved = an_event({"title": "t", "note": "n"}).data
    assert build_example_body(CONTRACT, [saved], only_required=True) == {
        "title": "t",
        "count": 1,
        "items": [{"sku": "sku"}],
    }


def test_an_event_without_a_request_has_no_request_line() -> None:
    """The example event of a source has only the read fields."""
    step = python_step("read", "print(pd.steps['trigger']['event']['timestamp'])")
    assert build_example_event(derive_contract(a_workflow(step)), is_http=False) == {"timestamp": "timestamp"}


@pytest.mark.parametrize("case", ALL, ids=lambda case: f"{case.language}: {case.name}")
def test_every_example_satisfies_its_contract(case: Case) -> None:
    """The example has no violations, and the JSON Schema accepts it."""
    from pdkernel.model import Step

    contract = derive_contract(Workflow("case", steps=(Step("case", case.language, case.code),)))
    made = build_example_event(contract)

    assert check_event(contract, made) == ()
    jsonschema.validate(made, build_contract_schema(contract))


def test_the_schema_rejects_what_the_check_rejects() -> None:
    """The schema rejects missing fields and other types, too."""
    schema = build_contract_schema(CONTRACT)
    good = build_example_event(CONTRACT)
    assert isinstance(good["body"], dict)

    jsonschema.validate(good, schema)
    for body in ({**good["body"], "count": "1"}, {"title": "t"}, {**good["body"], "items": [{}]}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**good, "body": body}, schema)


def test_the_schema() -> None:
    """The schema has objects, lists and required fields."""
    schema = build_contract_schema(CONTRACT)
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


def test_the_schema_of_numbers_and_of_a_list_with_an_item() -> None:
    """Numeric text is a text or a number; a list whose first item is read has at least one item."""
    contract = Contract(
        expectations={
            ("n",): PathExpectation(True, ("numeric",)),
            ("list",): PathExpectation(False, ("array",)),
            ("list", 0): PathExpectation(True, ("string",)),
        }
    )

    schema = build_contract_schema(contract)

    assert schema["properties"] == {
        "n": {"type": ["number", "string"]},
        "list": {"type": "array", "items": {"type": "string"}, "minItems": 1},
    }
    assert schema["required"] == ["n"]


def test_the_content_type_of_a_saved_event_is_kept() -> None:
    """Of the headers that no step reads, the example has the content type, however it is written."""
    contract = derive_contract(a_workflow(python_step("read", "return pd.steps['trigger']['event']['body']['a']")))
    saved = {**an_event({"a": "1"}).data, "headers": {"Content-Type": "text/plain", "x-other": "1"}}

    assert build_example_event(contract, [saved])["headers"] == {"Content-Type": "text/plain"}

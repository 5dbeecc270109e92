"""The contract of a workflow: several steps, props, readers, exported values, and the labelled set."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import jsonschema
import pytest

from pdkernel.language.analysis.abstract_values import FieldPath
from pdkernel.language.analysis.contract import (
    Contract,
    Drift,
    PathExpectation,
    build_contract_schema,
    build_example_body,
    build_example_event,
    check_event,
    compare_event,
    derive_contract,
    detect_drift,
)
from pdkernel.model import Step, Workflow
from tests.builders import a_block, a_step, a_workflow, an_event, bash_step, go_step, node_step, python_step
from tests.language.analysis.labelled import Case, cases, score


def paths(contract: Contract) -> dict[str, bool]:
    """The fields, with whether each is required."""
    return {field.path: field.required for field in contract.fields}


def test_expressions_in_props_are_read() -> None:
    """`{{ }}` of a step's props reads the event: whole values, parts of a text, lists and objects."""
    step = a_step(
        """
        %%pdstep send --uses slack-send-message@0.0.20
        channel: {{steps.trigger.event.body.channel}}
        text: "Issue {{steps.trigger.event.body.issue.number}}: {{steps.trigger.event.body.issue.title ?? 'none'}}"
        blocks:
        - {{steps.trigger.event.headers["x-github-event"].toUpperCase()}}
        payload: {{steps.trigger.event.body}}
        """
    )

    contract = derive_contract(a_workflow(step))

    assert paths(contract) == {
        "body.channel": True,
        "body.issue.number": True,
        "body.issue.title": False,
        'headers["x-github-event"]': True,
    }
    assert [use.path for use in contract.passed_on] == ["body"]


def test_a_bare_object_in_a_prop_is_an_expression() -> None:
    """A JavaScript object without braces in a prop of code reads the paths that the object names; in an action it is text."""
    props = {"data": "{ name: steps.trigger.event.body.name }"}
    code, action = replace(node_step(), props=props), Step("act", "node", uses="slack-send@1.0.0", props=props)

    assert paths(derive_contract(a_workflow(code))) == {"body.name": True}
    assert paths(derive_contract(a_workflow(action))) == {}


def test_a_prop_that_cannot_be_read_hides_no_other_prop() -> None:
    """The run of the step reports the error; the props around the invalid one are read."""
    props = {"a": "{{steps.trigger.event.body.a}}", "b": "{{ ( }}", "c": "{{steps.trigger.event.body.c}}"}

    assert paths(derive_contract(a_workflow(replace(node_step(), props=props)))) == {"body.a": True, "body.c": True}


def test_a_reader_is_a_step_its_cell_and_the_line_in_it() -> None:
    """A reader names the step, its cell counted from 1, the line of the cell, and the prop of an expression."""
    code = replace(python_step("build", "return pd.steps['trigger']['event']['body']['title']"), cell_index=3)
    action = replace(
        a_step("%%pdstep send --uses slack-send-message@0.0.20\ntext: '{{steps.trigger.event.body.title}}'\n"),
        cell_index=4,
    )

    (field,) = derive_contract(a_workflow(code, action)).fields

    assert [str(reader) for reader in field.readers] == ["build (line 3)", "send (prop text, line 2)"]


def test_a_reader_in_a_synced_folder_names_the_file_of_its_prop() -> None:
    """The line of a folder's prop belongs to workflow.yaml, and the line of its code to the entry file."""
    step = replace(
        python_step("send", "return pd.steps['trigger']['event']['body']['title']"),
        props={"text": "{{steps.trigger.event.body.title}}"},
        props_file="workflow.yaml",
        prop_lines={("text",): 12},
    )

    (field,) = derive_contract(a_workflow(step)).fields

    assert [str(reader) for reader in field.readers] == [
        "send (line 3)",
        "send (workflow.yaml, prop text, line 12)",
    ]


def test_a_field_is_required_if_one_step_requires_it() -> None:
    """A field that is optional for one step and required by the next is required."""
    copes = python_step("first", "print(pd.steps['trigger']['event']['body'].get('title'))")
    needs = node_step("second", "return steps.trigger.event.body.title.trim();")

    (field,) = derive_contract(a_workflow(copes, needs)).fields

    assert field.required
    assert field.types == ("string",)
    assert [reader.step for reader in field.readers] == ["first", "second"]


def test_reads_of_a_returned_event_count() -> None:
    """If a step returns or exports a part of the event, the reads of later steps count as fields of the event."""
    first = python_step(
        "first", "pd.export('who', pd.steps['trigger']['event']['body']['user'])\nreturn pd.steps['trigger']['event']"
    )
    second = node_step("second", "return [steps.first.$return_value.body.id, steps.first.who.login];")

    contract = derive_contract(a_workflow(first, second))

    assert paths(contract) == {"body.id": True, "body.user": True, "body.user.login": True}


def test_a_computed_result_is_not_followed() -> None:
    """A result that is one of several, or computed, is not a field of the event."""
    first = python_step("first", "body = pd.steps['trigger']['event']['body']\nreturn transform(body)")
    second = node_step("second", "return steps.first.$return_value.title;")

    contract = derive_contract(a_workflow(first, second))

    assert paths(contract) == {}
    assert [use.path for use in contract.dynamic] == ["body"]


def test_an_export_with_two_values_is_not_followed() -> None:
    """What a step exports twice under one name may be either value, so its reads are not fields of the event."""
    first = python_step(
        "first", "body = pd.steps['trigger']['event']['body']\npd.export('x', body['a'])\npd.export('x', body['b'])"
    )
    second = node_step("second", "return steps.first.x.title;")

    assert paths(derive_contract(a_workflow(first, second))) == {"body.a": True, "body.b": True}


def test_a_disabled_step_reads_nothing() -> None:
    """A disabled step is not part of the contract."""
    step = replace(python_step("off", "return pd.steps['trigger']['event']['body']['title']"), disabled=True)
    assert derive_contract(a_workflow(step)) == Contract()


@pytest.mark.parametrize(
    "step",
    [
        Step("broken", "python", "def handler(pd):\n  return pd.steps[\n"),
        Step("broken", "node", "export default defineComponent({ async run({ steps }) { return steps.trigger. } "),
    ],
    ids=lambda step: step.language,
)
def test_code_with_a_syntax_error_is_reported(step: Step) -> None:
    """A step with a syntax error is listed as not read."""
    assert [reader.step for reader in derive_contract(a_workflow(step)).unparsed_steps] == ["broken"]


@pytest.mark.parametrize(
    "step", [bash_step("shell", "jq .trigger.event.body.x $PIPEDREAM_STEPS"), go_step("compiled")], ids=["bash", "go"]
)
def test_code_of_bash_and_go_steps_is_not_read(step: Step) -> None:
    """A Bash or Go step is listed as not read."""
    contract = derive_contract(a_workflow(step))

    assert [reader.step for reader in contract.unparsed_steps] == [step.name]
    assert contract.fields == ()


PYTHON_BODY = "body = pd.steps['trigger']['event']['body']\n"
NODE_BODY = "let body = steps.trigger.event.body;\n"
HOSTILE = {
    "parentheses": (node_step("s", f"return {'(' * 3000}1{')' * 3000};"), None),
    "negations": (node_step("s", f"return {'!' * 3000}steps.trigger.event.body.x;"), None),
    "members": (node_step("s", f"return steps.trigger.event.body{'.a' * 5000};"), None),
    "an object that contains itself": (python_step("s", PYTHON_BODY + "x = {'a': body['x']}\nx['self'] = x\nreturn x"), None),
    "objects that contain each other twice": (python_step("s", PYTHON_BODY + "x = {'a': body, 'b': body}\n" + "x = {'a': x, 'b': x}\n" * 60 + "return x"), None),
    "the same in Node.js": (node_step("s", NODE_BODY + "let x = {a: body};" + "x = {a: x, b: x};\n" * 60 + "return x;"), None),
    "defaults in arguments": (python_step("s", PYTHON_BODY + "return " + "f(" * 60 + "body['x']" + " or 1)" * 60), {"body.x": True}),
    "defaults in arguments of Node.js": (node_step("s", NODE_BODY + "return " + "f(" * 60 + "body.x" + " || 1)" * 60), {"body.x": False}),
    "a value of many alternatives": (python_step("s", PYTHON_BODY + "x = body\n" + "".join(f"if body.get('a{n}'):\n    x = x['k{n}']\n" for n in range(15)) + "return 1"), None),
    "keys of every combination": (python_step("s", PYTHON_BODY + f"k = {[f'k{n}' for n in range(600)]}\nfor a in k:\n    for b in k:\n        print(body[a][b])"), {}),
    "an index of many digits": (node_step("s", NODE_BODY + f"return body.list[{'9' * 6000}];"), {"body.list": True}),
    "a path of many keys": (python_step("s", PYTHON_BODY + "x = body\n" + "x = x['a']\n" * 9000 + "return 1"), None),
    "a text of many keys": (node_step("s", NODE_BODY + f"return _.get(body, '{'a.' * 90_000}b');"), None),
    "functions that call each other thrice": (python_step("s", PYTHON_BODY + "def f0(x):\n    return x\n" + "".join(f"def f{n + 1}(x):\n    f{n}(x['a'])\n    f{n}(x['b'])\n    f{n}(x['c'])\n" for n in range(30)) + "f30(body)"), None),
}  # fmt: skip
"""Steps that would take a reader without limits for ever, and the fields that are found; None if any are accepted."""


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_code_is_read_in_bounded_time(name: str) -> None:
    """Code that is nested too deeply, or has too many values, is read in part or listed as not read, in bounded time."""
    step, fields = HOSTILE[name]

    found = derive_contract(a_workflow(step))

    assert len(found.fields) < 2000
    if fields is None:
        assert found.unparsed_steps or found.fields
    else:
        assert (paths(found), found.unparsed_steps) == (fields, ())


def test_a_prop_that_is_nested_too_deeply_hides_no_other_prop() -> None:
    """The expression of one prop is too deep to be read; the other props are read."""
    deep = f"{{{{{'(' * 3000}1{')' * 3000}}}}}"
    step = Step("act", "node", uses="a-b@1.0.0", props={"deep": deep, "y": "{{steps.trigger.event.body.y}}"})

    assert paths(derive_contract(a_workflow(step))) == {"body.y": True}


def test_a_function_that_calls_itself_ends() -> None:
    """Recursion over the event is traced once, and deeper values are dynamic or read."""
    step = python_step(
        "walk",
        "def walk(node):\n    print(node['name'])\n    for child in node['children']:\n        walk(child)\n"
        "walk(pd.steps['trigger']['event']['body']['tree'])",
    )
    found = paths(derive_contract(a_workflow(step)))
    assert found["body.tree.name"]
    assert found["body.tree.children[].name"]


def test_an_action_without_expressions_reads_nothing() -> None:
    """Props with plain values, and accounts, are not reads."""
    step = a_step("%%pdstep send --uses slack-send-message@0.0.20 --app slack\ntext: steps.trigger.event.body.title\n")
    assert derive_contract(a_workflow(step)) == Contract()


def test_types_of_two_steps_are_merged() -> None:
    """A number in one step and a text or number in another is a number; two types that differ are both named."""
    strict = python_step("a", "body = pd.steps['trigger']['event']['body']\nprint(body['n'] / 2, body['m'].lower())")
    loose = node_step("b", "const { n, m } = steps.trigger.event.body;\nreturn [n * 2, m.toFixed(2)];")

    found = {field.path: field.types for field in derive_contract(a_workflow(strict, loose)).fields}

    assert found == {"body.n": ("number",), "body.m": ("number", "string")}


def test_the_contract_as_json() -> None:
    """The JSON has path, required, types and readers of the fields, and the `whole` and `unknown` objects."""
    step = python_step("b", "body = pd.steps['trigger']['event']['body']\nprint(body['id'])\nreturn list(body.items())")
    read, listed = ({"step": "b", "cell": None, "line": line, "prop": None, "file": None} for line in (4, 5))

    assert derive_contract(a_workflow(step)).to_json() == {
        "fields": [{"path": "body.id", "required": True, "types": [], "readers": [read]}],
        "whole": [],
        "unknown": [{"path": "body", "readers": [listed]}],
        "unread": [],
    }


# ── the labelled set, by language ───────────────────────────────────────────────────────────────────────


LEAST = {"python": 30, "node": 30}


@pytest.mark.parametrize("language", LEAST)
def test_the_labelled_set_covers_every_language(language: str) -> None:
    """Every language has at least the minimum number of cases, each with its own name."""
    names = [case.name for case in cases(language)]
    assert len(names) >= LEAST[language]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("language", LEAST)
def test_precision(language: str) -> None:
    """Precision: every fact of the contract of a step is in its labels."""
    wrong = {case.name: sorted(case.found - case.labels) for case in cases(language) if case.found - case.labels}
    assert score(language).precision >= 0.98, wrong


@pytest.mark.parametrize("language", LEAST)
def test_recall(language: str) -> None:
    """Recall: every label of a step is in the contract."""
    missed = {case.name: sorted(case.labels - case.found) for case in cases(language) if case.labels - case.found}
    assert score(language).recall >= 0.98, missed


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


@pytest.mark.parametrize(
    ("changed", "path", "at", "before", "after"),
    [
        ({"issue": {"number": "1"}}, "body.issue.number", "body.issue.number", "number", "string"),
        ({"issue": "#1"}, "body.issue.number", "body.issue", "object", "string"),
        ({"issue": [{"number": 1}]}, "body.issue.number", "body.issue", "object", "array"),
        ({"labels": {"name": "x"}}, "body.labels[].name", "body.labels", "array", "object"),
        ({"title": None}, "body.title", "body.title", "string", "null"),
    ],
)
def test_another_type_is_drift(changed: Any, path: str, at: str, before: str, after: str) -> None:
    """A type that no earlier event had is drift of the field, and if its container has that type, of each field in it."""
    (found,) = drifts({**BEFORE, **changed})

    assert (found.kind, found.path, found.to_json()["at"]) == ("type", path, at)
    assert (found.types_before, found.types_after) == ((before,), (after,))


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


def test_a_null_field_that_gets_a_value_has_not_drifted() -> None:
    """A field that was null in every earlier event may have any type."""
    assert drifts(BEFORE, {**BEFORE, "title": None}) == ()


def test_differences_among_earlier_events_are_not_drift() -> None:
    """A field that some earlier events lacked may be missing, and each of its types is known."""
    without = {key: value for key, value in BEFORE.items() if key != "labels"}
    assert drifts(without, BEFORE, without) == ()
    assert drifts({**BEFORE, "title": 2}, BEFORE, {**BEFORE, "title": 1}) == ()


def test_a_missing_optional_field_is_drift() -> None:
    """A missing optional field is drift that is not required."""
    (found,) = drifts({key: value for key, value in BEFORE.items() if key != "labels"})
    assert (found.path, found.required, found.to_json()["at"]) == ("body.labels[].name", False, "body.labels")


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


STEP = python_step(
    "read",
    "event = pd.steps['trigger']['event']\nbody = event['body']\n"
    "print(body['title'].lower(), body['count'] + 1, event['headers']['x-kind'])\n"
    "for item in body['items']:\n    print(item['sku'])\n"
    "print(body.get('note'))",
)
EXAMPLE_CONTRACT = derive_contract(a_workflow(STEP))
ALL = [case for language in ("python", "node") for case in cases(language)]


def test_without_saved_events_values_follow_the_types() -> None:
    """Required fields have values of their types; optional fields are left out."""
    assert build_example_event(EXAMPLE_CONTRACT) == {
        "method": "POST",
        "path": "/",
        "query": {},
        "headers": {"content-type": "application/json", "x-kind": "x-kind"},
        "body": {"title": "title", "count": 1, "items": [{"sku": "sku"}]},
    }


def test_values_are_taken_from_saved_events() -> None:
    """The example has the read fields of a saved event; missing fields get values of their types."""
    saved = an_event({"title": "Café", "note": "n", "secret": "s", "items": [{"sku": "A1", "price": 2}]}).data

    made = build_example_event(EXAMPLE_CONTRACT, [saved])

    assert made["body"] == {"title": "Café", "note": "n", "items": [{"sku": "A1"}], "count": 1}


def test_the_event_without_violations_comes_first() -> None:
    """The values come from the saved event without violations."""
    bad = an_event({"title": 7}).data
    good = {**an_event({"title": "t", "count": 3, "items": [{"sku": "B"}]}).data, "headers": {"x-kind": "k"}}
    assert build_example_body(EXAMPLE_CONTRACT, [bad, good]) == {"title": "t", "count": 3, "items": [{"sku": "B"}]}


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
    assert build_example_body(EXAMPLE_CONTRACT, [saved], only_required=True) == {
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
    schema = build_contract_schema(EXAMPLE_CONTRACT)
    good = build_example_event(EXAMPLE_CONTRACT)
    assert isinstance(good["body"], dict)

    jsonschema.validate(good, schema)
    for body in ({**good["body"], "count": "1"}, {"title": "t"}, {**good["body"], "items": [{}]}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**good, "body": body}, schema)


def test_the_schema() -> None:
    """The schema has objects, lists and required fields."""
    schema = build_contract_schema(EXAMPLE_CONTRACT)
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


def test_fields_of_branches() -> None:
    """A field that only steps of conditional branches read is not required; one that a condition or another step reads is."""
    block = a_block("%%pdif triage\nlarge: steps.trigger.event.body.amount > 5\nelse:")
    steps = (
        replace(python_step("a", "return pd.steps['trigger']['event']['body']['to']"), inside="triage.large"),
        replace(python_step("b", "return pd.steps['trigger']['event']['body']['id']"), inside="triage.large"),
        python_step("c", "return pd.steps['trigger']['event']['body']['id']"),
    )
    always = a_block("%%pdparallel triage\nlarge: always")

    contract = derive_contract(a_workflow(block, *steps))

    assert paths(contract) == {"body.amount": True, "body.id": True, "body.to": False}
    assert [str(reader) for field in contract.fields if field.path == "body.amount" for reader in field.readers] == [
        "triage (prop large, line 2)"
    ]
    assert paths(derive_contract(a_workflow(always, *steps))) == {"body.id": True, "body.to": True}

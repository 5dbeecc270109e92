"""The contract of a workflow: several steps, props, readers, exported values, and the labelled set."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pdkernel.language.analysis.contract import Contract, derive_contract
from pdkernel.model import Step
from tests.builders import a_step, a_workflow, bash_step, go_step, node_step, python_step
from tests.language.analysis.labelled import cases, report, score


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


def test_code_that_is_nested_too_deeply_is_reported() -> None:
    """A step that is nested too deeply is listed as not read."""
    deep = node_step("deep", f"return {'(' * 3000}1{')' * 3000};")
    assert [reader.step for reader in derive_contract(a_workflow(deep)).unparsed_steps] == ["deep"]


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
    assert wrong == {}
    assert score(language).precision == 1.0


@pytest.mark.parametrize("language", LEAST)
def test_recall(language: str) -> None:
    """Recall: every label of a step is in the contract."""
    missed = {case.name: sorted(case.labels - case.found) for case in cases(language) if case.labels - case.found}
    assert missed == {}
    assert score(language).recall == 1.0


def test_the_figures_are_printed_by_language(capsys: pytest.CaptureFixture[str]) -> None:
    """The report names each language with both figures."""
    for line in report():
        print(line)
    printed = capsys.readouterr().out
    assert all(language in printed for language in LEAST)
    assert printed.count("precision") == printed.count("recall") == len(LEAST)

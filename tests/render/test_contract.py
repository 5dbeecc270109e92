"""The contract, and the check of events, in text and in HTML."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest

from pdkernel.language.analysis.contract import Contract, Field, build_example_event, compare_event, derive_contract
from pdkernel.language.analysis.step_reads import FieldReader
from pdkernel.render import contract as drawn
from tests.builders import a_step, a_workflow, an_event, bash_step, node_step, python_step
from tests.render.reading import Page, assert_view

STEPS = (
    python_step(
        "build",
        "event = pd.steps['trigger']['event']\nbody = event['body']\nissue = body['issue']\n"
        "for label in issue['labels']:\n    print(label['name'].upper())\n"
        "print(body.get('note'), event['headers']['x-kind'], issue['number'] + 1)\n"
        "for key in body:\n    print(key)",
    ),
    a_step("%%pdstep send --uses slack-send-message@0.0.20\ntext: '{{steps.trigger.event.body.issue.title}}'\n"),
    node_step(
        "post", "return axios.post('https://x', { all: steps.trigger.event.body, n: steps.trigger.event.body.n * 2 });"
    ),
    bash_step("broken", "if [ ; then"),
)
CONTRACT = derive_contract(a_workflow(*(replace(step, cell_index=index) for index, step in enumerate(STEPS, start=1))))
GOOD = {"issue": {"labels": [{"name": "a"}], "number": 1, "title": "t"}, "n": "3", "note": "x"}
SAVED = {"good": {**an_event(GOOD).data, "headers": {"x-kind": "k"}}}
COMPARED = [
    compare_event(CONTRACT, "good", SAVED["good"], SAVED),
    compare_event(
        CONTRACT,
        "now",
        {**an_event({"issue": {"labels": "a", "number": "1"}, "n": "x"}).data, "headers": {"x-kind": "k"}},
        SAVED,
    ),
]


@pytest.mark.parametrize("form", ["txt", "html"])
def test_the_contract_matches_the_golden_file(form: str) -> None:
    """Fields, whole and unknown objects, a step that was not read, two events, and an example."""
    draw = drawn.render_text if form == "txt" else drawn.render_html
    shown = draw(CONTRACT, "Issues", COMPARED, build_example_event(CONTRACT, list(SAVED.values())))
    assert_view(f"contract.{form}", shown)


def test_a_valid_event_has_no_message() -> None:
    """An event without violations and drift has no text."""
    assert drawn.render_event_output(COMPARED[0]) is None


def test_each_place_is_reported_once() -> None:
    """Drift and violation of one place are one sentence; so is a missing object with several fields."""
    said = drawn.describe_violations(COMPARED[1])
    assert [line.split(" ")[0] for line in said] == [
        "body.issue.labels",
        "body.issue.number",
        "body.issue.title",
        "body.note",
        "body.n",
    ]


def test_a_workflow_without_reads() -> None:
    """A workflow without reads has one sentence."""
    assert drawn.render_text(Contract(), "Idle") == "Idle: no step reads the event.\n"


def test_names_in_an_event_are_escaped() -> None:
    """Field names and event names are shown as text."""
    step = python_step("read", "return pd.steps['trigger']['event']['body']['<b>x</b>']")
    contract = derive_contract(a_workflow(step))
    page = Page(drawn.render_html(contract, "<i>W</i>", [compare_event(contract, "<u>e</u>", {}, {})], {"<b>": 1}))
    assert "<i>W</i>" in page.text
    assert "<u>e</u>" in page.text
    assert 'body["<b>x</b>"]' in page.text


def test_names_in_an_event_cannot_control_a_terminal() -> None:
    """Control characters in the name of an event are shown as text, also in the message about one event."""
    comparison = compare_event(CONTRACT, "\x1b]0;owned\x07", {}, {})
    output = drawn.render_event_output(comparison)

    assert output is not None
    assert output.text.startswith("! \\x1b]0;owned\\x07:\n")
    assert drawn.render_text(CONTRACT, "W", [comparison]).count("\x1b") == 0


@pytest.mark.parametrize(("extra", "hidden"), [(2, "… 2 more lines not shown"), (0, "")])
def test_a_long_contract_is_cut(extra: int, hidden: str) -> None:
    """Rows beyond the limit are counted, not shown."""
    fields = tuple(Field(("body", f"f{n}"), required=True) for n in range(drawn.MAX_ROWS + extra))
    contract = Contract(fields=fields)

    for shown in (drawn.render_text(contract, "Many"), Page(drawn.render_html(contract, "Many")).text):
        assert hidden in shown
        assert ("not shown" in shown) == bool(hidden)


@pytest.mark.parametrize("draw", [drawn.render_text, drawn.render_html])
def test_events_with_the_same_problems_are_grouped(draw: Callable[..., str]) -> None:
    """The same problems of several events are reported once, with the events' names."""
    named = [msgspec.structs.replace(COMPARED[1], name=name) for name in ("one", "two")]

    shown = draw(CONTRACT, "Issues", [*named, COMPARED[0]])

    assert "! one, two" in shown
    assert shown.count("body.issue.labels is") == 1
    assert "✓ good fulfils the contract." in shown


def test_readers_are_listed_with_their_lines() -> None:
    """Lines of one step are joined, each once, and of many lines the first four are named; a file and a prop have a name."""
    lines = [FieldReader("read", line=line) for line in (3, 3, 4)]
    many = [FieldReader("read", line=line) for line in range(1, 7)]

    assert [
        drawn.format_readers(readers)
        for readers in (
            lines[:1],
            lines,
            many,
            [FieldReader("send", prop="text")],
            [FieldReader("a"), FieldReader("b")],
        )
    ] == ["read (line 3)", "read (lines 3, 4)", "read (lines 1, 2, 3, 4 and 2 more)", "send (prop text)", "a; b"]


def test_a_workflow_that_passes_the_event_on() -> None:
    """A step that passes the whole body on reads the event, and requires no field."""
    step = node_step("post", "return axios.post('https://x', { all: steps.trigger.event.body });")

    shown = drawn.render_text(derive_contract(a_workflow(step)), "Post")

    assert shown.startswith("Post: its event has no required field. No code was run.")
    assert "passed on unchanged" in shown

"""Proofs of exports, in text and in HTML."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from pdkernel.annex.proof.report import (
    NOT_REACHED,
    RUN_ENDED_EARLIER,
    WHOLE_RUN,
    CaseVerdict,
    Difference,
    Proof,
    StepVerdict,
)
from pdkernel.files.definition.field_grades import GradedField
from tests.render.reading import EVIL, Page, assert_view

WHY = "GET https://api.example.test/x is not in events/order.recorded.jsonl. Record it: pdkernel run work.ipynb"
FOUND = Proof(
    "flow",
    ("read", "send", "tell"),
    (Difference("steps.read.props.yes", '"yes"', "true"), Difference("steps[2]", '"tell"', None)),
    (
        CaseVerdict(
            "order",
            "ada",
            (
                StepVerdict("read", "differs", (Difference("exports.$return_value.items[1].name", '"Ada"', '"Bob"'),)),
                StepVerdict("send", "not compared", reason=WHY),
                StepVerdict("tell"),
            ),
            StepVerdict(WHOLE_RUN, "not compared", reason="Not every step was compared."),
        ),
        CaseVerdict(
            "order",
            "grace",
            (StepVerdict("read"), StepVerdict("send", "not compared", reason=WHY), StepVerdict("tell")),
            StepVerdict(WHOLE_RUN),
        ),
    ),
    (
        GradedField("workflow.yaml", "steps[].uses", "observed", ("read", "send")),
        GradedField("workflow.yaml", "steps[].uses", "inferred", ("tell",)),
        GradedField("entry.sh", "", "inferred", ("tell",)),
        GradedField("pdkernel.yaml", "triggers", "ours"),
    ),
    ("Pins are ignored: read ran.",),
)
SAME = replace(
    FOUND, definition_differences=(), notes=(), cases=(CaseVerdict("order", None, (StepVerdict("read"), StepVerdict("send"), StepVerdict("tell")), StepVerdict(WHOLE_RUN)),)
)  # fmt: skip


@pytest.mark.parametrize("form", ["txt", "html"])
def test_proofs_match_the_golden_file(form: str) -> None:
    """A table of events and steps, each difference with both sides, reasons for skipped comparisons, field grades."""
    drawn = FOUND.render_text() if form == "txt" else FOUND.render_html()

    assert_view(f"proof.{form}", drawn)


def test_no_difference() -> None:
    """A proof without differences has a short text."""
    drawn = SAME.render_text()

    assert drawn.splitlines()[:3] == [
        "Proof of flow: workflow same; 1 run, steps: 3 same.",
        "  event  read  send  tell  whole run",
        "  order  same  same  same  same",
    ]


def test_one_verdict() -> None:
    """One difference makes the proof differ; without differences it is the same if a step was compared."""
    unseen = CaseVerdict(
        "order", None, (StepVerdict("read", "not compared", reason="w"),), StepVerdict(WHOLE_RUN, "not compared")
    )
    answer = replace(SAME.cases[0], run_verdict=StepVerdict(WHOLE_RUN, "differs", (Difference("response", "1", "2"),)))

    assert FOUND.verdict == replace(SAME, cases=(answer,)).verdict == "differs"
    assert replace(SAME, definition_differences=FOUND.definition_differences).verdict == "differs"
    assert SAME.verdict == "same"
    assert replace(SAME, steps=("read",), cases=(unseen,)).verdict == replace(SAME, cases=()).verdict == "not compared"


def test_many_steps() -> None:
    """A table that is too wide for a terminal becomes a list of events with the steps of each verdict."""
    names = tuple(f"a_step_called_{number}" for number in range(9))
    steps = tuple(StepVerdict(name) for name in names[1:])
    case = CaseVerdict(
        "order", "ada", (StepVerdict(names[0], "not compared", reason="w"), *steps), StepVerdict(WHOLE_RUN)
    )

    drawn = replace(SAME, steps=names, cases=(case,)).render_text().splitlines()

    assert drawn[2:5] == [
        "  order as ada:",
        f"    same: {', '.join((*names[1:], WHOLE_RUN))}",
        "    not compared: a_step_called_0",
    ]


def test_many_differences() -> None:
    """Of very many differences some are shown, and the others are counted."""
    many = replace(FOUND, definition_differences=tuple(Difference(f"steps[{n}]", "1", "2") for n in range(50)))

    drawn = many.render_text()

    assert "steps[19]" in drawn
    assert "steps[20]" not in drawn
    assert "31 more differences not shown. --json prints all." in drawn


def test_as_json() -> None:
    """The JSON is complete; a side without a value is null."""
    one = replace(FOUND, cases=FOUND.cases[:1], fields=FOUND.fields[1:2])
    read = {"path": "exports.$return_value.items[1].name", "notebook": '"Ada"', "files": '"Bob"'}

    assert json.dumps(one.to_json()) == json.dumps(
        {
            "verdict": "differs",
            "complete": False,
            "not_compared": ["send"],
            "definition": [
                {"path": "steps.read.props.yes", "notebook": '"yes"', "files": "true"},
                {"path": "steps[2]", "notebook": '"tell"', "files": None},
            ],
            "cases": [
                {
                    "event": "order",
                    "external_user": "ada",
                    "steps": [
                        {"step": "read", "verdict": "differs", "differences": [read], "why": None},
                        {"step": "send", "verdict": "not compared", "differences": [], "why": WHY},
                        {"step": "tell", "verdict": "same", "differences": [], "why": None},
                    ],
                    "whole": {
                        "step": "whole run",
                        "verdict": "not compared",
                        "differences": [],
                        "why": "Not every step was compared.",
                    },
                }
            ],
            "fields": [{"file": "workflow.yaml", "field": "steps[].uses", "grade": "inferred", "steps": ["tell"]}],
            "notes": ["Pins are ignored: read ran."],
        }
    )


def test_markup_in_any_field_is_shown_as_text() -> None:
    """Markup, quotes and control characters in a field are escaped."""
    evil = Proof(
        EVIL,
        (EVIL,),
        (Difference(EVIL, EVIL, EVIL),),
        (CaseVerdict(EVIL, EVIL, (StepVerdict(EVIL, "not compared", reason=EVIL),), StepVerdict(WHOLE_RUN)),),
        (GradedField(EVIL, EVIL, "ours", (EVIL,)),),
        (EVIL,),
    )

    for drawn in (evil.render_html(), evil.render_text()):
        assert "\x1b" not in drawn
    assert "<b>bold</b></script>" in Page(evil.render_html()).text


def test_a_step_that_neither_side_reached() -> None:
    """If a run ends above a step on both sides, the step is shown as not run, without a reason."""
    steps = (StepVerdict("read"), StepVerdict("send", "not compared", reason=RUN_ENDED_EARLIER))
    case = CaseVerdict("order", None, steps, StepVerdict(WHOLE_RUN))

    drawn = replace(SAME, steps=("read", "send"), cases=(case,)).render_text()

    assert drawn.splitlines()[:4] == [
        f"Not proven for every step. Compared: read. Not compared: send. {NOT_REACHED}",
        "Proof of flow: workflow same; 1 run, steps: 1 same, 1 not run.",
        "  event  read  send     whole run",
        "  order  same  not run  same",
    ]
    assert "Not compared (" not in drawn


def test_a_step_that_was_not_compared_is_not_green() -> None:
    """A proof without a comparison of a step is not green: its first line names the step and the fix, unless another event compares it."""
    steps = (StepVerdict("read"), StepVerdict("send", "not compared", reason=WHY), StepVerdict("tell"))
    gap = replace(SAME, cases=(CaseVerdict("order", None, steps, StepVerdict(WHOLE_RUN)),))
    closed = replace(gap, cases=(*gap.cases, *SAME.cases))

    first = f"Not proven for every step. Compared: read, tell. Not compared: send. {WHY}"
    assert gap.render_text().splitlines()[0] == first
    assert Page(gap.render_html()).text.split()[:2] == ["not", "complete"]
    assert "#1a7f37" not in gap.render_html().partition("</strong>")[0]
    assert (gap.verdict, gap.is_complete, closed.is_complete) == ("same", False, True)
    assert closed.render_text().startswith("Proof of flow: ")


@pytest.mark.parametrize(("length", "is_table"), [(80, True), (81, False)])
def test_the_widest_table(length: int, is_table: bool) -> None:
    """A table has at most 100 columns, with the blanks after each column."""
    name = "s" * length
    case = CaseVerdict("order", None, (StepVerdict(name),), StepVerdict(WHOLE_RUN))

    drawn = replace(SAME, steps=(name,), cases=(case,)).render_text()

    assert (f"event  {name}  whole run" in drawn) is is_table


@pytest.mark.parametrize(("count", "ending"), [(4, "e3: send): w"), (5, "e3: send and 1 more): w")])
def test_a_common_reason_is_reported_once(count: int, ending: str) -> None:
    """A reason is in the summary if its step was compared on no event, else in a line with up to four places and a count."""
    step = StepVerdict("send", "not compared", reason="w")
    cases = tuple(CaseVerdict(f"e{number}", None, (step,), StepVerdict(WHOLE_RUN)) for number in range(count))

    nowhere = replace(SAME, steps=("send",), cases=cases).render_text()
    compared = CaseVerdict("e9", None, (StepVerdict("send"),), StepVerdict(WHOLE_RUN))
    drawn = replace(SAME, steps=("send",), cases=(*cases, compared)).render_text()

    assert nowhere.startswith("Not proven for every step. No step was compared. Not compared: send. w\n")
    assert "Not compared (" not in nowhere
    assert [line for line in drawn.splitlines() if line.startswith("Not compared")] == [
        f"Not compared (e0: send, e1: send, e2: send, {ending}"
    ]


def test_an_equal_whole_run_is_not_enough() -> None:
    """Without a compared step, a run with an equal end proves nothing."""
    case = CaseVerdict("order", None, (StepVerdict("read", "not compared", reason="w"),), StepVerdict(WHOLE_RUN))

    assert replace(SAME, steps=("read",), cases=(case,)).verdict == "not compared"

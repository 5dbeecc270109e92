"""The timeline shows the results of every step, in text and in HTML, with all markup escaped."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, get_args, get_type_hints

import pytest
from msgspec.structs import replace

from pdkernel.execution import (
    CANCELLED,
    AccountUse,
    BlockChoice,
    Decision,
    Delivery,
    ErrorRecord,
    Execution,
    Log,
    OutboundCall,
    OutboundPolicyRecord,
    Response,
    RunTrigger,
    StepResult,
)
from pdkernel.model import JSON
from pdkernel.render import timeline
from pdkernel.render.timeline.view_model import MAX_SHOWN_EXPORTS
from tests.builders import a_block, a_step, a_workflow, python_step
from tests.growth import assert_linear
from tests.render import builders
from tests.render.reading import Page, assert_view

EVIL = '<b>bold</b></script><img src=x onerror=alert(1)>" onclick="x\' &lt; --> \x1b[31mred\x1b[2J'
SHOWN = EVIL.replace("\x1b[31m", "").replace("\x1b[2J", "")
CASES: dict[str, Callable[[], Execution]] = {
    "succeeded": builders.succeeded,
    "delivered": builders.delivered,
    "failed": builders.failed,
    "running": builders.running,
    "outcomes": builders.all_outcomes,
    "states": builders.all_states,
    "refused": builders.refused,
}


def _many_deep_lists(count: int) -> JSON:
    """Lists of 200 levels, *count* lists together."""
    rows: list[JSON] = []
    for _ in range(count // 200):
        row: list[JSON] = []
        for _ in range(199):
            row = [row]
        rows.append(row)
    return rows


def hostile_execution() -> Execution:
    """An execution with markup in every text field."""
    error = ErrorRecord(EVIL, EVIL, EVIL, step=EVIL, line=5, stack=EVIL)
    call = OutboundCall(
        EVIL, EVIL, 200, 1.0, safe=False, outcome="not_sent", app=EVIL, at=EVIL, same_as=EVIL, note=EVIL
    )
    step = StepResult(
        name=EVIL,
        status="error",
        started_at=EVIL,
        source=EVIL,
        duration_ms=1.0,
        exports={EVIL: EVIL, "$summary": EVIL, "long": [EVIL] * 20},
        logs=(Log("stdout", EVIL), Log("stderr", EVIL * 20)),
        accounts=(AccountUse(EVIL, EVIL, EVIL, "own"),),
        requests=(call,),
        error=error,
    )
    return builders.an_execution(
        id=EVIL,
        workflow=EVIL,
        external_user=EVIL,
        environment=EVIL,
        started_at=EVIL,
        replay_of=EVIL,
        trigger=RunTrigger({"method": EVIL, "path": EVIL}, {}),
        steps=(step,),
        response=Response(200, {EVIL: EVIL}, EVIL),
        error=ErrorRecord(EVIL, EVIL, EVIL, stack=EVIL),
        decisions=(Decision("rejected", EVIL, EVIL, EVIL, EVIL),),
    )


def test_decisions_are_shown() -> None:
    """Text and HTML show what was decided about the run, by whom, when and with which note, as text."""
    decisions = (
        Decision("approved", "console session 3f9a12", "2026-11-24T10:00:00.000Z", "ask", "Checked <b>twice</b>"),
        Decision("cancelled", "terminal of ada", "2026-11-24T11:00:00.000Z"),
    )
    execution = builders.an_execution(decisions=decisions)

    text, html = timeline.render_text(execution), timeline.render_html(execution)

    first = "Step ask was approved by console session 3f9a12 at 2026-11-24 10:00:00 UTC"
    assert first in " ".join(text.split())
    assert "The run was cancelled by terminal of ada at 2026-11-24 11:00:00 UTC" in " ".join(text.split())
    assert "Checked <b>twice</b>" in " ".join(text.split())
    assert f"{first}\nChecked <b>twice</b>\n" in Page(html).lines


def test_a_sealed_event_is_shown_as_sealed() -> None:
    """Text and HTML show that the event is sealed, instead of method and path."""
    execution = builders.an_execution(trigger=RunTrigger({}, {}, sealed=True))

    shown = timeline.render_text(execution), timeline.render_html(execution)

    assert all("a sealed event (shown once the accounts of the run are known)" in each for each in shown)


@pytest.mark.parametrize("name", CASES)
def test_text_matches_the_golden_file(name: str) -> None:
    """The text of each sample execution equals its golden file."""
    drawn = timeline.render_text(
        CASES[name](), timeline.TimelineContext(workflow=builders.WORKFLOW, stale=["send"], event_name="issues-opened")
    )

    assert_view(f"timeline-{name}.txt", drawn)


@pytest.mark.parametrize("name", CASES)
def test_html_matches_the_golden_file(name: str) -> None:
    """The HTML of a successful execution, and the visible text of each other sample, equal their golden files."""
    drawn = timeline.render_html(
        CASES[name](), timeline.TimelineContext(workflow=builders.WORKFLOW, stale=["send"], event_name="issues-opened")
    )

    assert_view(f"timeline-{name}.html{'' if name == 'succeeded' else '.txt'}", drawn)


def test_markup_in_any_field_is_shown_as_text() -> None:
    """Markup, quotes and control characters in a field are escaped."""
    drawn = timeline.render_html(
        hostile_execution(),
        timeline.TimelineContext(stale=[EVIL], pinned=[EVIL], event_name=EVIL, warnings=[EVIL], note=EVIL),
    )

    page = Page(drawn)

    assert page.text.count("<b>bold</b></script>") > 20
    assert SHOWN in page.text
    assert "\x1b" not in drawn


def test_control_characters_do_not_reach_the_terminal() -> None:
    """The text has no character that moves a cursor or changes a colour."""
    drawn = timeline.render_text(
        hostile_execution(), timeline.TimelineContext(event_name=EVIL, warnings=[EVIL], note=EVIL)
    )

    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", drawn)
    assert "<b>bold</b>" in drawn


@pytest.mark.parametrize("name", CASES)
def test_lines_fit_a_terminal(name: str) -> None:
    """Wrapped or cut lines have at most a hundred columns."""
    lines = timeline.render_text(CASES[name](), timeline.TimelineContext(workflow=builders.WORKFLOW)).splitlines()

    own_frames = [line for line in lines if "event = {" in line]
    assert max(len(line) for line in lines if line not in own_frames) <= 100


@pytest.mark.parametrize("draw", [timeline.render_text, timeline.render_html])
def test_state_of_the_notebook_is_marked(draw: Callable[..., str]) -> None:
    """Stale and pinned steps, warnings and a note are shown with the execution."""
    drawn = draw(
        builders.succeeded(),
        timeline.TimelineContext(
            stale=["send"],
            pinned=["build"],
            warnings=["CHANNEL is not set."],
            note="Only send was run.",
            event_name="issues-opened",
        ),
    )

    assert re.search(r"stale[^\n]*", drawn)
    assert re.search(r"pinned[^\n]*", drawn)
    assert "CHANNEL is not set." in drawn
    assert "Only send was run." in drawn
    assert "issues-opened (POST /github)" in drawn


def test_the_running_step_can_be_named() -> None:
    """The caller can name the running step; other steps that have not run are waiting."""
    execution = builders.an_execution(
        status="executing", steps=(StepResult("one", "not_run"), StepResult("two", "not_run"))
    )

    drawn = timeline.render_text(execution, timeline.TimelineContext(running="two"))

    assert [line.split() for line in drawn.splitlines()[-2:]] == [["·", "waiting", "one"], ["▶", "running", "two"]]


def test_a_workflow_without_a_request_has_no_response() -> None:
    """A run without an HTTP request shows no response."""
    drawn = timeline.render_text(
        builders.an_execution(trigger=RunTrigger({}, {})), timeline.TimelineContext(has_response=False)
    )

    assert "response" not in drawn


def test_a_refused_run_with_the_default_response() -> None:
    """The default response is sent at once; a run that no endpoint would accept has no caller."""
    for_its_user = builders.refused()
    for_its_text = replace(for_its_user, error=ErrorRecord("step_order", "StepOrderError", "Step a reads steps.b"))

    drawn, other = (" ".join(timeline.render_text(each).split()) for each in (for_its_user, for_its_text))

    said = "response to the caller: 200, the default response, sent at once: the caller does not see the refusal"
    assert said in " ".join(drawn.split())
    assert "response" not in other


def test_a_running_execution_has_no_response_yet() -> None:
    """The default response is shown after the end of the run."""
    drawn = timeline.render_html(builders.running())

    assert "Response to the caller" not in drawn


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"finished_at": "2026-11-24T10:00:00.414Z"}, "success, 414 ms"),
        ({"finished_at": "2026-11-26T13:00:00.000Z"}, "success, 2 d 3 h"),
        ({"finished_at": None, "status": "paused"}, "paused, 142 ms so far"),
        ({"finished_at": "2026-11-24T09:00:00.000Z"}, "success, 0 ms"),
    ],
)
def test_the_duration_is_from_start_to_end(changes: dict[str, Any], shown: str) -> None:
    """Waits between the steps count, as in a list of runs; a paused run has the time until its newest step ended."""
    drawn = timeline.render_text(builders.an_execution(**changes))

    assert shown in drawn.splitlines()[0]


@pytest.mark.parametrize("draw", [timeline.render_text, timeline.render_html])
def test_a_running_step_has_a_clock(draw: Callable[..., str]) -> None:
    """The running step shows whole seconds since its start, and the title those of all steps."""
    drawn = draw(
        builders.running(), timeline.TimelineContext(now=datetime(2026, 11, 24, 10, 1, 5, 900_000, tzinfo=UTC))
    )

    text = Page(drawn).text if draw is timeline.render_html else drawn
    assert re.search(r"executing,? 1 min 6 s so far", text)
    assert re.search(r"running\s+count\s+1 min 6 s", text)


def test_a_running_step_shows_its_newest_output() -> None:
    """Of a long log of a running step, the last lines are shown in their order, and the number of the others."""
    log = (Log("stdout", "".join(f"line {number}\n" for number in range(100))), Log("stderr", "careful\n"))

    drawn = timeline.render_text(builders.with_step(builders.running(), "count", logs=log))

    shown = re.findall(r"… 90 lines not shown|line \d+|careful", drawn)
    assert shown == ["… 90 lines not shown", *(f"line {number}" for number in range(90, 100)), "careful"]


def test_a_run_of_a_cell_can_be_stopped_until_it_ends() -> None:
    """The Stop button is shown for an unfinished run that an interrupt stops, and for no other."""
    drawn = [
        timeline.render_html(execution, timeline.TimelineContext(can_stop=can_stop))
        for execution, can_stop in ((builders.running(), True), (builders.running(), False), (builders.failed(), True))
    ]

    assert ["pd-stop" in html for html in drawn] == [True, False, False]


@pytest.mark.parametrize("draw", [timeline.render_text, timeline.render_html])
def test_a_long_export_is_shortened(draw: Callable[[Execution], str]) -> None:
    """A large export is shown in part, and the rest is counted."""
    execution = builders.with_step(builders.succeeded(), "check", exports={"rows": list(range(5000))})

    drawn = draw(execution)

    assert re.search(r"… 4,\d\d\d lines more not shown", drawn)
    assert len(drawn) < 20_000


@pytest.mark.parametrize("draw", [timeline.render_text, timeline.render_html])
def test_exports_beyond_the_limit_are_counted(draw: Callable[[Execution], str]) -> None:
    """Of very many exports, the first are shown and the others are counted."""
    exports: dict[str, JSON] = {f"name{number}": number for number in range(MAX_SHOWN_EXPORTS + 7)}

    drawn = draw(builders.with_step(builders.succeeded(), "check", exports=exports))

    assert f"name{MAX_SHOWN_EXPORTS - 1}" in drawn
    assert f"name{MAX_SHOWN_EXPORTS}" not in drawn
    assert "… 7 more exports not shown" in drawn


@pytest.mark.parametrize("draw", [timeline.render_text, timeline.render_html])
@pytest.mark.parametrize("make", [lambda n: [[]] * n, lambda n: {str(key): 0 for key in range(n)}, _many_deep_lists])
def test_the_time_of_a_timeline_grows_linearly(draw: Callable[[Execution], str], make: Callable[[int], JSON]) -> None:
    """The time of a large export with many small or deep parts grows no faster than its size."""

    def with_export(size: int) -> Execution:
        return builders.with_step(builders.succeeded(), "check", exports={"rows": make(size)})

    assert_linear(draw, with_export)


@pytest.mark.parametrize("draw", [timeline.render_text, timeline.render_html])
def test_a_huge_export_shows_its_size(draw: Callable[[Execution], str]) -> None:
    """The beginning of a very large export is shown, with its size."""
    rows = [{"number": number} for number in range(50_000)]
    execution = builders.with_step(builders.succeeded(), "check", exports={"rows": rows, "text": "x" * 200_000})

    drawn = draw(execution)

    assert "&quot;number&quot;: 1" in drawn or '"number": 1' in drawn
    assert re.search(r"… the rest of 8\d\d,\d\d\d bytes not shown", drawn)
    assert re.search(r"… the rest of 200,002 bytes not shown", drawn)
    assert len(drawn) < 31_000


@pytest.mark.parametrize("draw", [timeline.render_text, timeline.render_html])
def test_a_long_log_keeps_its_beginning_and_end(draw: Callable[[Execution], str]) -> None:
    """A long log shows its first and last lines, and the number of hidden lines."""
    log = Log("stdout", "".join(f"line number {number}\n" for number in range(10_000)))
    execution = builders.with_step(builders.succeeded(), "check", logs=(log,))

    drawn = draw(execution)

    assert "line number 0\n" in drawn
    assert "line number 9999" in drawn
    assert re.search(r"… 9,\d\d\d lines not shown …", drawn)


def test_bars_follow_one_another() -> None:
    """Each bar starts at the end of the previous bar, with the length of the step's duration."""
    execution = builders.an_execution(
        steps=tuple(StepResult(name, "success", duration_ms=time) for name, time in [("a", 10.0), ("b", 30.0)])
    )

    drawn = timeline.render_html(execution)

    assert re.findall(r"margin-left:([\d.]+)%;width:([\d.]+)%", drawn) == [("0.0", "25.0"), ("25.0", "75.0")]


def test_a_progress_bar_shows_its_last_state() -> None:
    """Of a line that was overwritten repeatedly, the last state is shown."""
    log = Log("stderr", "10 %\r50 %\r100 %\ndone\r\n")

    drawn = timeline.render_text(builders.with_step(builders.succeeded(), "check", logs=(log,)))

    assert "| 100 %\n" in drawn
    assert "| done\n" in drawn
    assert "| 10 %" not in drawn


def test_notes_of_pdkernel_are_separate_from_the_output() -> None:
    """Notes of pdkernel have a label instead of their prefix in the log; the step's own text is unchanged."""
    logs = (Log("stderr", "mine\n"), Log("stderr", "[pdkernel] one\n[pdkernel] two\n"), Log("stderr", "mine too\n"))
    execution = builders.with_step(builders.succeeded(), "check", logs=logs)

    drawn, html = timeline.render_text(execution), timeline.render_html(execution)

    assert "stderr   | mine\n      note     one\n               two\n      stderr   | mine too\n" in drawn
    assert ">note</span>" in html
    assert ">one\ntwo</span>" in html
    assert "[pdkernel]" not in drawn + html


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (OutboundPolicyRecord("deny", guard="none"), 1),
        (OutboundPolicyRecord("deny", guard="redirect"), 0),
        (OutboundPolicyRecord("deny", guard="block"), 0),
        (None, 0),
    ],
)
def test_a_run_without_a_sandbox_warns(rules: OutboundPolicyRecord | None, said: int) -> None:
    """Without an enforced outbound policy, the timeline warns in text and HTML."""
    execution = builders.an_execution(outbound_policy=rules)

    shown = [" ".join(form.split()) for form in (timeline.render_text(execution), timeline.render_html(execution))]

    assert [form.count("ignore proxy variables are not stopped") for form in shown] == [said, said]


def test_the_timeline_shows_the_outbound_policy_and_who_chose_it() -> None:
    """The line of the start has the policy and its origin, in text and HTML; a run that is `live` by default shows none."""
    chosen = builders.an_execution(outbound_policy=OutboundPolicyRecord("stand-in=slack", "cell 3 (%pdegress)"))

    shown = [" ".join(form.split()) for form in (timeline.render_text(chosen), timeline.render_html(chosen))]

    assert ["outbound policy stand-in=slack (cell 3 (%pdegress))" in form for form in shown] == [True, True]
    assert "outbound policy" not in timeline.render_text(builders.an_execution())


def test_action_names_its_source() -> None:
    """A step with a pre-built action shows the action's source and its limitations."""
    source = "npm @pipedream/slack 0.10.3, version 0.0.20 instead of 0.0.18"
    execution = replace(builders.succeeded(), steps=(replace(builders.steps()[0], source=source),))

    assert f"action   {source}" in timeline.render_text(execution)
    assert source in timeline.render_html(execution)


@pytest.mark.parametrize("draw", [timeline.render_text, timeline.render_html])
def test_every_outcome_of_a_delivery_is_shown(draw: Callable[[Execution], str]) -> None:
    """A message may wait for its first try while its run is shown."""
    outcomes = get_args(get_type_hints(Delivery)["outcome"])

    drawn = draw(builders.an_execution(sends=tuple(Delivery("send", "email", outcome) for outcome in outcomes)))

    assert "waiting" in outcomes
    assert all(outcome in drawn for outcome in outcomes)


@pytest.mark.parametrize("draw", [timeline.render_text, timeline.render_html])
def test_attempts_and_the_original_are_shown(draw: Callable[[Execution], str]) -> None:
    """A second attempt of a run or a step, and a replay, are marked; a first attempt is not."""
    again = builders.with_step(builders.an_execution(attempt=2, replay_of="run_1"), "check", attempt=2)

    drawn, first = draw(again), draw(builders.an_execution())

    assert " · attempt 2 · replay of run_1" in drawn
    assert drawn.count("attempt 2") == 2
    assert "attempt" not in first
    assert "replay" not in first


def test_a_pinned_result_has_one_mark() -> None:
    """A step that ran although its exports are pinned has a mark; the status `pinned` needs none."""
    drawn = timeline.render_text(builders.all_states(), timeline.TimelineContext(pinned=["check", "build"]))

    assert [line.split() for line in drawn.splitlines() if "pinned" in line] == [
        ["◆", "pinned", "check"],
        ["○", "disabled", "build", "[pinned]"],
    ]


def test_a_step_has_the_kind_of_its_code() -> None:
    """A step with a pre-built action is an action, regardless of its language."""
    workflow = a_workflow(
        python_step("check", "1"), a_step("%%pdstep send --uses slack-send-message@0.0.20\ntext: Hi\n")
    )

    drawn = timeline.render_text(builders.succeeded(), timeline.TimelineContext(workflow=workflow))

    assert re.search(r"check +Python ", drawn)
    assert re.search(r"send +action ", drawn)


@pytest.mark.parametrize(("count", "is_closed"), [(12, False), (13, True)])
def test_a_few_lines_of_a_log_are_open(count: int, is_closed: bool) -> None:
    """Up to 12 lines of all streams are shown; more are behind their number."""
    logs = (Log("stdout", "a\n"), Log("stderr", "b\n" * (count - 1)))
    drawn = timeline.render_html(builders.an_execution(steps=(StepResult("one", "success", logs=logs),)))

    closed = re.search(rf"1 line of stdout, {count - 1} lines of stderr(</span>)+</summary>", drawn)
    assert (closed is not None) is is_closed


@pytest.mark.parametrize(("length", "is_open"), [(1999, True), (2000, False)])
def test_a_long_stack_is_closed(length: int, is_open: bool) -> None:
    """A stack of less than 2000 characters is open."""
    error = ErrorRecord("c", "N", "m", step="one", stack="x" * length)
    drawn = timeline.render_html(builders.an_execution(steps=(StepResult("one", "error", error=error),)))

    assert ("<details open" in drawn) is is_open


def test_an_error_of_a_step_is_shown_once() -> None:
    """The error of a run that a step ended stands at the step only."""
    error = ErrorRecord("c", "KeyError", "no such key", step="check")
    execution = builders.with_step(builders.an_execution(status="error", error=error), "check", error=error)

    assert timeline.render_text(execution).count("no such key") == 1
    assert timeline.render_html(execution).count("no such key") == 1


@pytest.mark.parametrize(("is_edited", "place"), [(False, "work.py:13"), (True, "line 4 of the cell `check`")])
def test_an_error_of_a_file_that_has_changed_has_the_line_of_its_step(is_edited: bool, place: str) -> None:
    """A line of the file is shown only if the run had the same code."""
    workflow = a_workflow(dataclasses.replace(python_step("check"), file="work.py", file_line=10))
    error = ErrorRecord("c", "KeyError", "no such key", step="check", line=4)
    execution = builders.with_step(
        builders.an_execution(version="0" * 12 if is_edited else workflow.version), "check", error=error
    )

    drawn = timeline.render_text(execution, timeline.TimelineContext(workflow=workflow))

    assert f"KeyError at {place}" in drawn


def test_a_very_short_step_has_a_bar() -> None:
    """A step that takes nearly no time is visible beside a long one."""
    steps = (StepResult("a", "success", duration_ms=0.01), StepResult("b", "success", duration_ms=10_000.0))
    execution = builders.an_execution(steps=steps)

    lines = [line for line in timeline.render_text(execution).splitlines() if "█" in line]

    assert [line.count("█") for line in lines] == [1, 20]
    assert "width:1.0%" in timeline.render_html(execution)


def test_a_call_that_was_not_sent_again_is_not_green() -> None:
    """A step that repeats a call has a mark for it instead of a green label, and its message beside the former answer."""
    call = builders.a_call(outcome="not_sent", same_as="2026-11-24T10:32:05.120Z", note="Slack message to #bugs")
    execution = builders.with_step(builders.succeeded(), "send", requests=(call,))

    text, html = timeline.render_text(execution), timeline.render_html(execution)

    assert re.search(r"✓ success +send .*\[1 call not sent again\]", text)
    assert re.search(
        r"NOT SENT AGAIN: answer of 10:32 \(stored 200, with the Slack account\)\n +Slack message to #bugs", text
    )
    assert html.count("#1a7f37") == timeline.render_html(builders.succeeded()).count("#1a7f37") - 1
    assert "1 call not sent again" in Page(html).text


def test_the_end_of_stderr_is_shown_once() -> None:
    """A report of a panic, or the end of stderr, is not shown as error and as log."""
    panic = ErrorRecord("step_failed", "panic", "no map", step="count", line=9, stack="main.main()\n\tcount.go:9")
    died = ErrorRecord("step_died", "ProcessDied", "It ended. The end of its stderr:\nlast words", step="count")
    logs = (Log("stderr", "first\n"), Log("stderr", "panic: no map\n\ngoroutine 1 [running]:\n"))

    panicked = builders.with_step(builders.succeeded(), "count", status="error", error=panic, logs=logs)
    ended = builders.with_step(
        builders.succeeded(), "count", status="error", error=died, logs=(Log("stderr", "last words\n"),)
    )

    shown = timeline.render_text(panicked, timeline.TimelineContext(workflow=builders.WORKFLOW))
    assert (shown.count("no map"), "goroutine" in shown, "| first" in shown) == (1, False, True)
    assert "cell [4]:9" in shown
    assert timeline.render_text(ended).count("last words") == 1


def test_a_cancelled_step_is_not_an_error() -> None:
    """A step that ran when its run was cancelled is shown as cancelled, in text and HTML."""
    error = ErrorRecord("step_failed", CANCELLED, "The run was cancelled while this step ran.", step="count")
    execution = builders.with_step(
        builders.an_execution(status="cancelled", error=error), "count", status="error", error=error
    )

    text, html = timeline.render_text(execution), timeline.render_html(execution)

    assert re.search(r"■ cancelled +count", text)
    assert "■ cancelled count" in Page(html).text
    assert "✗ error" not in text
    assert "✗ error" not in html


def test_a_block_shows_its_decision_and_its_branches() -> None:
    """A block shows the conditions with their values and the branch that ran; steps say their branch, and those below start after it."""
    judged: dict[str, JSON] = {"branch": "high", "holds": True, "result": True, "source": "n > 1", "reads": {"n": 2}}
    block = StepResult("triage", "success", duration_ms=1.0, choice=BlockChoice("if", ("high",), (judged,)))
    page = StepResult("page", "success", duration_ms=1.0, block="triage", branch="high", path="triage.high.page")
    wait = StepResult("wait", "skipped", block="triage", branch="low", path="triage.low.wait")
    workflow = a_workflow(
        a_block("%%pdif triage\nhigh: n > 1\nlow: 'false'"),
        python_step("page", options="--in triage.high"),
        python_step("wait", options="--in triage.low"),
    )

    execution, notes = builders.an_execution(steps=(block, page, wait)), timeline.TimelineContext(workflow=workflow)
    text, html = timeline.render_text(execution, notes), timeline.render_html(execution, notes)

    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "branch ✓ high: n > 1 (n is 2)" in lines
    assert any(line.startswith("✓ success page Python in high") for line in lines)
    assert "↷ skipped wait Python in low" in lines
    assert "Python in high" in html

"""The list of recorded runs as text and HTML, and why a run is not finished."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from pdkernel.execution import Delivery, ErrorRecord, RunPause, Status
from pdkernel.render.runs import explain_status, render_html, render_output, render_text
from tests.render.builders import an_execution


def test_control_characters_are_escaped() -> None:
    """A name with control characters does not control the terminal."""
    shown = render_text([an_execution(workflow="Gre\x1b[31met", external_user="a\nb")])

    assert "\x1b" not in shown
    assert len(shown.splitlines()) == 2


def test_columns_are_aligned() -> None:
    """Columns are as wide as their widest cell, and a long name is cut."""
    shown = render_text([an_execution(workflow="x" * 80), an_execution(external_user=None, workflow="Short")])

    first, second = shown.splitlines()[1:]
    assert first.index("xxx") == second.index("Short")
    assert len(first) < 140


def test_html_is_escaped() -> None:
    """A value of a run is text in the table; the text has the same runs."""
    error = ErrorRecord("step_failed", "Error", "<b>no</b>", step="send")
    executions = [an_execution(workflow="<script>", external_user="<i>ada</i>", status="error", error=error)]
    view = render_output(executions)

    assert "&lt;script&gt;" in view.html
    assert "send: Error: &lt;b&gt;no&lt;/b&gt;" in view.html
    assert not {"<script>", "<i>", "<b>"} & set(view.html.split())
    assert view.text == render_text(executions)
    assert "No runs." in render_html([])


@pytest.mark.parametrize(
    ("pause", "expected"),
    [
        (RunPause("wait", "delay", "2026-11-24T10:00:00.000Z"), "until 2026-11-24 10:00:00 UTC. Then the run goes on."),
        (RunPause("wait", "suspend", None), "Paused in wait (suspend). Then the run is cancelled, unless"),
        (RunPause("wait", "rerun", None), "Then the step runs again."),
        (RunPause("wait", "retry", None), "Then the step runs again."),
    ],
)
def test_a_pause_is_explained(pause: RunPause, expected: str) -> None:
    """A paused run names its step, the end of the pause, what follows, and the command that ends it."""
    explained = explain_status(an_execution(id="r1", status="paused", pause=pause))

    assert explained is not None
    assert expected in explained
    assert explained.endswith("pdkernel runs resume r1")


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (-60, "10:00:00 UTC. Then"),
        (-59.5, "10:00:00 UTC (in 60 s). Then"),
        (-0.5, "(in 1 s). Then the run goes on."),
        (0, "10:00:00 UTC. Then the run goes on."),
        (5, "Then the run goes on."),
        (6, "The time has come, but the process of the run has ended."),
    ],
)
def test_the_rest_of_a_pause(seconds: float, expected: str) -> None:
    """The last minute is counted in seconds; a pause whose time came five seconds ago has no process any more."""
    pause = RunPause("wait", "delay", "2026-11-24T10:00:00.000Z")
    now = datetime(2026, 11, 24, 10, tzinfo=UTC) + timedelta(seconds=seconds)

    assert expected in str(explain_status(an_execution(status="paused", pause=pause), now=now))


@pytest.mark.parametrize("status", ["queued", "resumed", "executing", "paused", "error", "cancelled"])
def test_each_other_status_is_explained(status: Status) -> None:
    """Every status but success has a reason in one line."""
    explained = explain_status(an_execution(status=status))

    assert explained
    assert "\n" not in explained


def test_a_failure_is_explained_in_one_line() -> None:
    """The reason of a failed run is the step with the first line of its error; waiting messages are counted."""
    error = ErrorRecord("step_failed", "KeyError", "'a'\nmore", step="read")
    waiting = (Delivery("read", "email", "waiting"), Delivery("read", "http", "sent"))

    assert explain_status(an_execution(status="error", error=error, sends=())) == (
        "The run was not completed: read: KeyError: 'a'"
    )
    assert explain_status(an_execution(sends=waiting)) == "1 message of the run waits for delivery."
    assert explain_status(an_execution(sends=())) is None


def test_a_suspended_run_waits_for_its_process() -> None:
    """A suspended run whose time has come is cancelled: the sentence about the end of a process is for other pauses."""
    pause = RunPause("wait", "suspend", "2026-11-24T10:00:00.000Z")
    now = datetime(2026, 11, 24, 10, 1, tzinfo=UTC)

    assert "Then the run is cancelled" in str(explain_status(an_execution(status="paused", pause=pause), now=now))


def test_a_row_has_the_facts_of_a_run() -> None:
    """A line has status, id, start, duration, user with environment, and workflow; a failed run has a second line."""
    error = ErrorRecord("step_failed", "KeyError", "'a'\nmore", step="read")

    first, second = render_text([an_execution(status="error", error=error)]).splitlines()[1:]

    assert first.split() == [
        *("✗", "error", "2abcdefghijklmnopqrstuvwxyz", "2026-11-24", "10:00:00", "UTC", "141", "ms"),
        *("ada", "(development)", "Open", "issue", "to", "Slack"),
    ]
    assert second == "      read: KeyError: 'a'"
    assert render_text([]) == "No runs.\n"


@pytest.mark.parametrize("status", ["success", "exited"])
def test_a_run_that_has_succeeded_needs_no_reason(status: Status) -> None:
    """A run that a step has ended early has succeeded, too."""
    assert explain_status(an_execution(status=status)) is None

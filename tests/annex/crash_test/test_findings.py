"""What is done twice or lost, found in the calls and records of two runs."""

from __future__ import annotations

import pytest

from pdkernel.annex.crash_test.findings import Finding, RunOutcome, compare_outcomes
from pdkernel.annex.crash_test.points import SeenCall
from pdkernel.execution import ErrorRecord, Execution, RunTrigger, StepResult

URL = "https://api.example.test/charges"


def call(
    body: str = "1", *, process: int = 1, step: str = "charge", url: str = URL, key: str = "", method: str = "POST"
) -> SeenCall:
    """A call of a step."""
    return SeenCall(process, step, method, url, body, key, safe=method == "GET")


def outcome(*calls: SeenCall, steps: tuple[StepResult, ...] = (), status: str = "success") -> RunOutcome:
    """What a run has done."""
    execution = Execution(
        id="run",
        trace_id="run",
        workflow="Order",
        version="1",
        status=status,  # type: ignore[arg-type]
        external_user=None,
        environment="development",
        started_at="2026-11-24T10:00:00.000Z",
        finished_at="2026-11-24T10:00:01.000Z",
        attempt=1,
        replay_of=None,
        trigger=RunTrigger({}, {}),
        steps=steps,
        response=None,
        error=None,
    )
    return RunOutcome([execution], calls)


def compare(reference: RunOutcome, crashed: RunOutcome | None) -> list[Finding]:
    """The findings of a run with a crash."""
    return list(compare_outcomes(reference, crashed, 60))


@pytest.mark.parametrize(
    ("expected", "found", "texts"),
    [
        ([call()], [call(), call(process=2)], [f"POST {URL} arrived twice, without an Idempotency-Key."]),
        ([call(key="k")], [call(key="k"), call(key="k", process=2)], []),
        (
            [call(key="k")],
            [call(key="k1"), call(key="k2", process=2)],
            [f"POST {URL} arrived twice, with another Idempotency-Key."],
        ),
        ([call("10:00")], [call("10:01")], []),
        (
            [call("10:00")],
            [call("10:01"), call("10:02", process=2)],
            [f"POST {URL} arrived twice, without an Idempotency-Key."],
        ),
        ([call()], [], [f"POST {URL} was not made."]),
        ([call(method="GET")], [call(method="GET"), call(method="GET", process=2)], []),
        ([call(method="GET")], [], []),
        (
            [call("a"), call("b")],
            [call("a"), call("a", process=2)],
            [f"POST {URL} arrived twice, without an Idempotency-Key.", f"POST {URL} was not made."],
        ),
        (
            [call("a"), call("b")],
            [call("a"), call("b"), call("a", process=2), call("b", process=2)],
            [f"POST {URL} arrived 4 times instead of 2, without an Idempotency-Key."],
        ),
        (
            [call(url=f"{URL}/u0")],
            [call(url=f"{URL}/u1"), call(url=f"{URL}/u2", process=2)],
            [f"POST {URL}/u2 arrived in addition, without an Idempotency-Key."],
        ),
    ],
    ids=[
        "twice",
        "same key",
        "other key",
        "other body",
        "other body in each attempt",
        "lost",
        "safe",
        "safe and lost",
        "one twice and one lost",
        "two twice",
        "other URL in each attempt",
    ],
)
def test_calls(expected: list[SeenCall], found: list[SeenCall], texts: list[str]) -> None:
    """Calls are compared by method, URL and body first, and by less where every run differs."""
    assert [finding.what for finding in compare(outcome(*expected), outcome(*found))] == texts


def test_a_key_counts_for_its_url_only() -> None:
    """The same key for calls to different URLs are different effects."""
    both = (call(key="k"), call(key="k", url=f"{URL}/2"))

    assert [finding.what for finding in compare(outcome(*both), outcome(both[0]))] == [f"POST {URL}/2 was not made."]


def test_a_step_that_fails_after_the_crash_is_lost() -> None:
    """A step with another status is lost, with its error; so is the result of the run."""
    failed = StepResult("charge", "error", error=ErrorRecord("step", "ValueError", "charged already"))

    found = compare(outcome(steps=(StepResult("charge", "success"),)), outcome(steps=(failed,), status="error"))

    assert [(finding.cause, finding.step) for finding in found] == [("step", "charge"), ("result", "whole run")]
    assert found[0].what == "Its record is error, not success: charged already"


def test_an_export_that_is_missing_is_lost() -> None:
    """A step that exports less than without a crash is lost; a value that differs is not."""
    whole = StepResult("charge", "success", exports={"id": "ch_1", "at": 1, "none": None})

    found = compare(outcome(steps=(whole,)), outcome(steps=(StepResult("charge", "success", exports={"at": 2}),)))

    assert [finding.what for finding in found] == ["It does not export id any more."]


def test_a_run_that_does_not_end_is_lost() -> None:
    """A run without an outcome has lost its result."""
    assert [finding.what for finding in compare(outcome(), None)] == [
        "The run did not end within 60 s after the crash."
    ]

"""What is done twice or lost, found in the calls and records of two runs."""

from __future__ import annotations

import pytest

from pdkernel.annex.crash_test.findings import Finding, RunOutcome, compare_outcomes, find_varying
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


def compare(reference: RunOutcome, crashed: RunOutcome | None, *controls: RunOutcome) -> list[Finding]:
    """The findings of a run with a crash."""
    return list(compare_outcomes([reference, *controls], crashed, 60))


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


@pytest.mark.parametrize(
    ("controls", "varying", "crashed", "texts"),
    [
        ([[call("a")], [call("b")]], ["body of calls"], [call("c")], []),
        (
            [[call("a")], [call("b")]],
            ["body of calls"],
            [call("c"), call("d", process=2)],
            [f"POST {URL} arrived twice, without an Idempotency-Key."],
        ),
        ([[call("a"), call("b")], [call("b"), call("b")]], ["body of calls"], [call("a"), call("a")], []),
        ([[call("a"), call("b")], [call("b"), call("a")]], [], [call("b"), call("a")], []),
        (
            [[call(url=f"{URL}/1")], [call(url=f"{URL}/2")]],
            ["URL of calls"],
            [call(url=f"{URL}/3"), call(url=f"{URL}/4", process=2)],
            ["POST to api.example.test arrived twice, without an Idempotency-Key."],
        ),
        (
            [[call(url="https://a.test/")], [call(url="https://b.test/")]],
            ["host of calls"],
            [call(url="https://c.test/")],
            [],
        ),
        (
            [[call(url="https://a.test/")], [call(url="https://b.test/")]],
            ["host of calls"],
            [call(url="https://c.test/"), call(url="https://d.test/")],
            ["POST arrived twice, without an Idempotency-Key."],
        ),
        ([[call(url="https://a.test/")], [call(url="https://b.test/")]], ["host of calls"], [], ["POST was not made."]),
        ([[], [call()]], ["number of calls"], [call()], []),
        ([[call()], []], ["number of calls"], [], []),
        (
            [[], [call()]],
            ["number of calls"],
            [call(), call(process=2)],
            [f"POST {URL} arrived twice, without an Idempotency-Key."],
        ),
        (
            [[call("a"), call("1")], [call("a"), call("2")]],
            ["body of calls"],
            [call("a"), call("a", process=2)],
            [f"POST {URL} arrived twice, without an Idempotency-Key."],
        ),
    ],
    ids=[
        "body",
        "body and twice",
        "one of two bodies",
        "order",
        "URL and twice",
        "host",
        "host and twice",
        "host and lost",
        "number",
        "number and not made",
        "number and twice",
        "another call twice",
    ],
)
def test_calls_that_vary_without_a_crash(
    controls: list[list[SeenCall]], varying: list[str], crashed: list[SeenCall], texts: list[str]
) -> None:
    """What differs between control runs is not compared, and calls are still counted: more than in each control run are a finding."""
    first, second = (outcome(*calls) for calls in controls)

    assert find_varying([first, second]) == tuple(f"the {what} of charge" for what in varying)
    assert [finding.what for finding in compare(first, outcome(*crashed), second)][:1] == texts


def test_steps_that_vary_without_a_crash() -> None:
    """A status and an export that differ between control runs are not compared; the others are."""
    steps = [
        (StepResult("a", "success", exports={"id": 1, f"x{number}": 1}), StepResult("b", status))  # type: ignore[arg-type]
        for number, status in enumerate(("success", "skipped"))
    ]
    controls = [outcome(steps=each) for each in steps]

    found = compare(controls[0], outcome(steps=(StepResult("a", "success"), StepResult("b", "not_run"))), controls[1])

    assert find_varying(controls) == ("the export x0 of a", "the status of b", "the export x1 of a")
    assert [finding.what for finding in found] == ["It does not export id any more."]


def test_a_result_that_varies_without_a_crash() -> None:
    """A run that ends in two ways by itself may end in either."""
    controls = [outcome(), outcome(status="exited")]

    assert find_varying(controls) == ("the status of the run",)
    assert compare(controls[0], outcome(status="exited"), controls[1]) == []

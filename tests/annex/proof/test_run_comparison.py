"""Differences between two recorded runs."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from pdkernel.annex.proof.report import WHOLE_RUN
from pdkernel.annex.proof.run_comparison import compare_runs, is_refused_before_start, separate_flaky
from pdkernel.annex.proof.side_runner import SideRun
from pdkernel.annex.proof.value_differences import ValueDifference
from pdkernel.execution import AccountUse, Delivery, ErrorRecord, Log, OutboundCall, Response, StepResult
from tests.render.builders import a_call, an_execution, with_step


def calling(*calls: OutboundCall) -> SideRun:
    """A run whose step `check` has sent *calls*."""
    return SideRun(with_step(an_execution(), "check", requests=calls), {})


def test_the_order_of_outbound_calls_is_ignored() -> None:
    """Concurrent calls may end in any order; another status, or a repeated call, is a difference."""
    first, second = a_call(url="https://one.example/"), a_call(url="https://two.example/")

    reordered = compare_runs(calling(first, second), calling(second, first))
    changed = compare_runs(calling(first, second), calling(first, a_call(url="https://two.example/", status=500)))
    repeated = compare_runs(calling(first), calling(first, first))

    assert not any(reordered.values())
    assert [name for name, differences in changed.items() if differences] == ["check"]
    assert [place.path for place in repeated["check"]] == ["requests[1]"]


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"status": "error"}, "status"),
        ({"exports": {"a": 2}}, "exports.a"),
        ({"error": ErrorRecord("c", "N", "m")}, "error"),
        ({"accounts": (AccountUse("slack", "slack", "apn_2", "external_user"),)}, "accounts.slack.id"),
        ({"accounts": (AccountUse("slack", "slack", "apn_1", "own"),)}, "accounts.slack.owner"),
        ({"requests": (a_call(),)}, "requests[0]"),
        ({"attempt": 2}, "attempt"),
        ({"duration_ms": 5.0}, None),
        ({"logs": (Log("stdout", "x"),)}, None),
    ],
)
def test_what_a_step_did_is_compared(changes: dict[str, Any], path: str | None) -> None:
    """Status, exports, error, accounts, calls and attempt of a step count; its output and its duration do not."""
    step = StepResult(
        "check", "success", exports={"a": 1}, accounts=(AccountUse("slack", "slack", "apn_1", "external_user"),)
    )
    one, other = (SideRun(an_execution(steps=(each,)), {}) for each in (step, replace(step, **changes)))

    found = compare_runs(one, other)

    assert [difference.path for difference in found["check"]] == ([] if path is None else [path])
    assert found[WHOLE_RUN] == []


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"step": "b"}, 0),
        ({"kind": "http"}, 1),
        ({"outcome": "failed"}, 2),
        ({"to": "you@a"}, 3),
        ({"status": 500}, 4),
        ({"payload": {"subject": "Other"}}, 5),
        ({"note": "Other"}, None),
    ],
)
def test_what_a_message_has_is_compared(changes: dict[str, Any], place: int | None) -> None:
    """Step, kind, outcome, receiver, status and content of a message count."""
    sent = Delivery("a", "email", "sent", to="me@a", status=200, payload={"subject": "One"})
    one, other = (SideRun(an_execution(sends=(each,)), {}) for each in (sent, replace(sent, **changes)))

    paths = [difference.path for difference in compare_runs(one, other)[WHOLE_RUN]]

    assert {path.partition(".")[0] for path in paths} == (set() if place is None else {f"sends[0][{place}]"})


@pytest.mark.parametrize(
    ("changes", "stores", "path"),
    [
        ({"status": "exited"}, {}, "status"),
        ({"response": Response(200, {}, "ok")}, {}, "response"),
        ({"error": ErrorRecord("c", "N", "m")}, {}, "error"),
        ({"sends": (Delivery("a", "email", "sent", to="me@a"),)}, {}, "sends[0]"),
        ({}, {"orders": {"a": 1}}, "stores.orders"),
        ({"id": "other", "started_at": "2026-01-01T00:00:00.000Z"}, {}, None),
    ],
)
def test_what_a_run_did_is_compared(changes: dict[str, Any], stores: dict[str, Any], path: str | None) -> None:
    """Status, response, error, messages and data stores of a run count; its id and its time do not."""
    found = compare_runs(SideRun(an_execution(), {}), SideRun(an_execution(**changes), stores))

    assert [difference.path for difference in found.pop(WHOLE_RUN)] == ([] if path is None else [path])
    assert not any(found.values())


def test_a_step_of_one_side_only() -> None:
    """A step that the other side does not have is one difference."""
    found = compare_runs(SideRun(an_execution(), {}), SideRun(an_execution(steps=()), {}))

    assert [each.path for each in found["check"]] == [""]
    assert set(found) == {"check", "build", "count", "send", WHOLE_RUN}


@pytest.mark.parametrize(
    ("statuses", "has_error", "is_refused"),
    [
        (("not_run", "disabled", "not_run"), True, True),
        (("not_run", "not_run"), False, False),
        (("error", "skipped"), True, False),
        (("success", "not_run"), True, False),
    ],
)
def test_a_run_that_is_refused(statuses: tuple[Any, ...], has_error: bool, is_refused: bool) -> None:
    """A run is refused if it has an error and no step has run; a disabled step never runs."""
    steps = tuple(StepResult(f"s{number}", status) for number, status in enumerate(statuses))
    execution = an_execution(steps=steps, error=ErrorRecord("c", "N", "m") if has_error else None)

    assert is_refused_before_start(execution) is is_refused


def test_flaky_places_are_separated() -> None:
    """A place inside or around a flaky place, or equal to it, is flaky; a place with a similar name is not."""
    paths = ["exports.now", "exports.now.at", "exports.list[0]", "exports.text line 2", "exports.nowhere", "exports"]
    differences = {"a": [ValueDifference(path, 1, 2) for path in paths], "b": [ValueDifference("exports.now", 1, 2)]}
    flaky = {"a": [ValueDifference(path, 1, 2) for path in ("exports.now", "exports.list", "exports.text")]}

    stable, unstable = separate_flaky(differences, flaky)

    assert [each.path for each in stable["a"]] == ["exports.nowhere"]
    assert unstable == {"a": [path for path in paths if path != "exports.nowhere"]}
    assert [each.path for each in stable["b"]] == ["exports.now"]
    assert separate_flaky({"a": []}, {}) == ({"a": []}, {})

"""The metadata of an event."""

from __future__ import annotations

from dataclasses import replace

from pdkernel.common.clock import ManualClock
from pdkernel.egress import parse_policy
from pdkernel.engine.pauses import RerunState
from pdkernel.engine.run_context import (
    build_step_context,
    build_trigger_context,
    derive_emitter_id,
    derive_id,
    fired_by,
    trigger_keys,
)
from pdkernel.engine.run_request import RunRequest
from pdkernel.event import Event
from pdkernel.model import JSON, Trigger, Workflow

SCHEDULES = Workflow(
    "Work", triggers=(Trigger("schedule"), Trigger("schedule"), Trigger("email"), Trigger(config={"id": "hi_abc"}))
)


REQUEST = RunRequest(SCHEDULES, Event({}), parse_policy("deny"), test=True)


def context_of(request: RunRequest) -> dict[str, JSON]:
    """The context of a new run of *request*."""
    return build_trigger_context(request, project_id="proj_1", trace_id="t", run_id="r", clock=ManualClock())


def test_the_context_of_a_test_and_of_a_served_run() -> None:
    """A test has ids that follow from the workflow; a served run has those of its endpoint, its user and its replay."""
    test = context_of(REQUEST)
    served = context_of(
        replace(
            REQUEST,
            test=False,
            workflow_id="p_1",
            emitter_id="hi_1",
            external_user_id="ada",
            environment="production",
            replay_of="first",
        )
    )

    assert (test["id"], test["trace_id"], test["project_id"]) == ("r", "t", "proj_1")
    assert (test["source_type"], test["test"], test["replay"]) == ("TRACE", True, False)
    assert (test["workflow_id"], test["emitter_id"]) == (derive_id("p_", "Work"), derive_id("ti_", "Work"))
    assert (test["external_user_id"], test["external_user_environment"]) == (None, None)
    assert (test["ts"], test["workflow_name"]) == ("2026-01-01T00:00:00.000Z", "Work")
    assert (served["source_type"], served["test"], served["replay"]) == ("COMPONENT", False, True)
    assert (served["workflow_id"], served["emitter_id"]) == ("p_1", "hi_1")
    assert (served["external_user_id"], served["external_user_environment"]) == ("ada", "production")


def test_the_context_of_a_step() -> None:
    """A step reads its deadline in milliseconds and the state of its reruns; a repeated attempt says so."""
    clock, state = ManualClock(), RerunState(run_number=3, context={"n": 1}, callback={"b": 2}, retries=1)
    contexts = [
        build_step_context(REQUEST, clock, timeout_s=1.5, rerun_state=state, attempt=attempt) for attempt in (1, 2)
    ]

    assert contexts[0] == {
        "deadline": int(clock.now().timestamp() * 1000) + 1500,
        "JIT": True,
        "run": {"runs": 2, "context": {"n": 1}, "callback_request": {"b": 2}},
    }
    assert contexts[1] == {**contexts[0], "attempt": 2}
    deployed = build_step_context(replace(REQUEST, test=False), clock, timeout_s=1.5, rerun_state=state, attempt=1)
    assert deployed == {**contexts[0], "JIT": False}


def test_each_trigger_has_an_emitter_id() -> None:
    """The id of a trigger is its own, or derived from the workflow's name; it has the prefix of its type."""
    found = [derive_emitter_id(SCHEDULES, key) for key in trigger_keys(SCHEDULES)]

    assert found[0] == derive_emitter_id(SCHEDULES) == derive_id("ti_", "Work")
    assert [emitter[:3] for emitter in found] == ["ti_", "ti_", "ei_", "hi_"]
    assert found[3] == "hi_abc"
    assert len(set(found)) == 4


def test_trigger_keys() -> None:
    """The key of a trigger is its id, or its type with a number from the second one on."""
    assert list(trigger_keys(SCHEDULES)) == ["schedule", "schedule-2", "email", "hi_abc"]
    assert trigger_keys(SCHEDULES)["schedule-2"] is SCHEDULES.triggers[1]


def test_a_workflow_is_fired_by_a_trigger() -> None:
    """The trigger that fired is the first one; the others keep their order."""
    first, second, mail, http = SCHEDULES.triggers

    assert fired_by(SCHEDULES, mail).triggers == (mail, first, second, http)
    assert fired_by(SCHEDULES, first) is SCHEDULES

"""The built-in actions, run by the engine on real processes."""

from __future__ import annotations

from typing import Any

import pytest

from pdkernel.model import Step
from tests.builders import a_step, a_workflow, python_step
from tests.engine.conftest import Run


def action(uses: str, body: str = "", *, name: str = "act", options: str = "") -> Step:
    """A step that uses a pre-built action, its props as YAML."""
    return a_step(f"%%pdstep {name} --uses {uses} {options}".rstrip() + f"\n{body}")


def condition(kind: str, initial: str, second: str = "") -> str:
    """The props of a filter."""
    more = f"secondValue: {second}\n" if second else ""
    return f"initialValue: {initial}\ncondition: {kind}\n{more}messageOnEnd: enough\nmessageOnContinue: go\n"


HOLDS = [
    ("CONTAINS", "{{'hello'}}", "ell"),
    ("NOT_CONTAINS", "{{'hello'}}", "x"),
    ("TEXT_EQUALS", "{{5}}", "'5'"),
    ("TEXT_NOT_EQUALS", "{{'a'}}", "b"),
    ("STARTS_WITH", "{{'hello'}}", "he"),
    ("NOT_STARTS_WITH", "{{'hello'}}", "lo"),
    ("ENDS_WITH", "{{'hello'}}", "lo"),
    ("NOT_ENDS_WITH", "{{'hello'}}", "he"),
    ("GREATER_THAN", "{{10}}", "'9'"),
    ("GREATER_THAN_EQUALS", "{{1}}", "'1'"),
    ("LESS_THAN", "{{9}}", "'10'"),
    ("LESS_THAN_EQUALS", "{{1}}", "'1'"),
    ("EQUALS", "'1.0'", "'1'"),
    ("TRUE", "{{1 >= 1}}", ""),
    ("FALSE", "'false'", ""),
    ("IS_NULL", "{{steps.trigger.event.nothing}}", ""),
    ("NOT_NULL", "{{0}}", ""),
    ("IN_ARRAY", "b", '\'["a", "b"]\''),
    ("NOT_IN_ARRAY", "c", '{{["a", "b"]}}'),
    ("KEY_EXISTS", "{{({a: 1})}}", "a"),
    ("KEY_NOT_EXISTS", "{{({a: 1})}}", "b"),
]


@pytest.mark.parametrize(("kind", "initial", "second"), HOLDS, ids=[each[0] for each in HOLDS])
async def test_end_based_on_condition_ends(run: Run, kind: str, initial: str, second: str) -> None:
    """A true condition ends the workflow, with the message as the reason; later steps are skipped."""
    step = action("filter-end-based-on-condition@0.0.1", condition(kind, initial, second))

    execution = await run(step, python_step("after"))

    assert (execution.status, execution.step("after").status) == ("exited", "skipped"), execution.to_json()


FAILS = [
    ("CONTAINS", "{{'hello'}}", "x"),
    ("GREATER_THAN", "{{9}}", "'10'"),
    ("TRUE", "{{0}}", ""),
    ("IS_NULL", "{{''}}", ""),
    ("IN_ARRAY", "c", '{{["a", "b"]}}'),
]


@pytest.mark.parametrize(("kind", "initial", "second"), FAILS, ids=[each[0] for each in FAILS])
async def test_end_based_on_condition_continues(run: Run, kind: str, initial: str, second: str) -> None:
    """With a false condition the workflow continues, and the step returns the other message."""
    step = action("filter-end-based-on-condition@0.0.1", condition(kind, initial, second))

    execution = await run(step, python_step("after"))

    assert (execution.status, execution.step("act").return_value) == ("success", "go")


async def test_continue_based_on_condition(run: Run) -> None:
    """The other filter continues if the condition is true, and ends the workflow if it is false."""
    on = await run(action("filter-continue-based-on-condition@0.0.2", condition("TRUE", "{{true}}")))
    off = await run(action("filter-continue-based-on-condition@0.0.2", condition("TRUE", "{{false}}")))

    assert (on.status, off.status) == ("success", "exited")


async def test_unknown_condition(run: Run) -> None:
    """An unknown condition fails the step, and the message names the known conditions."""
    execution = await run(action("filter-end-based-on-condition@0.0.1", condition("SOMETIMES", "1")))

    error = execution.step("act").error
    assert error is not None
    assert "SOMETIMES is not a condition" in error.message
    assert "IS_NULL" in error.message


async def test_the_error_of_a_built_in_action_has_no_stack(run: Run) -> None:
    """The error of a built-in action has no stack, since the stack would name files of pdkernel."""
    execution = await run(action("filter-end-based-on-condition@0.0.1", condition("SOMETIMES", "1")))

    error = execution.step("act").error
    assert error is not None
    assert error.stack is None


async def test_end_workflow(run: Run) -> None:
    """The plain end action ends the workflow."""
    execution = await run(action("filter-end-workflow@0.0.1", "reason: done\n"), python_step("after"))

    assert execution.status == "exited"


async def test_return_http_response(run: Run) -> None:
    """The response has the values of the props, with defaults for the others."""
    step = action("http-return-http-response@0.0.3", "resStatusCode: 201\nresHeaders:\n  x-a: b\nresBody:\n  ok: 1\n")

    execution = await run(a_workflow(step, response="custom"))

    assert execution.response is not None
    assert (execution.response.status, execution.response.body) == (201, {"ok": 1})
    assert execution.response.headers["x-a"] == "b"


async def test_return_http_response_default(run: Run) -> None:
    """Without props the response is status 200 and `{"success": true}`."""
    execution = await run(a_workflow(action("http-return-http-response@0.0.3"), response="custom"))

    assert execution.response is not None
    assert (execution.response.status, execution.response.body) == (200, {"success": True})


async def test_email_to_self(run: Run) -> None:
    """The email is queued with subject, text and HTML, and is in the record of the run."""
    step = action("email-send-email-to-self@0.4.4", "subject: Hi\ntext: plain\nhtml: <b>rich</b>\n")

    execution = await run(step)

    assert execution.status == "success"
    assert "Hi" in str(execution.to_json()["steps"])


@pytest.mark.parametrize(("unit", "ms"), [("Milliseconds", 5), ("seconds", 5000), ("Hours", 5 * 3_600_000)])
async def test_delay(run: Run, unit: str, ms: int) -> None:
    """The delay action pauses the workflow for the given time, and returns the two URLs."""
    step = action("delay-delay-workflow@0.0.1", f"delayDurationValue: 5\ndelayDurationUnit: {unit}\n")

    execution = await run(step, pause_mode="skip")

    value: Any = execution.step("act").return_value
    assert set(value) == {"resume_url", "cancel_url"}
    assert execution.status == "success"


async def test_delay_too_long(run: Run) -> None:
    """A delay of more than a year fails the step."""
    step = action("delay-delay-workflow@0.0.1", "delayDurationValue: 400\ndelayDurationUnit: Days\n")

    execution = await run(step)

    error = execution.step("act").error
    assert error is not None
    assert "one year" in error.message

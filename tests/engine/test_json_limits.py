"""Warnings about integers that JavaScript rounds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pdkernel.engine.json_limits import describe_inexact_number
from pdkernel.model import JSON, Step
from tests.builders import a_workflow, bash_step, node_step, python_step
from tests.engine.conftest import Run

GREAT = 2**53 + 1


async def log_of_first(run: Run, *steps: Step) -> str:
    """Return the first step's log."""
    execution = await run(*steps)
    assert execution.status == "success", execution.error
    return "".join(log.text for log in execution.steps[0].logs)


@pytest.mark.parametrize(
    "step",
    [
        python_step("one", f'return {{"ids": [1, {GREAT}], "more": {GREAT}}}'),
        bash_step(
            "one", f'echo \'$return_value:json={{"ids": [1, {GREAT}], "more": {GREAT}}}\' >> "$PIPEDREAM_EXPORTS"'
        ),
    ],
    ids=["python", "bash"],
)
async def test_rounded_number_is_reported_once(shared_run: Run, step: Step) -> None:
    """The log of the exporting step has the path, the number and the rounded value, once."""
    text = await log_of_first(shared_run, step, node_step("two"))

    assert text.count("[pdkernel]") == 1
    assert "$return_value.ids[1] (and 1 other) is 9007199254740993" in text
    assert "read it as 9007199254740992" in text


async def test_expression_counts_as_javascript(shared_run: Run) -> None:
    """An expression in a prop below also causes the warning."""
    below = python_step("two", options="--prop 'n={{ steps.one.$return_value }}'")

    assert "9007199254740993" in await log_of_first(shared_run, python_step("one", f"return {GREAT}"), below)


@pytest.mark.parametrize(
    "steps",
    [
        (python_step("one", f"return {GREAT}"), python_step("two", 'return pd.steps["one"]["$return_value"]')),
        (python_step("one", f"return [{2**60}, 2.0**70, '{GREAT}']"), node_step("two")),
        (node_step("one", f"return {GREAT}"), node_step("two")),
    ],
    ids=["no JavaScript below", "exact", "JavaScript itself"],
)
async def test_exact_number_causes_no_warning(shared_run: Run, steps: tuple[Step, ...]) -> None:
    """Numbers that JavaScript reads exactly cause no warning."""
    assert await log_of_first(shared_run, *steps) == ""


@pytest.mark.parametrize(
    ("exports", "warning"),
    [
        ({"a": GREAT}, "a is 9007199254740993. Node.js steps and expressions read it as 9007199254740992."),
        ({"a": {"b": [GREAT]}, "c": GREAT}, "a.b[0] (and 1 other) is 9007199254740993."),
        ({"a": 10**20 + 1}, "read it as 100000000000000000000."),
        ({"a": 10**21 + 1}, "read it as 1e+21."),
        ({"a": -(10**22) - 1}, "read it as -1e+22."),
        ({"a": -(10**400)}, f"is -1{'0' * 28}... (402 digits). Node.js steps and expressions read it as -Infinity."),
        ({"a": 2**53, "b": str(GREAT)}, None),
    ],
)
def test_the_value_that_javascript_reads(exports: dict[str, JSON], warning: str | None) -> None:
    """The first number that JavaScript rounds is named as JavaScript writes it, with the number of others."""
    step = python_step("one")
    found = describe_inexact_number(a_workflow(step, node_step("two")), step, exports)

    assert found is None if warning is None else found is not None and warning in found
    disabled = replace(node_step("two"), disabled=True)
    assert describe_inexact_number(a_workflow(step, disabled), step, exports) is None
    reads_event = python_step("one", options="--prop 'n={{ steps.trigger.event.body }}'")
    assert describe_inexact_number(a_workflow(reads_event), reads_event, exports) is None


async def test_number_beyond_every_double_is_infinity(shared_run: Run) -> None:
    """JavaScript reads a number of 400 digits as Infinity; the warning has this value."""
    assert "read it as Infinity" in await log_of_first(
        shared_run, python_step("one", "return 10**400"), node_step("two")
    )

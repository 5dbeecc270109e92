"""Warnings about integers that JavaScript rounds."""

from __future__ import annotations

import pytest

from pdkernel.model import Step
from tests.builders import bash_step, node_step, python_step
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
async def test_rounded_number_is_reported_once(run: Run, step: Step) -> None:
    """The log of the exporting step has the path, the number and the rounded value, once."""
    text = await log_of_first(run, step, node_step("two"))

    assert text.count("[pdkernel]") == 1
    assert "$return_value.ids[1] (and 1 other) is 9007199254740993" in text
    assert "read it as 9007199254740992" in text


async def test_expression_counts_as_javascript(run: Run) -> None:
    """An expression in a prop below also causes the warning."""
    below = python_step("two", options="--prop 'n={{ steps.one.$return_value }}'")

    assert "9007199254740993" in await log_of_first(run, python_step("one", f"return {GREAT}"), below)


@pytest.mark.parametrize(
    "steps",
    [
        (python_step("one", f"return {GREAT}"), python_step("two", 'return pd.steps["one"]["$return_value"]')),
        (python_step("one", f"return [{2**60}, 2.0**70, '{GREAT}']"), node_step("two")),
        (node_step("one", f"return {GREAT}"), node_step("two")),
    ],
    ids=["no JavaScript below", "exact", "JavaScript itself"],
)
async def test_exact_number_causes_no_warning(run: Run, steps: tuple[Step, ...]) -> None:
    """Numbers that JavaScript reads exactly cause no warning."""
    assert await log_of_first(run, *steps) == ""


async def test_number_beyond_every_double_is_infinity(run: Run) -> None:
    """JavaScript reads a number of 400 digits as Infinity; the warning has this value."""
    assert "read it as Infinity" in await log_of_first(run, python_step("one", "return 10**400"), node_step("two"))

"""The reads of a step; `test_contract` has those of the event."""

from __future__ import annotations

import pytest

from pdkernel.language.analysis.step_reads import suggest_key
from pdkernel.model import JSON, Step
from tests.builders import node_step, python_step

VALUES: dict[str, JSON] = {
    "trigger": {"event": {"body": {"title": "t", "rows": [{"sku": 1}]}}},
    "first": {"$return_value": {"name": "n"}},
}


@pytest.mark.parametrize(
    ("step", "missing", "fix"),
    [
        (python_step("s", "return pd.steps['trigger']['event']['body']['titel']"), "titel", "Did you mean title?"),
        (python_step("s", "return pd.steps['first']['$return_value']['nam']"), "nam", "Did you mean name?"),
        (python_step("s", "return pd.steps['trigger']['event']['body']['titel']"), "other", ""),
        (python_step("s", "return pd.steps['trigger']['event']['body']['unlike']"), "unlike", ""),
        (python_step("s", "return pd.steps['trigger']['event']['body']['rows'][0]['skuu']"), "skuu", "Did you mean sku?"),
        (python_step("s", "return pd.steps['trigger']['event']['body']['title']['x']"), "x", ""),
        (node_step("s", "return steps.trigger.event.boddy.title;"), "title", "Did you mean body?"),
        (Step("s", "node", uses="a-b@1.0.0", props={"x": "{{steps.trigger.event.body.titel.x}}"}), "x", "Did you mean title?"),
        (Step("s", "node", uses="a-b@1.0.0", props={"x": "{{steps.trigger.event.body.titel.x"}), "x", ""),
        (Step("s", "bash", "jq .trigger"), "x", ""),
        (node_step("s", f"return {'(' * 3000}1{')' * 3000};"), "x", ""),
    ],
    ids=lambda value: value.language if isinstance(value, Step) else None,
)  # fmt: skip
def test_the_key_that_a_step_meant(step: Step, missing: str, fix: str) -> None:
    """The key of the values that is nearest to the missing key is suggested; code that cannot be read has no suggestion."""
    assert suggest_key(step, missing, VALUES) == fix

"""Steps that a proof cannot compare, and the steps that depend on them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pdkernel.actions import Catalog
from pdkernel.annex.proof.excluded_steps import (
    add_dependents,
    describe_unrecorded_call,
    find_unavailable_actions,
    has_unrecorded_call,
)
from pdkernel.errors import OutboundCallRefusedError
from pdkernel.execution import ErrorRecord, StepResult
from pdkernel.model import Step
from tests.builders import a_step, a_workflow, bash_step, go_step, node_step, python_step
from tests.render.builders import a_call

FIRST = python_step("first")


@pytest.mark.parametrize(
    ("step", "depends"),
    [
        (python_step("next", "return pd.steps['first']"), True),
        (python_step("next", "return pd.steps['other']"), False),
        (python_step("next", "return pd.steps[name]"), True),
        (python_step("next", "steps = pd.steps\nreturn steps"), True),
        (python_step("next", "return getattr(pd, 'steps')"), True),
        (python_step("next", "return 1"), False),
        (node_step("next", "return steps.first.x"), True),
        (node_step("next", "return steps.other.x"), False),
        (node_step("next", "return steps[name]"), True),
        (node_step("next", "return Object.keys(steps)"), True),
        (node_step("next", "// all steps\nreturn 1"), False),
        (node_step("next", "/* steps */ return 'https://steps.example'"), False),
        (bash_step("next", "echo $PIPEDREAM_STEPS"), True),
        (bash_step("next", "echo steps"), False),
        (go_step("next", 'fmt.Println(pd.Steps["first"])', "fmt"), True),
        (a_step("%%pdstep next --uses a-b@1.0.0\ntext: '{{steps.first.x}}'\n"), True),
        (a_step("%%pdstep next --uses a-b@1.0.0\ntext: '{{steps.other.x}}'\n"), False),
        (replace(node_step("next"), props={"text": "{{ 1; 2 }}"}), True),
    ],
)
def test_a_step_depends_on_what_it_reads(step: Step, depends: bool) -> None:
    """A step depends on a step that it reads by name, and on all steps above if it reads `steps` without a name."""
    found = add_dependents(a_workflow(FIRST, step), {"first": "why"})

    assert ("next" in found) is depends
    assert found["first"] == "why"


def test_dependents_of_dependents_are_excluded() -> None:
    """Exclusion follows the order of the steps; a disabled step is not excluded, and a step above is not a dependent."""
    steps = (
        python_step("above", "return pd.steps['first']"),
        FIRST,
        python_step("second", "return pd.steps['first']"),
        python_step("third", "return pd.steps['second']"),
        replace(python_step("off", "return pd.steps['first']"), disabled=True),
    )

    assert add_dependents(a_workflow(*steps), {"first": "why"}) == {
        "first": "why",
        "second": "The step depends on first, which is not compared.",
        "third": "The step depends on second, which is not compared.",
    }
    assert add_dependents(a_workflow(*steps), {}) == {}


def test_an_unrecorded_call() -> None:
    """A denied call, or the error of a refused call, excludes its step; other errors and calls do not."""
    denied = StepResult("a", "success", requests=(a_call(), a_call(method="GET", outcome="denied")))
    refused = StepResult("a", "error", error=ErrorRecord(OutboundCallRefusedError.code, "OutboundCallRefused", "m"))
    failed = StepResult(
        "a", "error", error=ErrorRecord("step_failed", "Error", "m"), requests=(a_call(outcome="failed"),)
    )

    assert [has_unrecorded_call(each) for each in (denied, refused, failed, StepResult("a", "success"))] == [
        True,
        True,
        False,
        False,
    ]
    assert describe_unrecorded_call(denied, Path("events/x.recorded.jsonl"), "pdkernel run") == (
        "GET https://slack.com/api/chat.postMessage is not in events/x.recorded.jsonl. Record the call: pdkernel run"
    )
    assert describe_unrecorded_call(refused, Path("x.recorded.jsonl"), "c").startswith("a call is not in")


def test_an_action_that_is_missing_excludes_its_step(tmp_path: Path) -> None:
    """A step whose action is not installed is excluded with the reason; a disabled step and a built-in action are not."""
    far = a_step("%%pdstep far --uses slack-send-message@0.0.20\ntext: hi\n")
    near = a_step("%%pdstep near --uses filter-end-workflow@0.0.1\nreason: x\n")
    catalog = Catalog.without_project(tmp_path / ".pdkernel", environ={})

    found = find_unavailable_actions(a_workflow(far, near, replace(far, name="off", disabled=True), FIRST), catalog)

    assert list(found) == ["far"]
    assert "slack-send-message" in found["far"]

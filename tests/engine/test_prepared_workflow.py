"""What runs of a workflow need and its events do not change."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pdkernel.engine.prepared_workflow import PreparedWorkflow, parse_definition
from pdkernel.journal.text_columns import encode_definition
from pdkernel.model import AppBinding, Step
from tests.builders import a_workflow, node_step, python_step

READS_EVENT = python_step("two", options="--prop 'n={{ steps.trigger.event.body }}'")


@pytest.mark.parametrize(
    ("below", "is_read"),
    [
        ((), False),
        ((python_step("two"),), False),
        ((node_step("two"),), True),
        ((replace(node_step("two"), disabled=True),), False),
        ((READS_EVENT,), True),
        ((python_step("three"), READS_EVENT), True),
    ],
)
def test_steps_whose_exports_javascript_reads(below: tuple[Step, ...], is_read: bool) -> None:
    """JavaScript reads the exports of a Python step above an enabled Node.js step, or above an expression."""
    prepared = PreparedWorkflow(a_workflow(python_step("one"), *below))

    assert prepared.steps["one"].is_read_by_javascript == is_read


def test_steps_whose_props_each_run_evaluates() -> None:
    """An expression, and a JavaScript object without braces in a Node.js step, is evaluated; another value is not."""
    steps = (
        READS_EVENT,
        replace(python_step("plain"), props={"n": "steps.trigger.event"}),
        replace(node_step("braces"), props={"n": "{ body: steps.trigger.event.body }"}),
        replace(node_step("text"), props={"n": "one"}),
    )
    prepared = PreparedWorkflow(a_workflow(*steps))

    assert [name for name, step in prepared.steps.items() if step.has_expressions] == ["two", "braces"]


def test_steps_that_may_use_accounts() -> None:
    """App props, actions, Go steps, and Node.js code with the word `app` may use accounts; disabled steps use none."""
    steps = (
        python_step("plain"),
        replace(python_step("bound"), apps=(AppBinding("slack", "slack", None),)),
        replace(python_step("off"), apps=(AppBinding("slack", "slack", None),), disabled=True),
        Step("go", "go"),
        node_step("node", "props: { slack: { type: 'app', app: 'slack' } },"),
        node_step("other"),
        Step("action", "node", uses="slack-send-message@0.1.0"),
    )

    assert PreparedWorkflow(a_workflow(*steps)).may_declare_apps == {"bound", "go", "node", "action"}


def test_it_is_found_once_for_a_workflow_and_again_for_a_changed_one() -> None:
    """A workflow is prepared once; a workflow with other settings is another one."""
    workflow = a_workflow(python_step("one"))
    changed = replace(workflow, settings={"lambda_timeout": 7, "lambda_memory": 512})

    assert workflow.derive(PreparedWorkflow) is workflow.derive(PreparedWorkflow)
    found = changed.derive(PreparedWorkflow)
    assert (found.steps["one"].timeout_s, found.memory_limit_mb) == (7.0, 512)
    assert workflow.derive(PreparedWorkflow).memory_limit_mb is None


def test_equal_definitions_in_the_journal_are_one_workflow() -> None:
    """Runs of one version that are continued share their workflow, so it is prepared once for them."""
    text = encode_definition(a_workflow(python_step("one")))

    assert parse_definition(text) is parse_definition(str(bytearray(text.encode()), "utf-8"))

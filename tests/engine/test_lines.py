"""Where an error is that no line of a step's code raised: on the directive, at a prop, at the `return`."""

from __future__ import annotations

from pathlib import Path

import pytest

from pdkernel.definition import read_folder_workflow
from pdkernel.execution import Execution
from pdkernel.model import Step
from tests.builders import a_step, node_step, python_step
from tests.definition.builders import synced
from tests.engine.conftest import Run

NEEDS_CHANNEL = (
    'export default defineComponent({\n  props: {\n    channel: { type: "string" },\n  },\n  run() {},\n});\n'
)


def line_of(execution: Execution, step: str = "code") -> int | None:
    """The line of the run's error, which is of *step*."""
    assert execution.error is not None
    assert execution.error.step == step
    return execution.error.line


async def test_a_missing_prop_of_code_is_missing_on_the_directive(run: Run) -> None:
    """That is where `--prop` is written; lines above the directive count."""
    step = a_step("// why\n\n%%pdstep code --lang node\n" + NEEDS_CHANNEL)

    assert line_of(await run(step)) == 3


async def test_a_missing_prop_of_an_action_is_missing_on_the_directive(run: Run) -> None:
    """The body lacks it, so no line of that can be named."""
    step = a_step("%%pdstep code --uses data_stores-get-record@0.0.5\ndataStore: cache\n")

    assert line_of(await run(step)) == 1


async def test_a_prop_that_a_built_in_action_does_not_know_is_named_by_its_line(run: Run) -> None:
    """The line of the body that gives it."""
    step = a_step("%%pdstep code --uses http-custom-request@1.1.1\nhttpRequest:\n  url: x\nmethode: GET\n")

    assert line_of(await run(step)) == 4


@pytest.mark.parametrize(
    ("cell", "line"),
    [
        ("%%pdstep code --lang node --prop 'text={{ steps.x.y.z }}'\nexport default {run() {}}", 1),
        ("# note\n%%pdstep code --prop text={{null.y}}\ndef handler(pd):\n    pass", 2),
        (
            "%%pdstep code --uses http-return-http-response@0.0.3\nresStatusCode: 200\nresBody:\n  a: 1\n  b: {{ null.x }}\n",
            5,
        ),
    ],
    ids=["node", "python", "action"],
)
async def test_an_expression_that_throws_is_named_by_its_line(run: Run, cell: str, line: int) -> None:
    """The directive's, or the line of the body that holds it, however deep."""
    step = a_step(cell)

    execution = await run(python_step("x", "pass"), step)

    assert line_of(execution) == line


async def test_an_expression_that_is_never_closed_is_named_by_its_line(run: Run) -> None:
    """It is read as an expression only when the run begins; the body of an action's cell is read with the cell."""
    step = a_step("# note\n%%pdstep code --prop 'text=a {{ b'\ndef handler(pd):\n    pass\n")

    assert line_of(await run(step)) == 2


async def test_a_prop_that_is_too_large_is_named_by_its_line(run: Run) -> None:
    """The line of the body where its value begins."""
    step = a_step(
        f"%%pdstep code --uses http-return-http-response@0.0.3\nresStatusCode: 200\nresBody: {'x' * 70_000}\n"
    )

    assert line_of(await run(step)) == 3


@pytest.mark.parametrize(
    ("step", "line"),
    [
        (python_step(body="def inner():\n    return 1\nif pd:\n    return {1, 2}"), 6),
        (node_step(body="const f = () => { return 1; };\nreturn 1n;"), 5),
        (a_step("%%pdstep code --lang node\nexport default {\n  run: async () => 1n,\n};"), 3),
        (python_step(body="pd.export('a', object())\nreturn {1}"), 3),
        (python_step(body="if pd is None:\n    return 1\nreturn {1}"), None),
    ],
    ids=["python", "node", "node-arrow", "export", "several"],
)
async def test_a_value_that_is_not_json_is_named_by_its_return(run: Run, step: Step, line: int | None) -> None:
    """The only `return` of the handler, not those of functions in it; of several none is named."""
    assert line_of(await run(step)) == line


async def test_a_synced_folder_names_its_own_files(run: Run, tmp_path: Path) -> None:
    """The declaration in the entry file for a missing prop; the line of workflow.yaml for a wrong one."""
    folder = synced(
        tmp_path / "w-p_1",
        "schema: workflow/2022.04\nname: W\ntriggers:\n- id: hi_1\nsteps:\n- namespace: code\n  runtime: nodejs20.x\n"
        '  uses: "./code/entry.js"\n  props:\n    other: "{{ steps.trigger.x.y }}"\n',
        code__entry_DOT_js=NEEDS_CHANNEL,
    )
    workflow = read_folder_workflow(folder)
    missing = workflow.with_step(Step("code", "node", NEEDS_CHANNEL, props_file="workflow.yaml"))

    thrown = await run(workflow)
    absent = await run(missing)

    assert line_of(thrown) is None
    assert thrown.error is not None
    assert "The prop other (workflow.yaml, line 10) cannot be evaluated" in thrown.error.message
    assert line_of(absent) == 3

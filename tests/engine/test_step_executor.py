"""Lines of errors that no line of a step's code raised: the directive, a prop, the `return`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from pdkernel.engine.step_executor import Service, StepServiceRouter
from pdkernel.errors import StepError
from pdkernel.execution import Execution
from pdkernel.files.definition import read_folder_workflow
from pdkernel.model import JSON, Step
from tests.builders import a_step, an_event, node_step, python_step, with_step
from tests.engine.conftest import Run
from tests.files.definition.builders import synced

NEEDS_CHANNEL = (
    'export default defineComponent({\n  props: {\n    channel: { type: "string" },\n  },\n  run() {},\n});\n'
)


def line_of(execution: Execution, step: str = "code") -> int | None:
    """Return the line of the run's error, which belongs to *step*."""
    assert execution.error is not None
    assert execution.error.step == step
    return execution.error.line


async def test_missing_prop_of_code_has_the_line_of_the_directive(shared_run: Run) -> None:
    """A missing prop of a code step is an error at the directive; lines above the directive count."""
    step = a_step("// why\n\n%%pdstep code --lang node\n" + NEEDS_CHANNEL)

    assert line_of(await shared_run(step)) == 3


async def test_missing_prop_of_an_action_has_the_line_of_the_directive(shared_run: Run) -> None:
    """A missing prop of an action is an error at the directive."""
    step = a_step("%%pdstep code --uses data_stores-get-record@0.0.5\ndataStore: cache\n")

    assert line_of(await shared_run(step)) == 1


async def test_unknown_prop_of_a_built_in_action_has_its_line(shared_run: Run) -> None:
    """A prop that a built-in action does not have is an error at its line of the body."""
    step = a_step("%%pdstep code --uses http-custom-request@1.1.1\nhttpRequest:\n  url: x\nmethode: GET\n")

    assert line_of(await shared_run(step)) == 4


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
async def test_throwing_expression_has_its_line(shared_run: Run, cell: str, line: int) -> None:
    """An expression that throws is an error at its line: the directive's or the body's, at every depth."""
    step = a_step(cell)

    execution = await shared_run(python_step("x", "pass"), step)

    assert line_of(execution) == line


async def test_unclosed_expression_has_its_line(shared_run: Run) -> None:
    """An unclosed expression is an error at its line when the run starts; for an action when the cell is read."""
    step = a_step("# note\n%%pdstep code --prop 'text=a {{ b'\ndef handler(pd):\n    pass\n")

    assert line_of(await shared_run(step)) == 2


async def test_too_large_prop_has_its_line(shared_run: Run) -> None:
    """A prop that is too large is an error at the first line of its value."""
    step = a_step(
        f"%%pdstep code --uses http-return-http-response@0.0.3\nresStatusCode: 200\nresBody: {'x' * 70_000}\n"
    )

    assert line_of(await shared_run(step)) == 3


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
async def test_invalid_return_value_has_the_line_of_the_return(shared_run: Run, step: Step, line: int | None) -> None:
    """A return value that is not JSON is an error at the handler's only `return`; with several there is no line."""
    assert line_of(await shared_run(step)) == line


async def test_errors_of_a_synced_folder_name_its_files(run: Run, tmp_path: Path) -> None:
    """In a synced folder, errors name the entry file for a missing prop and workflow.yaml for a wrong prop."""
    folder = synced(
        tmp_path / "w-p_1",
        "schema: workflow/2022.04\nname: W\ntriggers:\n- id: hi_1\nsteps:\n- namespace: code\n  runtime: nodejs20.x\n"
        '  uses: "./code/entry.js"\n  props:\n    other: "{{ steps.trigger.x.y }}"\n',
        code__entry_DOT_js=NEEDS_CHANNEL,
    )
    workflow = read_folder_workflow(folder)
    missing = with_step(workflow, Step("code", "node", NEEDS_CHANNEL, props_file="workflow.yaml"))

    thrown = await run(workflow)
    absent = await run(missing)

    assert line_of(thrown) is None
    assert thrown.error is not None
    assert "The prop other (workflow.yaml, line 10) cannot be evaluated" in thrown.error.message
    assert line_of(absent) == 3


class Echo:
    """A service that returns what it was asked."""

    async def answer(self, operation: str, args: Mapping[str, JSON]) -> JSON:
        """Return the operation and the arguments."""
        return [operation, dict(args)]


async def test_a_call_reaches_its_service() -> None:
    """A call names a service and an operation; services are built once, and an unknown service is an error of the step."""
    built: list[bool] = []

    def build() -> Mapping[str, Service]:
        built.append(True)
        return {"store": Echo()}

    router = StepServiceRouter(build)

    assert [await router.call(call, {"a": 1}) for call in ("store.get", "store.a.b")] == [
        ["get", {"a": 1}],
        ["a.b", {"a": 1}],
    ]
    assert built == [True]
    with pytest.raises(StepError, match=r"This version does not support files\.open\.") as refused:
        await router.call("files.open", {})
    assert refused.value.name == "UnsupportedError"


@pytest.mark.parametrize(("end", "is_paused"), [("raise ValueError('own')", False), ("return 1", True)])
async def test_a_failed_step_does_not_pause(shared_run: Run, end: str, is_paused: bool) -> None:
    """A step that fails after it has requested a pause fails the run, and its log has no word about a pause."""
    execution = await shared_run(python_step("code", f"pd.flow.delay(60000)\n{end}"), pause_mode="park")

    assert execution.status == ("paused" if is_paused else "error")
    assert any("the run is paused" in log.text for log in execution.step("code").logs) == is_paused


PROOF = Path(__file__).parents[1] / "files" / "definition" / "projects" / "proof-filter-p_F1lt3rs"


@pytest.mark.parametrize(
    ("body", "ends_at", "reason"),
    [
        ({"name": "A Proof", "draft": False}, None, None),
        (
            {"name": "None", "draft": "false"},
            "filter",
            'this rule does not hold: "None" contains "Proof" and ("false" is false or undefined equals undefined)',
        ),
        ({"name": "Proof", "draft": True, "kind": 5}, "filter", "does not hold"),
        ({"name": "Proof", "draft": False, "amount": "1000"}, "filter_1", 'holds: "1000" is greater than "100"'),
    ],
)
async def test_filter_steps_of_the_builder(
    shared_run: Run, body: JSON, ends_at: str | None, reason: str | None
) -> None:
    """The builder's Filter steps of a synced folder end the run by their rules, with the evaluated operands as the reason."""
    workflow = read_folder_workflow(PROOF)

    execution = await shared_run(workflow, event=an_event(body, query={}))

    assert execution.status == ("success" if ends_at is None else "exited"), execution.to_json()
    assert (execution.step("notify").status == "skipped") == (ends_at is not None)
    if ends_at is not None:
        assert reason is not None
        assert reason in execution.step(ends_at).logs[-1].text


async def test_unknown_rule_is_refused_before_the_first_step(shared_run: Run) -> None:
    """A cell with an unknown operator is refused with its name, and no step runs."""
    step = a_step("%%pdstep only --uses filter-rules@0.0.1\n_filter:\n  rules: {t: and, r: [{a: 1, op: geo~, b: 2}]}\n")

    execution = await shared_run(python_step("before"), step)

    assert execution.error is not None
    assert "'geo~', which pdkernel does not know" in execution.error.message
    assert execution.step("before").status == "not_run"


async def test_missing_value_of_a_rule_does_not_exist(shared_run: Run) -> None:
    """An operand that the event does not have does not exist, and one that is null does."""
    rules = "{t: and, r: [{a: '{{steps.trigger.event.body.none}}', op: '!exists'}, {a: '{{null}}', op: exists}]}"
    step = a_step(f"%%pdstep only --uses filter-rules@0.0.1\n_filter:\n  rules: {rules}\n")

    assert (await shared_run(step, python_step("after"))).status == "success"


async def test_old_call_of_a_component_has_a_hint(shared_run: Run) -> None:
    """The error of a component that calls a function of the first version says what to write instead, with the cell's line."""
    execution = await shared_run(node_step(body='await 1;\n$end("enough");'))

    assert execution.error is not None
    fix = getattr(execution.error, "fix", "") or execution.error.message
    assert 'instead of $end: return $.flow.exit("enough")' in fix
    assert f"line {execution.error.line}," in fix

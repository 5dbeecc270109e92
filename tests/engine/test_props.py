"""Evaluation of props, and warnings about props that a step sets and its code does not declare."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pdkernel.engine.props import add_option_labels
from pdkernel.errors import InterpreterMissingError
from pdkernel.language.analysis import responds
from pdkernel.model import JSON, ROUND_TRIP_KEY, Step
from tests.builders import a_workflow, an_event, bash_step, node_step, python_step
from tests.engine.conftest import Run, error_of

DECLARED = "{ channel: { type: 'string', optional: true }, slack: { type: 'app', app: 'slack' } }"
ADDING = "{ a: { type: 'string', optional: true, reloadProps: true } }, async additionalProps() { return {}; }"


@pytest.mark.parametrize(
    ("step", "warning"),
    [
        (node_step(props=DECLARED, options="--prop chanel=x"), "declares no prop 'chanel'"),
        (node_step(props=DECLARED, options="--prop chanel=x"), "Did you mean channel?"),
        (node_step(props=DECLARED, options="--prop q=x"), "Known: channel, slack."),
        (node_step(options="--prop q=x"), "declares no props, but the step sets q."),
        (bash_step(options="--prop q=x"), "A Bash step has no props: it does not receive q."),
    ],
    ids=["name", "nearest", "known", "none", "bash"],
)
async def test_undeclared_prop_is_a_warning(run: Run, connect: object, step: Step, warning: str) -> None:
    """The warning suggests the nearest declared prop; the step still gets the value."""
    assert callable(connect)
    connect()

    execution = await run(step, external_user_id="ada")

    assert execution.step("code").status == "success"
    assert warning in execution.step("code").output


@pytest.mark.parametrize(
    "step",
    [
        node_step(props="{ channel: { type: 'string' } }", options="--prop channel=x"),
        node_step(props=ADDING, options="--prop other=x"),
        python_step(options="--prop q=x"),
    ],
    ids=["declared", "additional", "python"],
)
async def test_other_props_cause_no_warning(shared_run: Run, step: Step) -> None:
    """Declared props, props of steps with additional props, and props of Python steps cause no warning."""
    assert (await shared_run(step)).step("code").output == ""


async def test_rerun_does_not_repeat_the_warning(shared_run: Run) -> None:
    """A step that reruns logs the warning only at its first attempt."""
    step = node_step(body="if ($.context.run.runs < 3) $.flow.rerun(0);", options="--prop q=x")

    execution = await shared_run(step, pause_mode="skip")

    assert execution.step("code").attempt == 3
    assert execution.step("code").output.count("declares no props") == 1


async def test_python_workflow_with_plain_paths_needs_no_node(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Python workflow whose props are plain paths runs where Node.js is not installed; another expression needs it."""
    monkeypatch.setenv("PDKERNEL_NODE", str(tmp_path / "missing"))
    first = python_step("a", "return {'items': [1, 2]}")
    props = "--prop q={{steps.a.$return_value.items[1]}} --prop text='is {{event.body.name}}'"

    execution = await run(first, python_step("b", "return pd.inputs", options=props), event=an_event({"name": "Ada"}))

    assert execution.step("b").exports["$return_value"] == {"q": 2, "text": "is Ada"}
    other = await run(first, python_step("b", options="--prop q={{steps.a.$return_value.items.at(1)}}"))
    assert other.error is not None
    assert other.error.code == InterpreterMissingError.code


async def test_props_are_recorded_as_the_step_receives_them(shared_run: Run) -> None:
    """The record has the evaluated props, redacted; a secret prop is a mask, and a very large one its size."""
    options = (
        "--prop q={{steps.trigger.event.body.name}} --prop key={{process.env.TOKEN}} "
        """--prop 'secret={"_enc": "x"}' --prop big={{steps.trigger.event.body.big}}"""
    )

    execution = await shared_run(
        python_step(options=options),
        python_step("without"),
        event=an_event({"name": "Ada", "big": "x" * 70_000}),
        variables={"TOKEN": "tk-0123456789abcdef", "code.secret": "1234"},
    )

    assert execution.error is None
    assert execution.step("code").props == {
        "q": "Ada",
        "key": "\u27e6secret:env/TOKEN\u27e7",
        "secret": "***",
        "big": "(70,002 bytes, not recorded)",
    }
    assert "props" not in execution.step("without").to_json()


async def test_failed_path_names_the_prop(shared_run: Run) -> None:
    """A path that reads a property of undefined fails with the error of JavaScript, the prop and the expression."""
    error = error_of(
        await shared_run(python_step(options="--prop q={{event.body.missing.name}}"), event=an_event({})), "code"
    )

    assert error.name == "TypeError"
    assert error.message.endswith(
        "{{event.body.missing.name}} fails with TypeError: Cannot read properties of undefined (reading 'name')"
    )


async def test_files_of_a_step_read_variables_and_declare_props(run: Run, connect: object) -> None:
    """A file that a step imports reads the workflow's variables, declares app props and data stores, and responds."""
    assert callable(connect)
    connect()
    props = "{ slack: { type: 'app', app: 'slack' }, store: { type: 'data_store' } }"
    shared = (
        f"export const props = {props};\nexport const token = () => process.env.TOKEN;\n"
        "export const answer = ($) => $.respond({ status: 201, body: 'from a file' });\n"
    )
    code = (
        "import { answer, props, token } from './shared.mjs';\nexport default { props, async run({ $ }) {\n"
        "await answer($); await this.store.set('n', 1); return [token(), this.slack.$auth.oauth_access_token.length] } }"
    )
    node = Step("node", "node", code, files={"shared.mjs": shared})
    python = Step(
        "python",
        source="from helper import token\ndef handler(pd):\n    return token()\n",
        files={"helper.py": "import os\ndef token():\n    return os.environ['TOKEN']\n"},
    )

    execution = await run(
        a_workflow(node, python, response="custom"), external_user_id="ada", variables={"TOKEN": "value-of-it"}
    )

    assert execution.error is None, execution.error
    assert execution.response is not None
    assert (execution.response.status, responds(node)) == (201, "maybe")
    assert execution.step("node").return_value == ["⟦secret:env/TOKEN⟧", len("xoxb-0123456789")]
    assert execution.step("python").return_value == "⟦secret:env/TOKEN⟧"


def test_labels_of_picked_options() -> None:
    """A Node.js step gets the labels of options that were picked in the builder, unless an expression gave the prop another value."""
    label: JSON = {"__lv": {"label": "One", "value": 1}}
    written: dict[str, tuple[JSON, JSON]] = {
        "one": (1, label),
        "many": ([1, 2], [label, 2]),
        "changed": ("{{ n }}", label),
        "inside": ({"a": 1}, {"a": label}),
    }
    step = Step(
        "code",
        "node",
        props={name: value for name, (value, _) in written.items()} | {"plain": 3},
        extra={
            ROUND_TRIP_KEY: {
                "picked": {name: {"value": value, "written": kept} for name, (value, kept) in written.items()}
            }
        },
    )
    props = {**step.props, "changed": 2}

    assert add_option_labels(step, props) == {**props, "one": label, "many": [label, 2]}
    assert add_option_labels(replace(step, language="python"), props) == props

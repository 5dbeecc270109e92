"""Runs with real workers and a real journal."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pdkernel.accounts import LocalDirectory
from pdkernel.egress import parse_policy
from pdkernel.engine.run_request import RunRequest, RunWatcher, TestOptions
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.event import Event
from pdkernel.execution import Execution
from pdkernel.model import Step
from pdkernel.storage import Grant, Project
from tests.builders import Gate, a_step, a_workflow, an_event, bash_step, node_step, python_step, skip_time
from tests.engine.conftest import Run, error_of
from tests.http_servers import Answer, AnsweringServer, SentRequest, serve


def statuses(execution: Execution) -> dict[str, str]:
    """Step name to status."""
    return {step.name: step.status for step in execution.steps}


async def test_exports_pass_through_three_languages(shared_run: Run) -> None:
    """A step reads the exports of steps above it in all languages."""
    execution = await shared_run(
        python_step("one", 'return {"n": pd.steps["trigger"]["event"]["body"]["n"] + 1}'),
        node_step("two", "return steps.one.$return_value.n + 1"),
        bash_step(
            "three", 'echo "n=$(grep -o \'"two": *{[^}]*}\' "$PIPEDREAM_STEPS" | tr -dc 0-9)" >> "$PIPEDREAM_EXPORTS"'
        ),
        python_step("four", 'return int(pd.steps["three"]["n"]) + 1'),
        event=an_event({"n": 1}),
    )

    assert execution.status == "success", execution.error
    assert execution.step("two").return_value == 3
    assert execution.step("four").return_value == 4


async def test_process_serves_one_external_user(shared_run: Run) -> None:
    """Two users, and runs without a user, have separate processes, although no step uses an account, unless the settings have `share_workers: always`."""
    step = python_step("one", "import os\nreturn os.getpid()")
    own = [(await shared_run(step, external_user_id=user)).step("one") for user in ("ada", "grace", None, "ada")]
    workflow = a_workflow(step, share_workers="always")
    shared = [(await shared_run(workflow, external_user_id=user)).step("one") for user in ("ada", "grace", None)]

    assert len({each.return_value for each in own}) == 3
    assert own[0].return_value == own[3].return_value
    assert len({each.return_value for each in shared}) == 1
    note = "[pdkernel] share_workers: always. The processes of this run also serve other external users.\n"
    assert ["".join(log.text for log in each.logs) for each in shared] == [note, note, ""]


@pytest.mark.parametrize(
    ("step", "name", "line"),
    [
        (python_step("one", "count = 0\nreturn 7 / count"), "ZeroDivisionError", 4),
        (node_step("one", "const x = null;\nreturn x.y;"), "TypeError", 5),
    ],
    ids=["python", "node"],
)
async def test_failure_ends_the_run(shared_run: Run, step: Step, name: str, line: int) -> None:
    """Steps after a failed step are skipped, and the run's error is the step's, with the line of the cell and the locals of Python."""
    execution = await shared_run(step, python_step("two"))

    assert statuses(execution) == {"one": "error", "two": "skipped"}
    assert execution.status == "error"
    assert execution.error is not None
    assert (execution.error.name, execution.error.step, execution.error.line) == (name, "one", line)
    error = execution.step("one").error
    assert error is not None
    assert error.line == line
    assert ("count = 0\n" in (error.stack or "")) == (step.language == "python")


@pytest.mark.parametrize(
    "step",
    [
        python_step("one", 'print("before")\nreturn pd.flow.exit("enough")\nprint("after")'),
        node_step("one", 'console.log("before"); return $.flow.exit("enough"); console.log("after");'),
    ],
    ids=["python", "node"],
)
async def test_exit_ends_the_run_as_exited(shared_run: Run, step: Any) -> None:
    """`return flow.exit()` ends the step and the run at once, without an error and with the reason."""
    execution = await shared_run(step, python_step("two"))

    assert execution.status == "exited"
    assert statuses(execution) == {"one": "success", "two": "skipped"}
    logs = {log.stream: log.text for log in execution.step("one").logs}
    assert logs == {"stdout": "before\n", "stderr": "[pdkernel] The run ends after this step: enough\n"}


@pytest.mark.parametrize(("ending", "status"), [("pd.flow.exit('enough')", "skipped"), ("pass", "success")])
async def test_an_unreadable_cell_fails_a_run_that_goes_on(shared_run: Run, ending: str, status: str) -> None:
    """A run with a step that cannot be read runs its other steps, and is an error, also if a step ends the run."""
    broken = Step("broken", problem=("There is no option --lng.", 1), cell_index=0)

    execution = await shared_run(broken, python_step("one", ending), python_step("two"))

    assert statuses(execution) == {"broken": "error", "one": "success", "two": status}
    assert execution.status == "error"
    assert execution.error is not None
    assert (execution.error.step, execution.error.message) == ("broken", "There is no option --lng.")


async def test_a_damaged_recording_refuses_the_run(run: Run, tmp_path: Path) -> None:
    """A recording that cannot be replayed is reported before the first step, also if no step makes a call."""
    recording = tmp_path / "calls.jsonl"
    recording.write_text("<<<<<<< HEAD\n")

    execution = await run(python_step("one"), egress=f"replay={recording}")

    assert statuses(execution) == {"one": "not_run"}
    assert execution.error is not None
    assert "calls.jsonl" in execution.error.message


async def test_steps_that_were_not_selected_are_not_skipped(shared_run: Run) -> None:
    """After a failure the selected steps are skipped; a step that the caller did not select is not."""
    steps = python_step("one", "1 / 0"), python_step("two"), python_step("three")

    execution = await shared_run(*steps, options=TestOptions(only_steps=frozenset({"one", "three"})))

    assert statuses(execution) == {"one": "error", "two": "not_run", "three": "skipped"}


async def test_refused_runs_leave_room_for_others(project: Project, directory: LocalDirectory) -> None:
    """A run that is refused when its workers are reserved gives them back."""
    refused = RunRequest(
        a_workflow(python_step("one", options="--app slack")),
        an_event(),
        parse_policy("deny"),
        external_user_id="nobody",
    )
    async with await WorkflowEngine.start(project, directory, max_active_runs=1) as engine:
        statuses_of = [(await engine.run(refused)).status for _ in range(2)]
        async with asyncio.timeout(60):
            last = await engine.run(RunRequest(a_workflow(python_step("one")), an_event(), parse_policy("deny")))

    assert (statuses_of, last.status) == (["error", "error"], "success")


async def test_bare_exit_lets_the_step_finish(shared_run: Run) -> None:
    """`pd.flow.exit()` without `return` ends the run only after the rest of the step."""
    execution = await shared_run(
        python_step("one", 'pd.flow.exit("later")\nprint("after")\nreturn 5'), python_step("two")
    )

    assert execution.status == "exited"
    assert execution.step("one").return_value == 5


async def test_disabled_and_pinned_steps_do_not_run(shared_run: Run) -> None:
    """A disabled step exports nothing; a pinned step exports its pinned values."""
    execution = await shared_run(
        python_step("off", 'raise ValueError("ran")', options="--disabled"),
        python_step("fixed", 'raise ValueError("ran")'),
        python_step("last", 'return [pd.steps["fixed"]["$return_value"], "off" in pd.steps]'),
        options=TestOptions(pinned_exports={"fixed": {"$return_value": 7}}),
    )

    assert statuses(execution) == {"off": "disabled", "fixed": "pinned", "last": "success"}
    assert execution.step("last").return_value == [7, False]


async def test_selected_step_runs_on_earlier_exports(shared_run: Run) -> None:
    """A selected step runs alone, with earlier exports of the steps above."""
    execution = await shared_run(
        python_step("one", 'raise ValueError("ran")'),
        python_step("two", 'return pd.steps["one"]["$return_value"] + 1'),
        options=TestOptions(only_steps=frozenset({"two"}), previous_exports={"one": {"$return_value": 41}}),
    )

    assert statuses(execution) == {"one": "not_run", "two": "success"}
    assert execution.step("two").return_value == 42


async def test_custom_response_is_the_first_response(shared_run: Run) -> None:
    """The custom response is the first response of a step."""
    workflow = a_workflow(
        python_step("one", 'pd.respond({"status": 201, "headers": {"x-a": "1"}, "body": {"ok": True}})'),
        node_step("two", "await $.respond({ status: 500, body: 'late' })"),
        response="custom",
    )

    execution = await shared_run(workflow)

    assert execution.response is not None
    assert execution.response.to_json() == {"status": 201, "headers": {"x-a": "1"}, "body": {"ok": True}}


@pytest.mark.parametrize("body", ["return 1", "1 / 0"], ids=["never responded", "failed first"])
async def test_missing_custom_response_is_400(shared_run: Run, body: str) -> None:
    """If no step sends the custom response, the caller gets the platform's 400."""
    execution = await shared_run(a_workflow(python_step("one", body), response="custom"))

    assert execution.response is not None
    assert (execution.response.status, execution.response.body) == (400, "No $.respond called in workflow")


async def test_response_without_custom_mode_is_a_warning(shared_run: Run) -> None:
    """A response that the trigger does not send causes a warning in the step's log."""
    execution = await shared_run(python_step("one", 'pd.respond({"status": 200, "body": 1})'))

    assert execution.response is None
    assert "response: custom" in execution.step("one").logs[-1].text


async def test_time_out_ends_the_step(shared_run: Run) -> None:
    """A step that exceeds its time limit fails with `timeout`, and its earlier exports are recorded."""
    exported = asyncio.Event()

    def on_change(execution: Execution) -> None:
        if execution.step("one").exports:
            exported.set()

    stuck = python_step("one", 'pd.export("a", 1)\nimport time\ntime.sleep(1000)', options="--timeout 100")
    running = asyncio.ensure_future(shared_run(stuck, on_change=on_change))
    await asyncio.wait_for(exported.wait(), 60)

    await skip_time(100)
    execution = await running

    step = execution.step("one")
    assert step.error is not None
    assert step.error.code == "timeout"
    assert step.exports == {"a": 1}


async def test_expression_has_the_time_limit_of_its_step(shared_run: Run) -> None:
    """An endless expression is ended at the step's time limit, and the message names the limit."""
    step = node_step("one", "return 1", options='--timeout 1 --prop "n={{(() => { for (;;); })()}}"')
    error = error_of(await shared_run(step), "one")
    assert error.code == "timeout"
    assert "longer than 1 second and" in error.message


async def test_workflow_continues_after_bash_exit(shared_run: Run) -> None:
    """`exit 1` in Bash ends that step only."""
    execution = await shared_run(bash_step("one", "exit 1"), python_step("two"))

    assert execution.status == "success"
    assert "exit" in "".join(log.text for log in execution.step("one").logs)


@pytest.mark.parametrize(
    ("steps", "code", "text"),
    [
        ([python_step("one", 'import os\nreturn os.environ["API_KEY"]')], "variable_missing", "pdkernel env set API_KEY"),
        ([a_step("%%pdstep one --lang bash --data-store store\ntrue\n")], "unsupported", "data store"),
        ([a_step("%%pdstep one --lang go --data-store store\npackage main\nfunc main() {}\n")], "unsupported", "data store"),
        ([a_step("%%pdstep one\nx = 1\n")], "entry_point", ""),
        ([a_step("%%pdstep one --lang node\nconst x = 1;\n")], "entry_point", ""),
        ([python_step("one", 'return pd.steps["two"]'), python_step("two")], "step_order", ""),
    ],
    ids=["a missing variable", "a data store in Bash", "a data store in Go", "no handler", "no default export", "reads a step below"],
)  # fmt: skip
async def test_invalid_workflow_is_refused_before_any_step(
    shared_run: Run, steps: list[Step], code: str, text: str
) -> None:
    """An invalid workflow is refused with its own error code, and no step starts; the message names what to do instead."""
    execution = await shared_run(*steps)

    assert execution.error is not None
    assert execution.error.code == code
    assert text in execution.error.message
    assert set(statuses(execution).values()) == {"not_run"}


@pytest.mark.parametrize(
    "step",
    [
        python_step("one", 'return len(pd.inputs["key"])', options="""--prop 'key={"_enc": "x"}'"""),
        node_step(
            "one",
            "return this.key.length",
            props="{ key: { type: 'string' } }",
            options="""--prop 'key={"_enc": "x"}'""",
        ),
    ],
    ids=["python", "node"],
)
async def test_step_gets_the_value_of_a_secret_prop(shared_run: Run, step: Any) -> None:
    """Without a value, the run is refused before its first step; a value with braces is not an expression."""
    refused = await shared_run(step)
    execution = await shared_run(step, variables={"one.key": "{{steps.none}}-0123"})
    pinned = await shared_run(step, options=TestOptions(pinned_exports={"one": {"$return_value": 1}}))

    assert refused.error is not None
    assert refused.error.code == "secret_missing"
    assert "pdkernel secrets set SOURCE one key" in refused.error.message
    assert statuses(refused) == {"one": "not_run"}
    assert execution.step("one").exports == {"$return_value": len("{{steps.none}}-0123")}
    assert statuses(pinned) == {"one": "pinned"}


@pytest.mark.parametrize(
    ("step", "defined"),
    [
        (python_step("one", 'import os\nreturn [os.environ["TOKEN"], os.environ.get("UNNA" + "MED")]'), ()),
        (node_step("one", "return [process.env.TOKEN, process.env['UNNA' + 'MED'] ?? null]"), ()),
        (python_step("one", "import os\nreturn [os.environ.get(a + b) for a, b in (('TO', 'KEN'), ('UNNA', 'MED'))]"), ("TOKEN",)),
    ],
    ids=["named by Python code", "named by Node.js code", "named by the definition"],
)  # fmt: skip
async def test_step_gets_the_variables_that_the_workflow_names(
    shared_run: Run, step: Step, defined: tuple[str, ...]
) -> None:
    """A workflow gets only the variables that its code or `pdkernel.yaml` names; they are redacted in the record."""
    workflow = replace(a_workflow(step), variables=defined)

    execution = await shared_run(workflow, variables={"TOKEN": "tok-0123456789", "UNNAMED": "nobody-names-this"})

    assert execution.step("one").return_value == ["⟦secret:env/TOKEN⟧", None]


async def test_expression_keeps_its_type(shared_run: Run) -> None:
    """A prop that is one whole expression keeps the type of its value; inside other text the value becomes text. The error of one that throws names prop and expression."""
    step = a_step("""
        %%pdstep one --prop n={{steps.trigger.event.body.n}} --prop text="n is {{steps.trigger.event.body.n + 1}}"
        def handler(pd):
            return [pd.inputs["n"], pd.inputs["text"]]
    """)
    throwing = a_step("%%pdstep one --prop n={{event.nothing.x}}\ndef handler(pd):\n    return 1\n")

    execution = await shared_run(step, event=an_event({"n": 5}))
    error = (await shared_run(throwing)).step("one").error

    assert execution.step("one").return_value == [5, "n is 6"]
    assert error is not None
    assert "prop n" in error.message
    assert "event.nothing.x" in error.message


async def test_record_in_the_journal_is_the_execution(run: Run, runtime: WorkflowEngine) -> None:
    """The journal returns the execution that the run returned."""
    execution = await run(python_step("one", 'print("hi")\nreturn {"a": [1, None, "ü"]}'), node_step("two"))

    kept = await runtime.journal.get_execution(execution.id)

    assert kept is not None
    assert kept.to_json()["steps"] == execution.to_json()["steps"]
    assert kept.status == execution.status


async def test_cancelling_ends_the_step_and_keeps_the_record(runtime: WorkflowEngine, tmp_path: Path) -> None:
    """A cancelled run returns its execution; the running step has an error and later steps are skipped."""
    gate = Gate(tmp_path)
    request = RunRequest(
        a_workflow(python_step("one", gate.code), python_step("two")),
        an_event(),
        parse_policy("deny"),
    )
    task = asyncio.create_task(runtime.run(request))
    await gate.wait_until_reached()

    task.cancel()
    execution = await task

    assert execution.status == "cancelled"
    assert statuses(execution) == {"one": "error", "two": "skipped"}


async def test_growing_record_is_published(runtime: WorkflowEngine) -> None:
    """`on_change` receives the growing record: first the running step, last the whole run."""
    received: list[Execution] = []
    request = RunRequest(a_workflow(python_step("one"), python_step("two")), an_event(), parse_policy("deny"))

    execution = await runtime.run(request, RunWatcher(on_change=received.append))

    assert received[0].step("one").status == "not_run"
    assert received[0].step("one").started_at is not None
    assert received[-1] == execution


async def test_output_is_published_while_the_step_runs(runtime: WorkflowEngine) -> None:
    """Output of a step is published while the step still works."""
    printed = asyncio.Event()

    def on_change(execution: Execution) -> None:
        if execution.step("two").logs and execution.step("two").duration_ms is None:
            printed.set()

    printing = python_step("two", 'import time\nprint("on", flush=True)\ntime.sleep(60)', options="--timeout 60")
    request = RunRequest(a_workflow(python_step("one"), printing), an_event(), parse_policy("deny"))
    task = asyncio.create_task(runtime.run(request, RunWatcher(on_change=on_change)))

    await asyncio.wait_for(printed.wait(), 60)

    task.cancel()
    assert (await task).step("two").logs[0].text == "on\n"


async def test_context_has_the_platforms_keys(shared_run: Run) -> None:
    """`steps.trigger.context` has the platform's nineteen keys in its order."""
    execution = await shared_run(python_step("one", 'return list(pd.steps["trigger"]["context"])'))

    assert execution.step("one").return_value == [
        "id", "ts", "pipeline_id", "workflow_id", "deployment_id", "source_type", "verified", "hops", "test", "replay",
        "owner_id", "platform_version", "workflow_name", "resume", "emitter_id", "external_user_id",
        "external_user_environment", "trace_id", "project_id",
    ]  # fmt: skip


async def test_secret_header_of_the_event_is_in_no_record(shared_run: Run) -> None:
    """A step gets the event's authorization header unchanged; its output and exports are recorded with a placeholder."""
    event = Event({"headers": {"Authorization": "Bearer header-token-0123456789"}})
    code = """def handler(pd):
    value = pd.steps["trigger"]["event"]["headers"]["Authorization"]
    print(value)
    return [value, len(value)]
"""

    execution = await shared_run(Step("only", source=code), event=event)

    step = execution.steps[0]
    assert step.exports["$return_value"] == ["Bearer ⟦secret:event/authorization⟧", 30]
    assert "".join(log.text for log in step.logs) == "Bearer ⟦secret:event/authorization⟧\n"
    assert "header-token" not in json.dumps(execution.to_json())
    assert execution.event["headers"] == {"Authorization": "***"}


async def test_secret_header_of_any_length_is_masked(run: Run, runtime: WorkflowEngine) -> None:
    """The record does not show a secret header that is too short to be searched for."""
    execution = await run(python_step("one"), event=Event({"headers": {"X-Api-Key": "abc", "accept": "abc"}}))
    kept = await runtime.journal.get_execution(execution.id)

    assert kept is not None
    for each in (execution, kept):
        assert each.event["headers"] == {"X-Api-Key": "***", "accept": "abc"}


async def test_refused_run_has_its_end_in_the_journal(run: Run, runtime: WorkflowEngine) -> None:
    """The end of a run is written after its start, even for a run that is refused at once."""
    refused = [await run(a_workflow(python_step(options="--app slack"), name=f"W{number}")) for number in range(10)]
    kept = [await runtime.journal.get_execution(execution.id) for execution in refused]

    assert [execution and execution.status for execution in kept] == ["error"] * 10


async def test_callbacks_get_the_commit_and_the_response(run: Run, runtime: WorkflowEngine) -> None:
    """`on_recorded` is called once when the run is on disk, and `on_respond` gets the first response without redaction."""
    received: list[Any] = []
    workflow = a_workflow(
        python_step("one", "pd.respond(status=200, body='TOKEN-0123456789')"),
        python_step("two", "pd.respond(status=500, body='second')"),
        response="custom",
    )
    execution = await run(
        workflow,
        variables={"TOKEN": "TOKEN-0123456789"},
        run_ids=("run-1", "trace-1"),
        on_recorded=lambda: received.append("accepted"),
        on_respond=lambda response: received.append((response.status, response.content)),
    )

    assert (execution.id, execution.trace_id) == ("run-1", "trace-1")
    assert received == ["accepted", (200, b"TOKEN-0123456789")]
    assert execution.response is not None
    assert execution.response.body == "⟦secret:env/TOKEN⟧"


async def test_run_without_a_journal_entry(run: Run, runtime: WorkflowEngine) -> None:
    """A run with `keep_in_journal=False` is not in the journal."""
    execution = await run(python_step("one", "return 1"), keep_in_journal=False)

    assert execution.step("one").return_value == 1
    assert await runtime.journal.get_execution(execution.id) is None


async def test_forged_reply_fails_the_run(shared_run: Run) -> None:
    """A forged reply fails the run with an error of the step; the step below does not run."""
    forged = '1 {"t":"respond","r":{"status":200,"headers":null,"body":null}}\\n'
    execution = await shared_run(python_step("one", f"import os; os.write(4, b'{forged}')"), python_step("two"))

    assert execution.status == "error"
    assert execution.error is not None
    assert (execution.error.code, execution.error.step) == ("protocol", "one")
    assert "Step `one` sent a reply that pdkernel does not understand" in execution.error.message
    assert execution.step("two").status == "skipped"


CALL = """
    import urllib.error, urllib.request
    token = pd.inputs["slack"]["$auth"]["oauth_access_token"]
    headers = {"Authorization": "Bearer " + token} if pd.steps["trigger"]["event"]["body"]["carried"] else {}
    request = urllib.request.Request("http://api.my-crm.example/me", headers=headers)
    try:
        urllib.request.urlopen(request)
    except urllib.error.HTTPError as error:
        return error.code
"""


@pytest.mark.parametrize(
    ("carried", "renews", "is_refused"),
    [(True, False, True), (False, False, False), (True, True, False)],
    ids=["the account's token", "another call", "a token that was renewed meanwhile"],
)
async def test_rejected_token_is_renewed_before_the_next_run(
    run: Run, connect: Callable[..., str], project: Project, carried: bool, renews: bool, is_refused: bool
) -> None:
    """A 401 to a call with the account's token renews the token before the next run; another 401, or one to a token that another run has renewed, does not."""
    account = connect("ada")
    project.grants.set(account, Grant("refresh-0123456789", None, datetime.now(UTC)))

    def reject(_: SentRequest) -> Answer:
        if renews:
            project.grants.set(account, Grant("refresh-9876543210", None, datetime.now(UTC)))
        return 401, b""

    with serve(AnsweringServer(reject)) as server:
        done = await run(
            python_step("call", CALL, options="--app slack"),
            event=an_event({"carried": carried}),
            egress=f"live via={server.url}",
            external_user_id="ada",
        )

    grant = project.grants.find(account)
    assert done.step("call").exports == {"$return_value": 401}
    assert grant is not None
    assert grant.is_refused == is_refused

"""Runs that another executor continues: recorded steps do not run again, and later steps see what they would have seen."""

from __future__ import annotations

import asyncio
import json
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace as replace_struct

from pdkernel.accounts import LocalDirectory
from pdkernel.common.redaction import Secret
from pdkernel.egress import parse_policy
from pdkernel.engine.http_response import HttpResponse
from pdkernel.engine.pauses import RerunState
from pdkernel.engine.restored_run import build_carry, seal_request
from pdkernel.engine.run_request import RunRequest, RunWatcher
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.execution import Execution, StepResult
from pdkernel.journal import ClaimedRun, ExecutionQuery, WaitKey
from pdkernel.model import JSON, Step, Workflow
from pdkernel.storage import Project, Vault
from pdkernel.workers import Effect, StepOutcome
from tests.builders import Gate, a_block, a_workflow, an_event, node_step, python_step
from tests.http_servers import AnsweringServer, serve
from tests.notebook_files import notebook_of

Continue = Callable[..., Awaitable[Execution]]


@pytest.fixture
async def runtime(project: Project, directory: LocalDirectory) -> AsyncIterator[WorkflowEngine]:
    """The engine of a server."""
    async with await WorkflowEngine.start(project, directory, origin="serve") as started:
        yield started


@pytest.fixture
def start(runtime: WorkflowEngine, tmp_path: Path) -> Continue:
    """Runs steps as a served run, until its end or its first pause."""

    async def run(
        *what: Workflow | Step, hands_over: Callable[[], bool] = lambda: False, event: Any = None, **choices: Any
    ) -> Execution:
        workflow = what[0] if isinstance(what[0], Workflow) else a_workflow(*(s for s in what if isinstance(s, Step)))
        request = RunRequest(
            workflow, event or an_event(), parse_policy("deny"), folder=tmp_path, pause_mode="park", **choices
        )
        return await runtime.run(request, RunWatcher(hands_over=hands_over))

    return run


@pytest.fixture
def go_on(runtime: WorkflowEngine) -> Continue:
    """Continues the only ready run of the journal."""

    async def continue_run(**watching: Any) -> Execution:
        await runtime.journal.wake_due()
        (claimed,) = await runtime.journal.claim_next()
        return await runtime.continue_run(claimed, RunWatcher(**watching))

    return continue_run


async def resume(runtime: WorkflowEngine, run: Execution, step: str, payload: Any = None) -> None:
    """Resume the pause of *step*."""
    assert await runtime.resolve_wait(WaitKey(run.id, step), "resume", payload) == "done"


async def interrupt(start: Continue, gate: Gate, *steps: Step, **choices: Any) -> Execution:
    """Run *steps* until the gate, then end the process's part of the run as a shutdown does."""
    task = asyncio.ensure_future(start(*steps, hands_over=lambda: True, **choices))
    await gate.wait_until_reached()
    task.cancel()
    return await task


async def test_recorded_steps_do_not_run_again(
    runtime: WorkflowEngine, start: Continue, go_on: Continue, tmp_path: Path
) -> None:
    """A continued run restores exports of recorded steps, and starts with the step after the pause."""
    log = tmp_path / "log"
    count = f"open({str(log)!r}, 'a').write('x')\n"
    paused = await start(
        python_step("one", f"{count}return {{'list': [1, 'ä', None]}}"),
        python_step("ask", f"{count}pd.flow.suspend(60000)\nreturn 'asked'"),
        python_step("last", f"{count}return [pd.steps['one']['$return_value'], pd.steps['ask']]"),
    )
    before = log.read_text()

    await resume(runtime, paused, "ask", {"approved": True})
    execution = await go_on()

    assert (paused.status, before, log.read_text()) == ("paused", "xx", "xxx")
    assert execution.status == "success"
    assert execution.step("last").return_value == [
        {"list": [1, "ä", None]},
        {"$return_value": "asked", "$resume_data": {"approved": True}},
    ]
    assert (execution.id, execution.trace_id) == (paused.id, paused.trace_id)
    assert execution.started_at == paused.started_at
    assert await runtime.journal.get_execution(execution.id) == execution


async def test_the_event_of_a_continued_run_is_not_redacted(
    runtime: WorkflowEngine, start: Continue, go_on: Continue
) -> None:
    """After a pause a step can check the signature header of the event, which the record masks."""
    event = an_event(headers={"x-hub-signature-256": "sha256=0123456789abcdef", "authorization": "Bearer abcdefgh123"})
    paused = await start(
        node_step("ask", "$.flow.suspend(60000)"),
        python_step("check", "h = pd.steps['trigger']['event']['headers']\nreturn [len(h[k]) for k in sorted(h)]"),
        event=event,
    )

    await resume(runtime, paused, "ask")
    execution = await go_on()

    assert execution.step("check").return_value == [len("Bearer abcdefgh123"), len("sha256=0123456789abcdef")]
    assert "0123456789abcdef" not in json.dumps(execution.to_json())


@pytest.mark.parametrize("pausing", ["token", "ask"])
async def test_an_export_with_a_secret_is_restored(
    runtime: WorkflowEngine,
    start: Continue,
    go_on: Continue,
    connect: Callable[..., str],
    directory: LocalDirectory,
    pausing: str,
) -> None:
    """
    A step after the pause gets the token that an earlier step exported, although the account has another one by now.

    The record does not show the token, whether the step that exported it has paused or an earlier one.
    """
    account = connect("ada", "xoxb-first-0123456789")
    pause = "pd.flow.suspend(60000)\n" if pausing == "token" else ""
    paused = await start(
        python_step("token", f"{pause}return pd.inputs['slack']['$auth']['oauth_access_token']", options="--app slack"),
        *([node_step("ask", "$.flow.suspend(60000)")] if pausing == "ask" else []),
        python_step(
            "use", "t = pd.steps['token']['$return_value']\nreturn [t, len(t), t.endswith('first-0123456789')]"
        ),
        external_user_id="ada",
    )
    directory.reconnect_account(account, {"oauth_access_token": "xoxb-second-0123456789"})

    await resume(runtime, paused, pausing)
    execution = await go_on()

    shown = execution.step("use").return_value
    assert isinstance(shown, list)
    assert shown[1:] == [len("xoxb-first-0123456789"), True]
    assert "first-0123456789" not in json.dumps(execution.to_json())


async def test_an_interrupted_step_can_read_that_it_is_repeated(
    start: Continue, go_on: Continue, tmp_path: Path
) -> None:
    """The step that was in progress runs again as attempt 2; the step after it is at attempt 1."""
    gate = Gate(tmp_path)
    steps = (
        python_step("one", "return 1"),
        python_step(
            "held",
            f"import os\nif not os.path.exists({str(tmp_path / 'again')!r}): {gate.code}\nreturn pd.context.get('attempt')",
        ),
        python_step("last", "return pd.context.get('attempt')"),
    )
    left = await interrupt(start, gate, *steps)
    (tmp_path / "again").touch()

    execution = await go_on()

    assert left.status == "executing"
    assert (execution.status, execution.attempt) == ("success", 2)
    assert [step.return_value for step in execution.steps] == [1, 2, None]
    assert [step.attempt for step in execution.steps] == [1, 2, 1]


async def test_a_rerun_goes_on_with_its_context(runtime: WorkflowEngine, start: Continue, go_on: Continue) -> None:
    """A step that reruns itself gets its context and number after each pause, and the body of the call that ended it."""
    body = (
        "const run = $.context.run\nif (run.runs < 3) { $.flow.rerun(60000, { n: run.runs }, 5) }\n"
        "return [run.runs, run.context, run.callback_request]"
    )
    paused = await start(node_step("again", body), node_step("last", "return steps.again.$return_value"))

    assert paused.error is None, paused.error
    assert await runtime.resolve_wait(WaitKey(paused.id, "again", number=1), "resume") == "done"
    second = await go_on()
    assert await runtime.resolve_wait(WaitKey(paused.id, "again", number=2), "resume", {"ok": 1}) == "done"
    execution = await go_on()

    assert (second.status, execution.status) == ("paused", "success")
    assert execution.step("last").return_value == [3, {"n": 2}, {"ok": 1}]
    assert execution.step("again").attempt == 3


async def test_a_retry_keeps_the_call_that_ended_a_rerun(
    runtime: WorkflowEngine, start: Continue, go_on: Continue, tmp_path: Path
) -> None:
    """A rerun that fails and is retried gets the body of the call, its context and its number again."""
    failed = str(tmp_path / "failed")
    body = (
        "const fs = await import('node:fs')\nconst run = $.context.run\n"
        "if (run.runs < 2) { return $.flow.rerun(60000, { n: 1 }, 5) }\n"
        f"if (!fs.existsSync('{failed}')) {{ fs.writeFileSync('{failed}', ''); throw new Error('not yet') }}\n"
        "return [run.runs, run.context, run.callback_request]"
    )
    paused = await start(a_workflow(node_step("again", body), auto_retry=True))
    assert await runtime.resolve_wait(WaitKey(paused.id, "again", number=1), "resume", {"ok": 1}) == "done"
    waiting = await go_on()
    assert await runtime.resolve_wait(WaitKey(paused.id, "again", number=2), "resume") == "done"

    execution = await go_on()

    assert "$attempt" in waiting.step("again").exports
    assert execution.step("again").return_value == [2, {"n": 1}, {"ok": 1}]


async def test_a_taken_over_rerun_keeps_the_call_that_ended_its_pause(
    runtime: WorkflowEngine, start: Continue, go_on: Continue, tmp_path: Path
) -> None:
    """A rerun that is interrupted gets the body of the call again, but the rerun after it does not."""
    gate = Gate(tmp_path)
    body = (
        "run = pd.context['run']\nseen = None\n"
        f"if run['runs'] == 2 and not pd.context.get('attempt'): {gate.code}\n"
        "if run['runs'] == 2: seen = [run['callback_request'], pd.context['attempt']]\n"
        "if run['runs'] < 3:\n    pd.flow.rerun(60000, seen, 5)\nreturn [run['context'], run['callback_request']]"
    )
    paused = await start(python_step("again", body))
    assert await runtime.resolve_wait(WaitKey(paused.id, "again", number=1), "resume", {"ok": 1}) == "done"
    running = asyncio.ensure_future(go_on(hands_over=lambda: True))
    await gate.wait_until_reached()
    running.cancel()
    await running
    await go_on()
    assert await runtime.resolve_wait(WaitKey(paused.id, "again", number=2), "resume") == "done"

    execution = await go_on()

    assert execution.step("again").return_value == [[{"ok": 1}, 2], None]


async def test_a_retry_is_not_one_of_the_reruns(
    runtime: WorkflowEngine, start: Continue, go_on: Continue, tmp_path: Path
) -> None:
    """A step that may rerun once does so after a retry."""
    failed = str(tmp_path / "failed")
    body = (
        f"import pathlib\nmark = pathlib.Path({failed!r})\nif not mark.exists():\n    mark.touch()\n    raise ValueError('no')\n"
        "pd.flow.rerun(60000, None, 1)\nreturn pd.context['run']['runs']"
    )
    waiting = await start(a_workflow(python_step("again", body), auto_retry=True))
    await resume(runtime, waiting, "again")
    rerun = await go_on()
    assert await runtime.resolve_wait(WaitKey(waiting.id, "again", number=2), "resume") == "done"

    execution = await go_on()

    assert (waiting.status, rerun.status, execution.status) == ("paused", "paused", "success")
    assert execution.step("again").return_value == 2


async def test_the_response_of_a_step_before_a_pause_is_kept(
    runtime: WorkflowEngine, start: Continue, go_on: Continue
) -> None:
    """The record of a continued run has the response that the caller got, and a later response is ignored."""
    workflow = a_workflow(
        node_step("first", "$.respond({ status: 201, headers: { 'x-a': 'b' }, body: { ok: 1 } })"),
        node_step("ask", "$.flow.suspend(60000)"),
        node_step("late", "$.respond({ status: 500, body: 'late' })"),
        response="custom",
    )
    given: list[HttpResponse] = []
    paused = await start(workflow)

    await resume(runtime, paused, "ask")
    execution = await go_on(on_respond=given.append)

    assert execution.response is not None
    assert (execution.response.status, execution.response.body) == (201, {"ok": 1})
    assert given == []


async def test_a_run_finishes_on_the_definition_with_which_it_began(
    runtime: WorkflowEngine, start: Continue, go_on: Continue
) -> None:
    """A new version of the workflow does not change a run that waits."""
    old = a_workflow(node_step("ask", "$.flow.suspend(60000)"), node_step("last", "return 'old'"))
    paused = await start(old)
    await start(a_workflow(node_step("ask", "return 1"), node_step("last", "return 'new'")))

    await resume(runtime, paused, "ask")
    execution = await go_on()

    assert execution.step("last").return_value == "old"
    assert execution.version == paused.version == old.version


async def test_a_former_secret_of_the_event_stays_hidden(
    runtime: WorkflowEngine, directory: LocalDirectory, start: Continue, go_on: Continue, connect: Callable[..., str]
) -> None:
    """An event has the account's token; the continued run hides it, although the account has another one by now."""
    token = "xoxb-first-0123456789"
    account = connect("ada", token)
    paused = await start(
        python_step("one", "pd.flow.suspend(60000)", options="--app slack"),
        python_step("two", "return pd.steps['trigger']['event']['body']['token']", options="--app slack"),
        external_user_id="ada",
        event=an_event({"token": token}),
    )
    directory.reconnect_account(account, {"oauth_access_token": "xoxb-second-0123456789"})
    await resume(runtime, paused, "one")

    execution = await go_on()

    kept = await runtime.journal.get_execution(paused.id)
    assert str(execution.step("two").return_value).startswith(f"⟦secret:slack/{account}/oauth_access_token")
    assert kept is not None
    assert token not in str(kept.to_json())


async def test_a_removed_account_is_named(
    runtime: WorkflowEngine, start: Continue, go_on: Continue, connect: Callable[..., str], directory: LocalDirectory
) -> None:
    """If an account that a later step needs was removed during the pause, the run fails with the usual error."""
    account = connect("ada")
    paused = await start(
        node_step("ask", "$.flow.suspend(60000)"),
        python_step("use", "return 1", options="--app slack"),
        external_user_id="ada",
    )
    directory.remove_account(account)

    await resume(runtime, paused, "ask")
    execution = await go_on()

    assert execution.status == "error"
    assert execution.error is not None
    assert "slack" in execution.error.message


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda _run_id, _vault: {"request": b"\x01" + b"0" * 40}, "cannot be decrypted"),
        (lambda _run_id, _vault: {"request": None}, "cannot be continued: its record has no request"),
        (lambda _run_id, _vault: {"definition": ""}, "cannot be continued: its record has no request"),
        (lambda _run_id, _vault: {"definition": "{}"}, "cannot be continued: its request is damaged"),
        (lambda run_id, vault: {"request": seal_request("{}", run_id, vault)}, "its request is damaged"),
        (lambda _run_id, vault: {"request": seal_request("{}", "another", vault)}, "cannot be decrypted"),
    ],
    ids=["not sealed", "no request", "no definition", "damaged definition", "damaged request", "another run's request"],
)
async def test_a_run_that_cannot_be_restored_ends_with_the_reason(
    runtime: WorkflowEngine,
    start: Continue,
    project: Project,
    damage: Callable[[str, Vault], dict[str, Any]],
    reason: str,
) -> None:
    """A run whose stored request or definition is missing or damaged ends as an error, and no step runs."""
    paused = await start(node_step("ask", "$.flow.suspend(60000)"), node_step("last"))
    await resume(runtime, paused, "ask")
    (claimed,) = await runtime.journal.claim_next()
    damaged = replace_struct(claimed, **damage(paused.id, project.vault))

    execution = await runtime.continue_run(damaged)

    assert execution.status == "error"
    assert execution.error is not None
    assert (execution.error.code, reason in execution.error.message) == ("project", True)
    assert execution.step("last").status == "not_run"


async def test_messages_of_steps_before_a_pause_are_sent_once(
    runtime: WorkflowEngine, start: Continue, go_on: Continue
) -> None:
    """A message leaves at the pause; the continued run does not send it again, and sends what later steps queue."""
    send = "$.send.http({ method: 'POST', url: 'http://127.0.0.1:9/x' })"
    paused = await start(node_step("first", send), node_step("ask", "$.flow.suspend(60000)"), node_step("last", send))

    await resume(runtime, paused, "ask")
    await go_on()
    kept = await runtime.journal.get_execution(paused.id)

    assert kept is not None
    assert [(send.step, send.outcome) for send in paused.sends] == [("first", "failed")]
    assert [(send.step, send.outcome) for send in kept.sends] == [("first", "failed"), ("last", "failed")]


async def test_a_message_of_before_a_pause_is_received_once(
    runtime: WorkflowEngine, start: Continue, go_on: Continue
) -> None:
    """The destination of a message that was queued before a pause gets it at the pause, and not again at the end of the run."""
    with serve(AnsweringServer(lambda _: (200, None))) as server:
        send = f"$.send.http({{ method: 'POST', url: '{server.url}' }})"
        paused = await start(node_step("first", send), node_step("ask", "$.flow.suspend(60000)"))
        at_pause = len(server.requests)
        await resume(runtime, paused, "ask")
        await go_on()

    assert (at_pause, len(server.requests)) == (1, 1)


async def test_a_repeated_step_finds_the_run_that_it_triggered(
    runtime: WorkflowEngine, start: Continue, go_on: Continue, tmp_path: Path
) -> None:
    """A step that is repeated gets the result of the workflow that its interrupted attempt has triggered, with its secrets."""
    log, gate = tmp_path / "log", Gate(tmp_path)
    body = f"    open({str(log)!r}, 'a').write('x')\n    return 'token-0123456789'"
    notebook_of(tmp_path / "child.ipynb", f"%%pdstep only\ndef handler(pd):\n{body}\n")
    path = tmp_path / "parent.ipynb"

    held = python_step(
        "call",
        f"import os\nresult = pd.flow.trigger('child', {{}})\nif not os.path.exists({str(tmp_path / 'again')!r}): {gate.code}\nreturn result",
    )
    others = {"source_path": path}
    length = python_step("length", "return len(pd.steps['call']['$return_value'])")
    await interrupt(start, gate, held, length, variables={"TOKEN": "token-0123456789"}, **others)
    (tmp_path / "again").touch()

    execution = await go_on()

    assert execution.step("call").return_value == "⟦secret:env/TOKEN⟧"
    assert execution.step("length").return_value == len("token-0123456789")
    assert log.read_text() == "x"
    child_run = await runtime.journal.get_execution(f"{execution.id}:call:1.1:1")
    assert child_run is not None
    assert child_run.status == "success"


SEND = "pd.send.http(method='POST', url='http://127.0.0.1:9/x')\n"


async def test_messages_of_a_rerun_are_kept_although_its_first_run_has_sent(
    start: Continue, go_on: Continue, runtime: WorkflowEngine, tmp_path: Path
) -> None:
    """A message that the second run of a step queued leaves, if the process ends before the run does."""
    gate = Gate(tmp_path)
    paused = await start(
        python_step("again", f"{SEND}if pd.context['run']['runs'] == 1: pd.flow.rerun(60000)"),
        python_step("held", f"import os\nif not os.path.exists({str(tmp_path / 'again')!r}): {gate.code}"),
    )
    assert await runtime.resolve_wait(WaitKey(paused.id, "again"), "resume") == "done"
    task = asyncio.ensure_future(go_on(hands_over=lambda: True))
    await gate.wait_until_reached()
    task.cancel()
    await task
    (tmp_path / "again").touch()

    await go_on()
    kept = await runtime.journal.get_execution(paused.id)

    assert kept is not None
    assert kept.status == "success"
    assert [send.step for send in kept.sends] == ["again", "again"]


@pytest.mark.parametrize("pause", ["delay", "rerun"])
async def test_a_step_that_has_not_begun_before_is_not_at_a_later_attempt(
    runtime: WorkflowEngine, start: Continue, go_on: Continue, tmp_path: Path, pause: str
) -> None:
    """If a step was interrupted and then paused, the next code that runs is at attempt 1."""
    gate, again = Gate(tmp_path), tmp_path / "again"
    attempt = "attempt = pd.context.get('attempt')\n"
    held = (
        f"import os\n{attempt}if not os.path.exists({str(again)!r}): {gate.code}\n"
        f"if pd.context['run']['runs'] == 1: pd.flow.{pause}(60000)\nreturn attempt"
    )
    left = await interrupt(start, gate, python_step("held", held), python_step("last", f"{attempt}return attempt"))
    again.touch()
    paused = await go_on()

    assert await runtime.resolve_wait(WaitKey(left.id, "held"), "resume") == "done"
    execution = await go_on()

    assert (paused.status, execution.status) == ("paused", "success")
    assert execution.step("held").return_value == (2 if pause == "delay" else None)
    assert execution.step("last").return_value is None


def a_child(folder: Path, body: str) -> dict[str, Any]:
    """The choices of a run whose steps can trigger the workflow `child`, with one step of *body*."""
    notebook_of(folder / "child.ipynb", f"%%pdstep only\ndef handler(pd):\n{textwrap.indent(body, '    ')}\n")
    path = folder / "parent.ipynb"
    return {"source_path": path}


async def test_a_step_that_runs_again_triggers_a_new_run(
    runtime: WorkflowEngine, start: Continue, go_on: Continue, tmp_path: Path
) -> None:
    """A step that reruns itself triggers the other workflow each time."""
    log = tmp_path / "log"
    child = a_child(tmp_path, f"open({str(log)!r}, 'a').write('x')\nreturn 'done'")
    step = python_step(
        "call",
        "result = pd.flow.trigger('child', {})\nif pd.context['run']['runs'] == 1: pd.flow.rerun(60000)\nreturn result",
    )
    paused = await start(step, **child)

    assert await runtime.resolve_wait(WaitKey(paused.id, "call"), "resume") == "done"
    execution = await go_on()

    assert execution.error is None
    assert execution.step("call").return_value == "done"
    assert log.read_text() == "xx"


async def test_a_triggered_run_is_left_to_the_next_process(
    runtime: WorkflowEngine, start: Continue, tmp_path: Path
) -> None:
    """If the process ends while a step waits for the workflow that it triggered, both runs are ready for the next process."""
    gate = Gate(tmp_path)
    child = a_child(tmp_path, gate.code)

    left = await interrupt(start, gate, python_step("call", "return pd.flow.trigger('child', {})"), **child)
    claims: list[ClaimedRun] = []
    async with asyncio.timeout(60):
        while len(claims) < 2:  # the triggered run ends after the run that waits for it
            claims += await runtime.journal.claim_next(limit=9)
            await asyncio.sleep(0.01)

    assert {claimed.claim.run_id for claimed in claims} == {left.id, f"{left.id}:call:1.1:1"}
    assert {claimed.claim.attempt for claimed in claims} == {2}


def test_a_carry_has_only_the_secrets_of_its_exports() -> None:
    """What a step carries to later steps has the secrets that its exports contain, and no other secret of the run."""
    secrets = [Secret("env/A", "value-a-0123456789"), Secret("env/B", "value-b-0123456789")]
    exports: dict[str, JSON] = {"x": "value-a-0123456789", "n": 1}
    shown = StepResult("one", "success", exports={"x": "⟦secret:env/A⟧", "n": 1})

    carry = build_carry(shown, StepOutcome(exports), secrets, number=2, response=None)
    plain = build_carry(replace_struct(shown, exports=exports), StepOutcome(exports), secrets, number=2, response=None)

    assert carry is not None
    assert (carry.exports, carry.secrets) == (exports, (("env/A", "value-a-0123456789"),))
    assert plain is None


@pytest.mark.parametrize(
    "carried",
    [
        {"outcome": StepOutcome(queued_sends=(Effect("emit", {"key": "value-a-0123456789"}),))},
        {"response": HttpResponse(200, (), None, b"value-a-0123456789", None)},
        {"state": RerunState(context={"key": "value-a-0123456789"})},
    ],
    ids=["message", "response", "context"],
)
def test_a_carry_has_the_secrets_of_messages_responses_and_contexts(carried: dict[str, Any]) -> None:
    """The run that is continued redacts them, although it may not get them again."""
    secrets = [Secret("env/A", "value-a-0123456789"), Secret("env/B", "value-b-0123456789")]
    choices = {"outcome": StepOutcome(), "response": None, **carried}

    carry = build_carry(StepResult("one", "success"), secrets=secrets, number=1, **choices)

    assert carry is not None
    assert carry.secrets == (("env/A", "value-a-0123456789"),)


async def test_an_exit_in_a_parallel_branch_ends_the_continued_run(
    runtime: WorkflowEngine, start: Continue, go_on: Continue, tmp_path: Path
) -> None:
    """A run that is interrupted after a step has ended it, and before its end is recorded, executes no further step."""
    gate, ready = Gate(tmp_path), str(tmp_path / "ready")
    leaves = f"import os, time\nwhile not os.path.exists({ready!r}): time.sleep(0.01)\npd.flow.exit()"
    workflow = a_workflow(
        a_block("%%pdparallel both\na: always\nb: always"),
        python_step("leaves", leaves, options="--in both.a"),
        python_step("more", options="--in both.a"),
        python_step("waits", f"open({ready!r}, 'w').close()\n{gate.code}", options="--in both.b"),
        python_step("last"),
    )
    task = asyncio.ensure_future(start(workflow, hands_over=lambda: True))
    await gate.wait_until_reached()
    async with asyncio.timeout(60):
        while (await runtime.journal.executions(ExecutionQuery()))[0].step("leaves").status != "success":
            await asyncio.sleep(0.01)
    task.cancel()
    await task
    gate.open()

    ended = await go_on()

    assert ended.status == "exited"
    assert [ended.step(name).status for name in ("leaves", "more", "last")] == ["success", "skipped", "skipped"]

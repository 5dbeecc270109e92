"""Sample records for the tests of views: one execution for each feature of a timeline."""

from __future__ import annotations

from msgspec.structs import replace

from pdkernel.execution import (
    AccountUse,
    Delivery,
    ErrorRecord,
    Execution,
    Log,
    OutboundCall,
    Response,
    RunTrigger,
    StepResult,
)
from pdkernel.model import JSON, Language, Step, Workflow

WORKFLOW = Workflow(
    "Open issue to Slack",
    steps=tuple(
        Step(name, language, execution_count=number)
        for number, (name, language) in enumerate(
            dict[str, Language](check="python", build="node", count="bash", send="node").items(), start=2
        )
    ),
)
SLACK = AccountUse(prop="slack", app="slack", id="apn_0000001", owner="external_user")
OWN_SHEET = AccountUse(prop="sheet", app="google_sheets", id="apn_0000002", owner="own")
URL = "https://slack.com/api/chat.postMessage"
STACK = """Traceback (most recent call last):
  File "<step build>", line 5, in handler
    title = event["body"]["issue"]["titel"]
    event = {'method': 'POST', 'body': {'issue': {'title': 'Spelling error in the README file'}}}
KeyError: 'titel'
"""


def a_call(**changes: object) -> OutboundCall:
    """A message sent with the external user's Slack account."""
    call = OutboundCall(
        method="POST",
        url=URL,
        status=200,
        duration_ms=84.21,
        safe=False,
        outcome="sent",
        app="slack",
        at="2026-11-24T10:00:00.140Z",
    )
    return replace(call, **changes)


def steps() -> tuple[StepResult, ...]:
    """Four successful steps."""
    issue: JSON = {"number": 1, "title": "Spelling error in the README file", "labels": ["bug", "good first issue"]}
    return (
        StepResult(
            name="check",
            status="success",
            started_at="2026-11-24T10:00:00.001Z",
            duration_ms=1.24,
            exports={
                "$return_value": {
                    "issue": issue,
                    "url": "https://github.com/octocat/Hello-World/issues/1",
                    "open": True,
                },
                "$summary": "Issue #1 opened by octocat",
            },
            logs=(Log("stdout", "issue 1 by oct"), Log("stdout", "ocat\n")),
        ),
        StepResult(
            name="build",
            status="success",
            started_at="2026-11-24T10:00:00.003Z",
            duration_ms=12.4,
            exports={"text": "New issue: <Spelling error in the README file> & more", "$return_value": None},
            logs=(Log("stdout", "building\n"), Log("stderr", "(node) a warning\n"), Log("stdout", "built\n")),
        ),
        StepResult(name="count", status="success", duration_ms=4.9, exports={"words": 7}),
        StepResult(
            name="send",
            status="success",
            started_at="2026-11-24T10:00:00.020Z",
            duration_ms=121.7,
            accounts=(SLACK, OWN_SHEET),
            requests=(a_call(),),
            exports={"$return_value": {"ok": True, "channel": "C0001", "ts": "1.0"}, "$summary": "Posted to #general"},
        ),
    )


def an_execution(**changes: object) -> Execution:
    """An execution of these steps for the external user ada."""
    execution = Execution(
        id="2abcdefghijklmnopqrstuvwxyz",
        trace_id="2abcdefghijklmnopqrstuvwxyz",
        workflow="Open issue to Slack",
        version="0123456789ab",
        status="success",
        external_user="ada",
        environment="development",
        started_at="2026-11-24T10:00:00.000Z",
        finished_at="2026-11-24T10:00:00.141Z",
        attempt=1,
        replay_of=None,
        trigger=RunTrigger(
            {"method": "POST", "path": "/github", "headers": {"x-pd-external-user-id": "ada"}, "body": {}}, {}
        ),
        steps=steps(),
        response=None,
        error=None,
    )
    return replace(execution, **changes)


def put(execution: Execution, result: StepResult) -> Execution:
    """The execution with *result* in the place of the step's result."""
    return replace(execution, steps=tuple(result if step.name == result.name else step for step in execution.steps))


def with_step(execution: Execution, name: str, **changes: object) -> Execution:
    """*execution* with fields of one step changed."""
    return put(execution, replace(execution.step(name), **changes))


def succeeded() -> Execution:
    """A successful run with a response of the workflow."""
    return an_execution(response=Response(200, {"content-type": "application/json"}, {"ok": True, "issue": 1}))


def delivered() -> Execution:
    """A run with sends of its steps: sent, shown and failed."""
    return an_execution(
        sends=(
            Delivery(
                "build", "http", "sent", to="POST https://hooks.example.com/x", status=200, payload={"url": "..."}
            ),
            Delivery("build", "email", "shown", note="Not sent.", payload={"subject": "<b>Done</b>"}),
            Delivery("send", "http", "failed", to="POST https://gone.example.com/", note="No such host.", payload={}),
        )
    )


def failed() -> Execution:
    """A run whose second step failed; later steps did not run."""
    error = ErrorRecord("step_failed", "KeyError", "'titel'", step="build", line=5, stack=STACK)
    execution = an_execution(status="error", error=error)
    execution = with_step(execution, "build", status="error", error=error, exports={}, duration_ms=3.1)
    for name in ("count", "send"):
        execution = put(execution, StepResult(name=name, status="not_run"))
    return execution


def running() -> Execution:
    """A run in progress: two steps are done, one runs, one waits."""
    execution = an_execution(status="executing", finished_at=None)
    execution = put(
        execution,
        StepResult(
            name="count", status="not_run", started_at="2026-11-24T10:00:00.020Z", logs=(Log("stdout", "so far\n"),)
        ),
    )
    return put(execution, StepResult(name="send", status="not_run"))


def all_outcomes() -> Execution:
    """A run whose last step made an outbound call of each outcome."""
    shown = '#general: New issue "Spelling error in the README file" by octocat'
    calls = (
        a_call(outcome="not_sent", same_as="2026-11-24T10:32:05.120Z"),
        a_call(outcome="stand_in", note=f"Slack message to {shown}"),
        a_call(outcome="replayed"),
        a_call(outcome="denied", status=403, duration_ms=0.4, app=None, note="Outbound calls are off: --egress deny."),
        a_call(outcome="failed", status=None, duration_ms=30_000, note="no address for slack.com"),
        a_call(method="GET", url="https://api.github.com/repos/octocat/Hello-World", safe=True, app=None),
    )
    return with_step(an_execution(), "send", requests=calls)


def all_states() -> Execution:
    """A run from the third step on, with a step in each state."""
    execution = an_execution(status="exited")
    execution = put(execution, StepResult(name="check", status="pinned", exports={"$return_value": {"number": 1}}))
    execution = put(execution, StepResult(name="build", status="disabled"))
    return put(execution, StepResult(name="send", status="skipped"))


def refused() -> Execution:
    """A run that was refused before any step."""
    error = ErrorRecord(
        "account_not_found",
        "AccountNotFoundError",
        "Pipedream Connect Error: Required account not found for external user ID\n"
        "Step send uses the slack account of ada, who has none in development. Connect one with %pduser, "
        "or: pdkernel accounts add --external-user ada --app slack --credential oauth_access_token",
    )
    none = tuple(StepResult(name=step.name, status="not_run") for step in steps())
    return an_execution(status="error", error=error, steps=none)

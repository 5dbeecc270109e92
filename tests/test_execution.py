"""The JSON of an execution: keys, their order, what is left out, and reading it back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET
from msgspec.structs import replace

from pdkernel.common.lookup import AccountCandidate, AppLookup, Lookup, LookupFailure
from pdkernel.execution import (
    AccountUse,
    CallOutcome,
    Delivery,
    ErrorRecord,
    Execution,
    Log,
    OutboundCall,
    OutboundPolicyRecord,
    Response,
    RunFailedError,
    RunTrigger,
    Status,
    StepResult,
    StepStatus,
)
from tests.common.test_encode import values

CALL = OutboundCall(
    "POST",
    "https://slack.com/api/chat.postMessage",
    200,
    84.26,
    safe=False,
    outcome="not_sent",
    app="slack",
    at="2026-11-24T10:00:00.140Z",
    same_as="2026-11-24T09:00:00.140Z",
    note="Stored response.",
    step="send",
    external_user="ada",
    bytes=120,
)
CALL_JSON = {
    "method": "POST",
    "url": "https://slack.com/api/chat.postMessage",
    "status": 200,
    "duration_ms": 84.3,
    "safe": False,
    "outcome": "not_sent",
    "app": "slack",
    "at": "2026-11-24T10:00:00.140Z",
    "same_as": "2026-11-24T09:00:00.140Z",
    "note": "Stored response.",
    "step": "send",
    "external_user": "ada",
    "bytes": 120,
}
SMALL_CALL = OutboundCall("CONNECT", "https://gone.example.com", None, 0.04, safe=True, outcome="failed")
SMALL_CALL_JSON = {
    "method": "CONNECT",
    "url": "https://gone.example.com",
    "status": None,
    "duration_ms": 0.0,
    "safe": True,
    "outcome": "failed",
    "app": None,
    "at": None,
    "same_as": None,
    "note": None,
    "step": None,
    "external_user": None,
    "bytes": None,
}
ERROR = ErrorRecord("step_failed", "KeyError", "'titel'", step="send", line=5, stack="at send")
ERROR_JSON = {
    "code": "step_failed",
    "name": "KeyError",
    "message": "'titel'",
    "step": "send",
    "line": 5,
    "stack": "at send",
}
LOOKUP = Lookup(
    "ada",
    "development",
    header="ada",
    apps=(AppLookup("slack", ("build", "send"), (AccountCandidate("apn_1", "Slack", "2026-11-24"),), "apn_1"),),
    failed=LookupFailure("plan", "production_plan", "No.", "Change the plan."),
)
LOOKUP_JSON = {
    "external_user": "ada",
    "environment": "development",
    "header": "ada",
    "environment_header": None,
    "user_exists": None,
    "apps": [
        {
            "app": "slack",
            "steps": ["build", "send"],
            "candidates": [
                {"id": "apn_1", "name": "Slack", "created_at": "2026-11-24", "healthy": True, "withheld": False}
            ],
            "chosen": "apn_1",
        }
    ],
    "plan": None,
    "failed": {"link": "plan", "code": "production_plan", "message": "No.", "fix": "Change the plan."},
}
RUN = Execution(
    id="run",
    trace_id="trace",
    workflow="Open issue to Slack",
    version="0123456789ab",
    status="error",
    external_user="ada",
    environment="development",
    started_at="2026-11-24T10:00:00.000Z",
    finished_at="2026-11-24T10:00:00.141Z",
    attempt=2,
    replay_of="first",
    trigger=RunTrigger({"method": "POST", "body": {"b": [1, None], "a": "é"}}, {"id": "x"}),
    steps=(
        StepResult("build", "not_run"),
        StepResult(
            "send",
            "error",
            started_at="2026-11-24T10:00:00.020Z",
            duration_ms=121.678,
            attempt=2,
            exports={"$return_value": {"ok": True}, "$summary": "Posted"},
            logs=(Log("stdout", "hi\n"), Log("stderr", "[pdkernel] note\n")),
            accounts=(AccountUse("slack", "slack", "apn_1", "external_user"),),
            requests=(CALL, SMALL_CALL),
            error=ERROR,
            source="npm @pipedream/slack",
        ),
    ),
    response=Response(201, {"X-A": "1"}, {"ok": True}),
    error=ERROR,
    sends=(
        Delivery("send", "http", "sent", to="POST https://hooks.example.com/", status=200, payload=[1], request=CALL),
        Delivery("send", "email", "shown", note="Not sent."),
    ),
    outbound_policy=OutboundPolicyRecord("deny", "--egress", "landlock"),
    lookup=LOOKUP,
)
RUN_JSON: dict[str, Any] = {
    "id": "run",
    "trace_id": "trace",
    "workflow": "Open issue to Slack",
    "version": "0123456789ab",
    "status": "error",
    "external_user": "ada",
    "environment": "development",
    "started_at": "2026-11-24T10:00:00.000Z",
    "finished_at": "2026-11-24T10:00:00.141Z",
    "attempt": 2,
    "replay_of": "first",
    "trigger": {"event": {"method": "POST", "body": {"b": [1, None], "a": "é"}}, "context": {"id": "x"}},
    "steps": [
        {
            "name": "build",
            "status": "not_run",
            "started_at": None,
            "duration_ms": None,
            "attempt": 1,
            "path": "build",
            "iteration": 1,
            "exports": {},
            "logs": [],
            "accounts": [],
            "requests": [],
            "error": None,
        },
        {
            "name": "send",
            "status": "error",
            "started_at": "2026-11-24T10:00:00.020Z",
            "duration_ms": 121.7,
            "attempt": 2,
            "path": "send",
            "iteration": 1,
            "exports": {"$return_value": {"ok": True}, "$summary": "Posted"},
            "logs": [{"stream": "stdout", "text": "hi\n"}, {"stream": "stderr", "text": "[pdkernel] note\n"}],
            "accounts": [{"prop": "slack", "app": "slack", "id": "apn_1", "owner": "external_user"}],
            "requests": [CALL_JSON, SMALL_CALL_JSON],
            "error": ERROR_JSON,
            "source": "npm @pipedream/slack",
        },
    ],
    "response": {"status": 201, "headers": {"X-A": "1"}, "body": {"ok": True}},
    "error": ERROR_JSON,
    "sends": [
        {
            "step": "send",
            "kind": "http",
            "outcome": "sent",
            "to": "POST https://hooks.example.com/",
            "status": 200,
            "note": None,
            "payload": [1],
            "request": CALL_JSON,
        },
        {
            "step": "send",
            "kind": "email",
            "outcome": "shown",
            "to": None,
            "status": None,
            "note": "Not sent.",
            "payload": None,
            "request": None,
        },
    ],
    "lookup": LOOKUP_JSON,
    "outbound_policy": {"policy": "deny", "origin": "--egress"},
}
NEW_RUN = Execution(
    id="run",
    trace_id="trace",
    workflow="Greet",
    version="",
    status="queued",
    external_user=None,
    environment="production",
    started_at="2026-11-24T10:00:00.000Z",
    finished_at=None,
    attempt=1,
    replay_of=None,
    trigger=RunTrigger({}, {}, sealed=True),
    steps=(),
    response=None,
    error=None,
)
NEW_RUN_JSON: dict[str, Any] = {
    "id": "run",
    "trace_id": "trace",
    "workflow": "Greet",
    "version": "",
    "status": "queued",
    "external_user": None,
    "environment": "production",
    "started_at": "2026-11-24T10:00:00.000Z",
    "finished_at": None,
    "attempt": 1,
    "replay_of": None,
    "trigger": {"event": {}, "context": {}, "sealed": True},
    "steps": [],
    "response": None,
    "error": None,
}

texts = st.text(st.characters(exclude_categories=()))
maybe_text = st.none() | texts
whole = st.integers(0, 2**40)
objects = st.dictionaries(texts, values, max_size=3)
tenths = st.integers(0, 10**7).map(lambda tenth: tenth / 10)


def tuples(items: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    """Tuples of at most two items."""
    return st.lists(items, max_size=2).map(tuple)


logs = st.builds(Log, st.sampled_from(["stdout", "stderr"]), texts)
uses = st.builds(AccountUse, texts, texts, texts, st.sampled_from(["external_user", "own"]))
calls = st.builds(
    OutboundCall,
    texts,
    texts,
    st.none() | whole,
    tenths,
    st.booleans(),
    st.sampled_from(get_args(CallOutcome)),
    app=maybe_text,
    at=maybe_text,
    same_as=maybe_text,
    note=maybe_text,
    step=maybe_text,
    external_user=maybe_text,
    bytes=st.none() | whole,
)
errors = st.builds(ErrorRecord, texts, texts, texts, step=maybe_text, line=st.none() | whole, stack=maybe_text)
responses = st.builds(Response, whole, st.dictionaries(texts, texts, max_size=2), values)
steps = st.builds(
    StepResult,
    texts,
    st.sampled_from(get_args(StepStatus)),
    started_at=maybe_text,
    duration_ms=st.none() | tenths,
    attempt=whole,
    exports=objects,
    logs=tuples(logs),
    accounts=tuples(uses),
    requests=tuples(calls),
    error=st.none() | errors,
    source=st.just(UNSET) | texts,
)
deliveries = st.builds(
    Delivery,
    texts,
    texts,
    st.sampled_from(["sent", "shown", "failed"]),
    to=maybe_text,
    status=st.none() | whole,
    note=maybe_text,
    payload=values,
    request=st.none() | calls,
)
executions = st.builds(
    Execution,
    id=texts,
    trace_id=texts,
    workflow=texts,
    version=texts,
    status=st.sampled_from(get_args(Status)),
    external_user=maybe_text,
    environment=texts,
    started_at=texts,
    trigger=st.builds(RunTrigger, objects, objects, st.booleans()),
    steps=tuples(steps),
    finished_at=maybe_text,
    attempt=whole,
    replay_of=maybe_text,
    response=st.none() | responses,
    error=st.none() | errors,
    sends=tuples(deliveries),
    lookup=st.none() | st.just(LOOKUP),
)


@pytest.mark.parametrize(("execution", "expected"), [(RUN, RUN_JSON), (NEW_RUN, NEW_RUN_JSON)], ids=["whole", "new"])
def test_json_of_an_execution(execution: Execution, expected: Mapping[str, Any]) -> None:
    """The keys of an execution's JSON and their order are a contract; what only some runs have is left out."""
    assert json.dumps(execution.to_json()) == json.dumps(expected)


@given(executions)
def test_execution_is_read_from_its_json(execution: Execution) -> None:
    """An execution equals the one that is read from its JSON text."""
    assert Execution.from_json(json.loads(json.dumps(execution.to_json()))) == execution


@given(steps)
def test_step_is_read_from_its_json(step: StepResult) -> None:
    """A step's result equals the one that is read from its JSON text."""
    assert StepResult.from_json(json.loads(json.dumps(step.to_json()))) == step


def test_the_json_has_the_outbound_policy_without_the_guard_of_this_machine() -> None:
    """The JSON has the policy and who chose it; what the operating system enforces is in the journal and the timeline only."""
    assert Execution.from_json(RUN.to_json()).outbound_policy == OutboundPolicyRecord("deny", "--egress")
    assert json.loads(json.dumps(RUN.to_json()))["outbound_policy"] == {"policy": "deny", "origin": "--egress"}


@pytest.mark.parametrize(
    ("status", "message"), [("error", "The run of 'flow' failed."), ("cancelled", "The run of 'flow' was cancelled.")]
)
def test_a_failed_or_cancelled_run_raises(status: Status, message: str) -> None:
    """A failed and a cancelled run raise an error that has the run; any other status returns it."""
    run = replace(NEW_RUN, workflow="flow", status=status, error=None)

    with pytest.raises(RunFailedError) as caught:
        run.raise_for_status()

    assert caught.value.execution is run
    assert caught.value.message == message
    assert NEW_RUN.raise_for_status() is NEW_RUN


def test_a_step_that_fails_with_an_error_named_cancelled_is_not_cancelled() -> None:
    """A step counts as cancelled if pdkernel cancelled it; an error of that name in the step's code has a stack."""
    by_pdkernel = StepResult("wait", "error", error=ErrorRecord("step_failed", "Cancelled", "The run was cancelled."))
    by_its_code = StepResult("order", "error", error=replace(ERROR, name="Cancelled"))

    assert (by_pdkernel.is_cancelled, by_its_code.is_cancelled) == (True, False)

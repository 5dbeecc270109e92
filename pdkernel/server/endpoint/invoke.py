"""
A request to an endpoint: found, let in, read, run, answered.

Knows that order. Each part is its own module's to know.
"""

from __future__ import annotations

import shlex
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pdkernel.engine.request import RunRequest
from pdkernel.errors import RequestError
from pdkernel.event import Event
from pdkernel.identity import parse_environment
from pdkernel.model import Trigger, Workflow
from pdkernel.server.endpoint import access, answers, waking
from pdkernel.server.endpoint.address import Address, find_address
from pdkernel.server.endpoint.bodies import (
    ABSENT,
    BODY_BYTES,
    BodyError,
    BodyTooLargeError,
    drain,
    fields_of,
    read_body,
)
from pdkernel.server.guard import note
from pdkernel.server.hosts import HostNames
from pdkernel.server.peers import client_ip, scheme_of
from pdkernel.server.running import Started
from pdkernel.server.serving import Serving
from pdkernel.source import workflows_beside

UPLOAD_QUERY = "pipedream_upload_body"
UNRECORDED = "The run could not be recorded: the project's database cannot be written. Its steps may have run."
TOO_LARGE = RequestError(
    f"The body is over {BODY_BYTES // 1024} KB.",
    fix="Send large data as a file of a form, or with the header x-pd-upload-body: 1.",
)
"""Why a run is refused whose body was not read to its end."""


class Endpoint:
    """The application that answers requests to endpoints, whatever their method."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one."""
        request = Request(scope, receive)
        try:
            response = await _answer(request)
        except ClientDisconnect:
            return
        await response(scope, receive, send)


async def _answer(request: Request) -> Response:
    state = request.app.state
    serving: Serving = state.serving
    address = _address(request, serving)
    trigger = _http_trigger(address.workflow.source.workflow) if address else None
    if address is None or trigger is None:
        woken = await waking.answer(request) if address is None else None
        return woken or answers.refused(404, "There is no such endpoint.")
    if request.method == "OPTIONS":
        return answers.preflight(request.headers.get("access-control-request-headers"))
    why = await access.refusal(serving, address.workflow, trigger, request.headers.get("authorization"))
    if why is not None:
        more = {"www_authenticate": "Bearer"} if why.status == 401 else {"retry_after": "2"}
        return answers.refused(why.status, why.text, **more)
    if state.runs.full or (serving.settings.rate_limits and not state.throttle.passes(address.workflow.endpoint)):
        return answers.refused(429, "Too many requests.", retry_after="1")
    query = fields_of(parse_qsl(address.query, keep_blank_values=True)) if address.query else {}
    return await _received(request, serving, address, trigger, query)


async def _received(
    request: Request, serving: Serving, address: Address, trigger: Trigger, query: dict[str, Any]
) -> Response:
    refusal = None
    try:
        upload = _switch(request, query, "x-pd-upload-body") or query.get(UPLOAD_QUERY) == "1"
        body = await read_body(request, request.app.state.uploads, upload=upload)
    except BodyTooLargeError:
        # the platform lists such an event, too, with the error
        body, refusal = ABSENT, TOO_LARGE
        await drain(request)
    except BodyError as wrong:
        return answers.refused(400, str(wrong))
    try:
        run = _start(request, serving, address, trigger, query, body, refusal=refusal)
    except RequestError as wrong:
        return answers.refused(400, str(wrong))
    if refusal is None:
        return await _answered(request, serving, address, trigger, run)
    _note(request, run)
    await run.accepted
    return answers.refused(413, str(refusal).replace("\n", " "))


async def _answered(request: Request, serving: Serving, address: Address, trigger: Trigger, run: Started) -> Response:
    made = run.request
    _note(request, run)
    if trigger.response != "custom" or made.only is not None:
        if not await run.accepted:
            # not 5xx: its steps may have run, and the request would be sent again
            return answers.refused(400, UNRECORDED)
        return answers.accepted(serving, address.workflow, run)
    raw = await run.answer
    execution = None
    if raw is None and run.ended.done():
        if run.ended.cancelled() or run.ended.exception() is not None:
            return answers.responded(None, None)
        execution = run.ended.result()
    return answers.responded(raw, execution)


def _note(request: Request, run: Started) -> None:
    made = run.request
    who = f"{made.external_user_id or 'no external user'}, {made.environment}"
    note(request.scope, f"{made.workflow.name} ({who}) run {run.run_id}", run.outcome)


def _address(request: Request, serving: Serving) -> Address | None:
    trusted = serving.settings.trusted_proxies
    forwarded = request.headers.get("x-forwarded-host", "") if request.scope.get("pdkernel.key") else ""
    names: HostNames = request.app.state.names
    host = request.headers.get("host", "")
    if forwarded and names.endpoint(host) is None:
        host = forwarded
    return find_address(
        request.scope,
        scheme=scheme_of(request.scope, request.headers, trusted),
        host=host,
        workflows=serving.workflows,
        names=names,
    )


def _http_trigger(workflow: Workflow) -> Trigger | None:
    return next((trigger for trigger in workflow.triggers if trigger.type == "http"), None)


def _start(
    request: Request,
    serving: Serving,
    address: Address,
    trigger: Trigger,
    query: dict[str, Any],
    body: Any,
    *,
    refusal: RequestError | None,
) -> Started:
    served = address.workflow
    workflow = served.source.workflow
    if workflow.trigger is not trigger:
        others = tuple(each for each in workflow.triggers if each is not trigger)
        workflow = replace(workflow, triggers=(trigger, *others))
    event = Event(_event(request, serving, address, query, body))
    recorded = _switch(request, query, "x-pd-notrigger")
    runs: Any = request.app.state.runs
    made: Started = runs.start(
        partial(
            RunRequest,
            workflow=workflow,
            event=event,
            policy=served.policy or serving.settings.policy,
            external_user_id=event.external_user_id,
            environment=parse_environment(event.environment),
            variables=served.variables,
            folder=served.folder,
            actions=served.source.sidecar.actions if served.source.sidecar else None,
            # parity[notrigger]: a request with x-pd-notrigger is kept as a run whose steps did not run
            only=frozenset() if recorded else None,
            test=recorded,
            source=shlex.quote(str(served.source.path)),
            # parity[served-pauses]: a served run waits in this process; one that is suspended is cancelled at its end
            pauses="wait",
            base_url=serving.settings.url,
            find_workflow=workflows_beside(served.source.path),
            workflow_id=served.id,
            store=not _switch(request, query, "x-pd-nostore"),
            refusal=refusal,
        )
    )
    return made


def _event(request: Request, serving: Serving, address: Address, query: dict[str, Any], body: Any) -> dict[str, Any]:
    headers: dict[str, str] = {}
    for name, value in request.headers.items():
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    event = {
        "method": request.method,
        "path": address.path,
        "query": query,
        "client_ip": client_ip(request.scope, request.headers, serving.settings.trusted_proxies),
        "url": address.url,
        "headers": headers,
    }
    return event if body is ABSENT else {**event, "body": body}


def _switch(request: Request, query: dict[str, Any], name: str) -> bool:
    return (name.encode(), b"1") in request.headers.raw or query.get(name) == "1"

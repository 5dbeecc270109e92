"""Handles a request to an endpoint: route, auth, rate limit, body, run, response."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pdkernel.engine.http_response import build_text_response
from pdkernel.engine.run_request import RequestRefusal, RunRequest
from pdkernel.errors import RequestError
from pdkernel.event import Event
from pdkernel.identity import parse_environment
from pdkernel.model import Trigger, Workflow
from pdkernel.server.access_log import add_access_log_note
from pdkernel.server.app_context import AppContext
from pdkernel.server.client_address import resolve_client_ip, resolve_scheme
from pdkernel.server.endpoint import responses, trigger_auth, trigger_handler
from pdkernel.server.endpoint.endpoint_route import EndpointRoute, resolve_route
from pdkernel.server.endpoint.request_body import (
    MAX_BODY_BYTES,
    NO_BODY,
    BodyError,
    BodyTooLargeError,
    collect_fields,
    discard_body,
    read_body,
)
from pdkernel.server.host_names import HostNames
from pdkernel.server.run_registry import RunRegistry, StartedRun
from pdkernel.source import sibling_workflow_finder

UPLOAD_QUERY_PARAM = "pipedream_upload_body"
UNRECORDED_MESSAGE = "The run could not be recorded: the project's database cannot be written. Its steps may have run."


class Endpoint:
    """The application that answers requests to endpoints, whatever their method."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to a request."""
        request = Request(scope, receive)
        try:
            response = await _handle(request)
        except ClientDisconnect:
            return
        await response(scope, receive, send)


async def _handle(request: Request) -> Response:
    state = request.app.state
    context: AppContext = state.context
    address = _resolve_route(request, context)
    trigger = _http_trigger(address.workflow.source.workflow) if address else None
    if address is None or trigger is None:
        trigger_response = await trigger_handler.handle_trigger_request(request) if address is None else None
        return trigger_response or responses.refusal_response(404, "There is no such endpoint.")
    if request.method == "OPTIONS":
        return responses.preflight(request.headers.get("access-control-request-headers"))
    why = await trigger_auth.check_auth(context, address.workflow, trigger, request.headers.get("authorization"))
    if why is not None:
        more = {"www_authenticate": "Bearer"} if why.status == 401 else {"retry_after": "2"}
        return responses.refusal_response(why.status, why.text, **more)
    if state.runs.is_full or (
        context.settings.applies_rate_limits and not state.throttle.try_acquire(address.workflow.endpoint_key)
    ):
        return responses.refusal_response(429, "Too many requests.", retry_after="1")
    query = collect_fields(parse_qsl(address.query, keep_blank_values=True)) if address.query else {}
    return await _read_and_start(request, context, address, trigger, query)


async def _read_and_start(
    request: Request, context: AppContext, address: EndpointRoute, trigger: Trigger, query: dict[str, Any]
) -> Response:
    refusal = None
    try:
        upload = _has_flag(request, query, "x-pd-upload-body") or query.get(UPLOAD_QUERY_PARAM) == "1"
        body = await read_body(request, request.app.state.uploads, store_whole=upload)
    except BodyTooLargeError:
        # the platform also records such an event with the error
        body, refusal = NO_BODY, _refuse_large_body()
        await discard_body(request)
    except BodyError as error:
        return responses.refusal_response(400, str(error))
    try:
        run = _start(request, context, address, trigger, query, body, refusal=refusal)
    except RequestError as error:
        return responses.refusal_response(400, str(error))
    made = run.request
    who = f"{made.external_user_id or 'no external user'}, {made.environment}"
    add_access_log_note(request.scope, f"{made.workflow.name} ({who}) run {run.run_id}", run.outcome)
    if made.has_response:
        return responses.workflow_response(await run.response)
    if not await run.recorded:
        # not 5xx: SDKs would repeat the request, but the steps may have run
        return responses.refusal_response(400, UNRECORDED_MESSAGE)
    return responses.accepted_response(context, address.workflow, run)


def _refuse_large_body() -> RequestRefusal:
    error = RequestError(
        f"The body is larger than {MAX_BODY_BYTES // 1024} KB.",
        fix="Send large data as a file in a form, or with the header x-pd-upload-body: 1.",
    )
    return RequestRefusal(error, build_text_response(413, f"{error.message} {error.fix}\n"))


def _resolve_route(request: Request, context: AppContext) -> EndpointRoute | None:
    trusted = context.settings.trusted_proxies
    forwarded = request.headers.get("x-forwarded-host", "") if request.scope.get("pdkernel.key") else ""
    names: HostNames = request.app.state.names
    host = request.headers.get("host", "")
    if forwarded and names.find_endpoint_key(host) is None:
        host = forwarded
    return resolve_route(
        request.scope,
        scheme=resolve_scheme(request.scope, request.headers, trusted),
        host=host,
        workflows=context.workflows,
        host_names=names,
    )


def _http_trigger(workflow: Workflow) -> Trigger | None:
    return next((trigger for trigger in workflow.triggers if trigger.type == "http"), None)


def _start(
    request: Request,
    context: AppContext,
    address: EndpointRoute,
    trigger: Trigger,
    query: dict[str, Any],
    body: Any,
    *,
    refusal: RequestRefusal | None,
) -> StartedRun:
    served = address.workflow
    workflow = served.source.workflow
    if workflow.trigger is not trigger:
        others = tuple(each for each in workflow.triggers if each is not trigger)
        workflow = replace(workflow, triggers=(trigger, *others))
    event = Event(_build_event(request, context, address, query, body))
    recorded = _has_flag(request, query, "x-pd-notrigger")
    runs: RunRegistry = request.app.state.runs
    return runs.start(
        RunRequest(
            workflow=workflow,
            event=event,
            policy=served.policy or context.settings.policy,
            external_user_id=event.external_user_id,
            environment=parse_environment(event.environment),
            variables=served.variables,
            folder=served.folder,
            actions_source=served.source.sidecar.actions if served.source.sidecar else None,
            # parity[notrigger]: a request with x-pd-notrigger is recorded as a run without steps
            only_steps=frozenset() if recorded else None,
            test=recorded,
            source=shlex.quote(str(served.source.path)),
            # parity[served-pauses]: a served run waits in this process; a suspended run is cancelled at shutdown
            pause_mode="wait",
            base_url=context.settings.base_url,
            find_workflow=sibling_workflow_finder(served.source.path),
            workflow_id=served.id,
            keep_in_journal=not _has_flag(request, query, "x-pd-nostore"),
            refusal=refusal,
        )
    )


def _build_event(
    request: Request, context: AppContext, address: EndpointRoute, query: dict[str, Any], body: Any
) -> dict[str, Any]:
    headers: dict[str, str] = {}
    for name, value in request.headers.items():
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    event = {
        "method": request.method,
        "path": address.remaining_path,
        "query": query,
        "client_ip": resolve_client_ip(request.scope, request.headers, context.settings.trusted_proxies),
        "url": address.url,
        "headers": headers,
    }
    return event if body is NO_BODY else {**event, "body": body}


def _has_flag(request: Request, query: dict[str, Any], name: str) -> bool:
    return (name.encode(), b"1") in request.headers.raw or query.get(name) == "1"

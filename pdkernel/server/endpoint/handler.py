"""Handles a request to an endpoint: workflow, trigger's auth, rate limit, body, run, response."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pdkernel.common.blocking import run_blocking, until_silent
from pdkernel.common.identity import parse_environment
from pdkernel.egress.own_server import StepCaller
from pdkernel.engine.http_response import HttpResponse, build_text_response
from pdkernel.engine.run_context import fired_by
from pdkernel.engine.run_request import RequestRefusal, RunRequest
from pdkernel.errors import RequestError
from pdkernel.event import Event
from pdkernel.model import Trigger, Workflow
from pdkernel.server.access_log import add_access_log_note
from pdkernel.server.app_context import AppContext, ServedWorkflow
from pdkernel.server.app_state import AppState, get_state
from pdkernel.server.authorization import INVOKE_SCOPE, UnauthorizedError, authorize, parse_bearer_token
from pdkernel.server.client_address import resolve_client_ip, resolve_scheme
from pdkernel.server.endpoint import responses, trigger_handler
from pdkernel.server.endpoint.request_body import (
    MAX_BODY_BYTES,
    NO_BODY,
    BodyError,
    BodyTooLargeError,
    discard_body,
    parse_query,
    read_body,
)
from pdkernel.server.middleware import BASE_PATH_KEY, RETRY_AFTER_S, UNAVAILABLE_MESSAGE, UNKNOWN_OUTCOME_MESSAGE
from pdkernel.server.pipedream_tokens import TokenStatus
from pdkernel.server.run_registry import StartedRun, build_run_request
from pdkernel.server.step_connections import STEP_CALL_KEY

UPLOAD_QUERY_PARAM = "pipedream_upload_body"

STEP_CALL_MESSAGE = (
    "The run of this step has an external user, so its step cannot call an endpoint without auth for another one, after its end, "
    "or past the proxy that its environment variables name. "
    "Leave out x-pd-external-user-id: the new run has the user of this run."
)
_SDK_MANGLED_PATH = re.compile(r"/(https?):/{1,2}([^/?#]+)(/[^?]*)?(?:\?(.*))?\Z", re.DOTALL | re.IGNORECASE)
_ESCAPED = re.compile("%3a|%3f", re.IGNORECASE)
_MAX_KEY_POSITION = 8
"""Number of path segments that are searched for the key."""
_LACKS_SCOPE = f"The access token lacks the scope {INVOKE_SCOPE}."


@dataclass(frozen=True, slots=True)
class EndpointRoute:
    """
    The route of a request.

    Attributes:
        workflow: The workflow of the endpoint.
        remaining_path: The path after the key, or `/`.
        url: The URL that the client requested.
        query: The query string.
    """

    workflow: ServedWorkflow
    remaining_path: str
    url: str
    query: str


@dataclass(frozen=True)
class _AuthRefusal:
    """The message and status of the response to an unauthorized request."""

    text: str
    status: int = 401


class Endpoint:
    """The application that answers requests to endpoints, regardless of their method."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to a request."""
        request = Request(scope, receive)
        shares_host = "pdkernel.key" not in scope
        try:
            is_worker = shares_host and "service-worker" in request.headers
            response = responses.refuse_service_worker() if is_worker else await _handle(request)
        except ClientDisconnect:
            return
        if shares_host:
            responses.isolate_response(response)
        else:
            responses.isolate_host(response, request.headers.get("host", ""))
        await response(scope, receive, send)


async def _handle(request: Request) -> Response:
    state = get_state(request.app)
    route = _resolve_route(request, state)
    trigger = _http_trigger(route.workflow.source.workflow) if route else None
    if route is None or trigger is None:
        response = await trigger_handler.handle_trigger_request(request, state) if route is None else None
        return response or responses.refusal_response(404, "There is no such endpoint.")
    if request.method == "OPTIONS":
        return responses.preflight(request.headers.get("access-control-request-headers"))
    refused = await _check_auth(state.context, route.workflow, trigger, request.headers.get("authorization"))
    if refused is not None:
        headers = {"www-authenticate": "Bearer"} if refused.status == 401 else {"retry-after": "2"}
        return responses.refusal_response(refused.status, refused.text, headers)
    user = Event({"headers": _collect_headers(request)}).external_user_id
    caller = _find_caller(request, trigger)
    if caller is not None and (caller.environment is None or user not in (None, caller.external_user_id or user)):
        return responses.refusal_response(403, STEP_CALL_MESSAGE)
    limited = responses.check_limits(state, route.workflow.endpoint_key, user)
    return limited or await _read_and_start(request, state, route, trigger)


async def _read_and_start(request: Request, state: AppState, route: EndpointRoute, trigger: Trigger) -> Response:
    refusal = None
    try:
        query = parse_query(route.query)
        upload = _has_flag(request, query, "x-pd-upload-body") or query.get(UPLOAD_QUERY_PARAM) == "1"
        body = await read_body(request, state.uploads, store_whole=upload)
    except BodyTooLargeError:
        # the platform also records such an event with the error
        body, refusal = NO_BODY, _refuse_large_body()
        await discard_body(request)
    except BodyError as error:
        return responses.refusal_response(400, str(error))
    if state.is_stopping:  # a run that starts now would not be finished before the workers end
        return responses.stopping_response()
    if not state.context.engine.journal.may_start:
        return responses.refusal_response(503, UNAVAILABLE_MESSAGE, {"retry-after": str(RETRY_AFTER_S)})
    try:
        made = _build_run_request(request, state, route, trigger, query, body, refusal=refusal)
    except RequestError as error:
        return responses.refusal_response(400, str(error))
    if (response := await _find_first(state, route, made)) is not None:
        return response
    run = state.runs.start(made)
    who = f"{made.external_user_id or 'no external user'}, {made.environment}"
    add_access_log_note(request.scope, f"{made.workflow.name} ({who}) run {run.run_id}", run.outcome)
    recorded = await until_silent(run.recorded)
    if isinstance(recorded, HttpResponse):
        return responses.workflow_response(recorded)
    if not recorded:
        return await _find_first(state, route, made) or responses.refusal_response(
            503, UNKNOWN_OUTCOME_MESSAGE, {"retry-after": str(RETRY_AFTER_S)}
        )
    return await _respond(state, route, run)


async def _respond(state: AppState, route: EndpointRoute, run: StartedRun) -> Response:
    """Return the response to the request of a recorded run."""
    if run.request.has_response:
        return responses.workflow_response(await run.response)
    return responses.accepted_response(state.context, route.workflow, run)


async def _find_first(state: AppState, route: EndpointRoute, repeated: RunRequest) -> Response | None:
    """Return the response of the run that the same request has started before; None if there is none."""
    if repeated.dedupe_key is None:
        return None
    run_id = await state.context.engine.journal.find_run_id(repeated.dedupe_key)
    return None if run_id is None else await _respond(state, route, state.runs.follow(run_id, repeated))


def _refuse_large_body() -> RequestRefusal:
    error = RequestError(
        f"The body is larger than {MAX_BODY_BYTES // 1024} KB.",
        fix="Send large data as a file in a form, or with the header x-pd-upload-body: 1.",
    )
    return RequestRefusal(error, build_text_response(413, f"{error.message} {error.fix}\n"))


def _resolve_route(request: Request, state: AppState) -> EndpointRoute | None:
    """
    Return the route of a request, or None if it does not name an endpoint.

    The endpoint's key is in the host name or in the path. Python SDKs 1.1.12 to 2.3.0 send the whole URL as the path:
    `/https:/KEY.m.pipedream.net/...`.
    """
    forwarded = request.headers.get("x-forwarded-host", "") if request.scope.get("pdkernel.key") else ""
    host = request.headers.get("host", "")
    if forwarded and state.names.find_endpoint_key(host) is None:
        host = forwarded
    scope, workflows = request.scope, state.context.workflows
    scheme = resolve_scheme(scope, request.headers, state.context.settings.trusted_proxies)
    raw = scope.get("raw_path") or scope["path"].encode()
    path = raw.decode("latin-1")
    query = scope.get("query_string", b"").decode("latin-1")
    key = scope.get("pdkernel.key")
    base = scope.get(BASE_PATH_KEY, "")
    if key is not None:
        found = workflows.find(key)
        return (
            EndpointRoute(found, unquote(path) or "/", _url(scheme, host, base + path, query), query) if found else None
        )
    mangled = (
        _SDK_MANGLED_PATH.match(_ESCAPED.sub(lambda found: unquote(found[0]), path))
        if path[:5].lower() == "/http"
        else None
    )
    if mangled:
        scheme, host, path, nested = mangled[1].lower(), mangled[2], mangled[3] or "/", mangled[4] or ""
        query = "&".join(part for part in (nested, query) if part)
        key = state.names.find_endpoint_key(host)
        found = workflows.find(key) if key else None
        if found is not None:
            return EndpointRoute(found, unquote(path), _url(scheme, host, path, query), query)
    parts = path.split("/")
    for index, part in enumerate(parts[1 : _MAX_KEY_POSITION + 1], 1):
        found = workflows.find(unquote(part)) if part else None
        if found is not None:
            rest = "/" + "/".join(parts[index + 1 :])
            return EndpointRoute(found, unquote(rest), _url(scheme, host, base + path, query), query)
    return None


def _url(scheme: str, host: str, path: str, query: str) -> str:
    return f"{scheme}://{host}{path}" + (f"?{query}" if query else "")


async def _check_auth(
    context: AppContext, served: ServedWorkflow, trigger: Trigger, authorization: str | None
) -> _AuthRefusal | None:
    """
    Return the reason why the request may not start the workflow, or None.

    Tokens are compared in constant time.
    """
    if trigger.auth == "none":
        return None
    if trigger.auth == "bearer":
        expected = served.variables.get(trigger.token_env or "") or None
        given = parse_bearer_token(authorization) or ""
        same = expected is not None and hmac.compare_digest(given.encode("latin-1", "replace"), expected.encode())
        return None if same else _AuthRefusal("This endpoint requires its token: Authorization: Bearer TOKEN.")
    try:
        caller = await run_blocking(authorize, context.project, authorization)
    except UnauthorizedError as why:
        token = parse_bearer_token(authorization)
        if context.passthrough is not None and token is not None:
            return _refusal_for_status(context, await context.passthrough.tokens.check(token))
        where = f"POST {context.settings.base_url}/v1/oauth/token"
        return _AuthRefusal(f"{why} This endpoint requires an OAuth access token. Get one with {where}.")
    return None if caller.has_scope(INVOKE_SCOPE) else _AuthRefusal(_LACKS_SCOPE)


def _refusal_for_status(context: AppContext, status: TokenStatus) -> _AuthRefusal | None:
    match status:
        case "good":
            return None
        case "scope":
            return _AuthRefusal(_LACKS_SCOPE)
        case "unchecked":
            return _AuthRefusal("The access token could not be checked: Pipedream does not respond. Try again.", 503)
        case "unknown":
            return _AuthRefusal(
                "Neither this server nor the workspace of its Connect project issued this access token. "
                f"Get a token with POST {context.settings.base_url}/v1/oauth/token."
            )


def _http_trigger(workflow: Workflow) -> Trigger | None:
    return next((trigger for trigger in workflow.triggers if trigger.type == "http"), None)


def _build_run_request(
    request: Request,
    state: AppState,
    route: EndpointRoute,
    trigger: Trigger,
    query: dict[str, Any],
    body: Any,
    *,
    refusal: RequestRefusal | None,
) -> RunRequest:
    workflow = fired_by(route.workflow.source.workflow, trigger)
    event = Event(_build_event(request, state, route, query, body))
    if (caller := _find_caller(request, trigger)) is not None and caller.external_user_id is not None:
        event = event.with_identity(caller.external_user_id, caller.environment)
    is_only_recorded = _has_flag(request, query, "x-pd-notrigger")
    is_kept = not _has_flag(request, query, "x-pd-nostore")
    key = request.headers.get("idempotency-key")
    return build_run_request(
        state.context,
        route.workflow,
        event,
        external_user_id=event.external_user_id,
        environment=parse_environment(event.environment),
        workflow=workflow,
        # parity[notrigger]: a request with x-pd-notrigger is recorded as a run without steps
        is_only_recorded=is_only_recorded,
        test=is_only_recorded,
        keep_in_journal=is_kept,
        refusal=refusal,
        dedupe_key=None if key is None or not is_kept else _build_dedupe_key(key, route.workflow.id, event),
    )


def _build_dedupe_key(key: str, workflow_id: str, event: Event) -> str:
    """
    Build the dedupe key of a request with an `Idempotency-Key`.

    Another request with the same key, because its sender counts from 1 or has a bug, is another event.
    """
    # parity[request-idempotency]: the platform starts a run for each request
    sent = {name: event.data.get(name) for name in ("method", "path", "query", "body")}
    parts = [key, workflow_id, event.external_user_id, event.environment, sent]
    return f"request/{hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()}"


def _build_event(
    request: Request, state: AppState, route: EndpointRoute, query: dict[str, Any], body: Any
) -> dict[str, Any]:
    event = {
        "method": request.method,
        "path": route.remaining_path,
        "query": query,
        "client_ip": resolve_client_ip(request.scope, request.headers, state.context.settings.trusted_proxies),
        "url": route.url,
        "headers": _collect_headers(request),
    }
    return event if body is NO_BODY else {**event, "body": body}


def _find_caller(request: Request, trigger: Trigger) -> StepCaller | None:
    """
    Find the run whose step calls an endpoint without auth: the new run is like its child run, so it has its user.

    With a token, a step is a client like any other.
    """
    caller: StepCaller | None = request.scope.get(STEP_CALL_KEY)
    return caller if trigger.auth == "none" else None


def _collect_headers(request: Request) -> dict[str, str]:
    """Return the headers of an event: repeated ones are joined."""
    headers: dict[str, str] = {}
    for name, value in request.headers.items():
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _has_flag(request: Request, query: dict[str, Any], name: str) -> bool:
    return (name.encode(), b"1") in request.headers.raw or query.get(name) == "1"

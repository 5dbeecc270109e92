"""
Handles a request to the endpoint of a deployed trigger, or of a workflow's source or e-mail trigger.

The caller gets 2xx only for what is stored. Without `customResponse`, that is the source's events: a request that a crash
interrupts has no response, so its sender repeats it. With `customResponse`, the caller gets the source's response as soon as the
request itself is stored, which then runs again after a crash. Otherwise the response is 503, or 500 if the source failed. The
secret key in the URL is the only authorization, as on the platform.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import Response

from pdkernel.actions import ActionReference
from pdkernel.common.blocking import run_blocking
from pdkernel.engine.event_sources import HTTP_INTERFACE, SourceResult
from pdkernel.errors import PdkernelError, ProjectError
from pdkernel.model import JSON
from pdkernel.server.access_log import add_access_log_note
from pdkernel.server.answered_requests import PendingResponse
from pdkernel.server.app_context import AppContext
from pdkernel.server.app_state import AppState
from pdkernel.server.client_address import resolve_client_ip, resolve_scheme
from pdkernel.server.endpoint import responses
from pdkernel.server.endpoint.request_body import (
    MAX_BODY_BYTES,
    BodyError,
    BodyTooLargeError,
    parse_query,
    read_body_and_text,
)
from pdkernel.server.middleware import RETRY_AFTER_S
from pdkernel.server.source_turns import SourceOccasion
from pdkernel.storage import DeployedTrigger, TriggerState

_NOT_RUN_MESSAGE = "The source could not run. The log of the server has the reason."
_ENDED_MESSAGE = "The process of the source was ended before its events were stored. Send the request again."
_KEY = re.compile(r"en[a-z0-9]{16}\Z", re.IGNORECASE)
_LOG = logging.getLogger(__name__)


async def handle_trigger_request(request: Request, state: AppState) -> Response | None:
    """Return the response to *request*; None if the request does not address a trigger."""
    context = state.context
    key, path = _split_key(request)
    if key is None:
        return None
    deployed, stored = await run_blocking(_find, context, key)
    found = state.triggers.find_endpoint(stored)
    if deployed is None and found is None:
        return None
    if request.method == "OPTIONS":
        return responses.preflight(request.headers.get("access-control-request-headers"))
    limited = responses.check_limits(state, key)
    if limited is not None:
        return limited
    if state.is_stopping:
        return responses.stopping_response()
    try:
        event = await _build_event(request, context, path)
    except BodyTooLargeError:
        return responses.refusal_response(413, f"The body is larger than {MAX_BODY_BYTES // 1024} KB.")
    except BodyError as error:
        return responses.refusal_response(400, str(error))
    if deployed is not None:
        add_access_log_note(
            request.scope, f"invokes {deployed.key} ({deployed.external_user_id}, {deployed.environment})"
        )
        uses = ActionReference(deployed.key, deployed.version)
        run = partial(state.deployed_triggers.run, deployed)
        return await _run_and_respond(
            state, uses, PendingResponse(context.project.answered_requests, deployed.id, event), run
        )
    assert stored is not None
    assert found is not None
    served, trigger = found
    add_access_log_note(request.scope, f"invokes the {trigger.type} trigger of {served.source.workflow.name}")
    if trigger.type == "email":
        return await _receive_email(state, stored, event)
    uses = ActionReference.parse(str(trigger.config.get("uses") or ""))
    run = partial(state.triggers.run_source, served, stored)
    return await _run_and_respond(
        state, uses, PendingResponse(context.project.answered_requests, stored.id, event), run
    )


async def _receive_email(state: AppState, stored: TriggerState, request: Mapping[str, JSON]) -> Response:
    # parity[email-endpoint]: the body of a POST is the event of the e-mail trigger
    email = request["body"]
    if request["method"] != "POST" or not isinstance(email, dict):
        return responses.refusal_response(
            400,
            "An e-mail trigger accepts a POST whose body is a JSON object: the event, as Pipedream makes it of an e-mail.",
        )
    await state.triggers.receive_email(stored, email)
    return responses.trigger_response()


async def _run_and_respond(
    state: AppState,
    uses: ActionReference,
    pending: PendingResponse,
    run_source: Callable[[SourceOccasion], Coroutine[Any, Any, SourceResult | None]],
) -> Response:
    """
    Run a source for a request, and return its response.

    Raises:
        ProjectError: The database cannot be used, so neither the events nor the request is stored.
    """
    run = state.runs.start_source(run_source(pending.occasion))
    run.add_done_callback(_log_unexpected)
    if await _has_custom_response(state.context, uses):
        either: list[asyncio.Future[Any]] = [run, pending.sent]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if pending.sent.done():
            return responses.workflow_response(pending.sent.result())
    else:
        await asyncio.wait([run])
    if run.cancelled():
        return responses.stopping_response()
    fault = run.exception()
    if isinstance(fault, ProjectError):
        raise fault
    ran = run.result() if fault is None else None
    if ran is None:
        return responses.refusal_response(500, _NOT_RUN_MESSAGE)
    if not ran.is_stored:
        return responses.refusal_response(503, _ENDED_MESSAGE, {"retry-after": str(RETRY_AFTER_S)})
    if ran.record.error is not None:
        # the message is redacted, because it comes from the record
        return responses.refusal_response(
            500, f"The source failed: {ran.record.error.name}: {ran.record.error.message}"
        )
    # parity[source-response]: the response for a source that does not respond is not documented
    # parity[source-stored]: the platform answers 200 before the source has run
    return responses.trigger_response() if pending.response is None else responses.workflow_response(pending.response)


def _log_unexpected(run: asyncio.Task[Any]) -> None:
    fault = None if run.cancelled() else run.exception()
    if fault is not None and not isinstance(fault, PdkernelError):  # the others are logged where they are raised
        _LOG.error("A source could not be run: %s", type(fault).__name__, exc_info=fault)


async def _has_custom_response(context: AppContext, uses: ActionReference) -> bool:
    """Return whether the source sends its own response."""
    try:
        _, description = await context.forms.describe(uses, install=False)
    except PdkernelError:
        return False  # the source cannot be loaded; its run reports the error
    return any(prop.type == HTTP_INTERFACE and prop.definition.get("customResponse") for prop in description.props)


def _split_key(request: Request) -> tuple[str | None, str]:
    """Return the endpoint key in the host or the path of *request*, in lower case, or None, and the rest of the path."""
    raw = (request.scope.get("raw_path") or request.scope["path"].encode()).decode("latin-1")
    key = request.scope.get("pdkernel.key")
    if key is None:
        key, _, raw = raw.removeprefix("/").partition("/")
        raw = f"/{raw}"
    return (key.lower() if _KEY.match(key) else None), unquote(raw) or "/"


def _find(context: AppContext, key: str) -> tuple[DeployedTrigger | None, TriggerState | None]:
    """Return the active deployed trigger, or the state of a workflow's trigger, with that endpoint key."""
    trigger_id = context.project.endpoint_keys.find_trigger_id(key)
    if trigger_id is None:
        return None, None
    trigger = context.project.deployed_triggers.find(trigger_id)
    if trigger is not None:
        return (trigger if trigger.active and trigger.endpoint is not None else None), None
    return None, context.project.workflow_triggers.find(trigger_id)


async def _build_event(request: Request, context: AppContext, path: str) -> dict[str, JSON]:
    trusted = context.settings.trusted_proxies
    body, raw = await read_body_and_text(request)
    scheme, host = resolve_scheme(request.scope, request.headers, trusted), request.headers.get("host", "")
    query = request.scope.get("query_string", b"").decode("latin-1")
    raw_path = (request.scope.get("raw_path") or b"").decode("latin-1")
    return {
        "method": request.method,
        "path": path,
        "query": parse_query(query),
        "headers": {name: ", ".join(request.headers.getlist(name)) for name in request.headers},
        "bodyRaw": raw,
        "body": body,
        "url": f"{scheme}://{host}{raw_path}" + (f"?{query}" if query else ""),
        "client_ip": resolve_client_ip(request.scope, request.headers, trusted),
    }

"""The URLs that cancel or resume a run, and the health checks. They are open without a login."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from functools import partial

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from pdkernel.common.blocking import run_blocking
from pdkernel.common.encode import JsonStruct, decode_json
from pdkernel.engine.pauses import FLOW_URL_PATH, FlowVerb, verify_flow_url
from pdkernel.execution import UNFINISHED_STATUSES, Execution
from pdkernel.journal import ClaimedRun, NewDecision, WaitKey
from pdkernel.model import JSON
from pdkernel.render.formatting import format_decision
from pdkernel.server.app_context import AppContext
from pdkernel.server.app_state import get_state
from pdkernel.server.endpoint.request_body import NO_BODY, BodyError, BodyTooLargeError, read_body
from pdkernel.server.middleware import RETRY_AFTER_S
from pdkernel.server.step_connections import STEP_CALL_KEY

_VERBS: tuple[FlowVerb, ...] = ("resume", "cancel")
_FORM_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def routes() -> list[BaseRoute]:
    """Return the routes of this module."""
    return [
        Route("/-/live", live, methods=["GET"]),
        Route("/-/ready", ready, methods=["GET"]),
        *(
            Route(FLOW_URL_PATH.replace("{verb}", verb), partial(flow_url, verb), methods=["GET", "POST"])
            for verb in _VERBS
        ),
    ]


async def live(_: Request) -> Response:
    """Answer GET `/-/live`: the process responds."""
    return JSONResponse({"status": "live"})


async def ready(request: Request) -> Response:
    """Answer GET `/-/ready`: the server accepts requests; 503 after a shutdown has begun, or if the database cannot be used."""
    state = get_state(request.app)
    if state.is_stopping:
        return JSONResponse({"status": "stopping"}, status_code=503)
    if not state.database.answers or not state.context.engine.journal.may_start:
        headers = {"retry-after": str(RETRY_AFTER_S)}
        return JSONResponse({"status": "database unavailable"}, status_code=503, headers=headers)
    return JSONResponse({"status": "ready"})


async def flow_url(verb: FlowVerb, request: Request) -> Response:
    """
    Answer a step's `resume_url` or `cancel_url`. The URL itself is the authorization.

    A POST decides, and its body becomes the step's `$resume_data`. A GET only shows a page with a button, because mail
    clients and link previews follow links; it decides if a step of this server makes it, or if the workflow has
    `resume_on_get`.
    """
    # parity[resume-get]: on the platform any request to the URL resumes the run
    state, params = get_state(request.app), request.path_params
    context = state.context
    pause = await _find_pause(context, verb, params)
    if pause is None:
        return PlainTextResponse("There is no such run.\n", status_code=404, headers=_HEADERS)
    key, found = pause
    if request.method != "POST" and not (request.scope.get(STEP_CALL_KEY) or _resumes_on_get(found[1])):
        return _flow_page(verb, found[0])
    try:
        body = await read_body(request, state.uploads, store_whole=False)
    except (BodyTooLargeError, BodyError) as fault:
        status = 413 if isinstance(fault, BodyTooLargeError) else 400
        return PlainTextResponse(f"{fault}\n", status_code=status, headers=_HEADERS)
    by = f"{verb}_url, called by a step" if request.scope.get(STEP_CALL_KEY) else f"{verb}_url"
    decision = NewDecision("resumed" if verb == "resume" else "cancelled", by)
    resolution = await context.engine.resolve_wait(key, verb, None if body is NO_BODY else body, decision=decision)
    state.runs.dispatch.notify()
    if resolution == "late":
        current = await context.engine.journal.get_execution(key.run_id)
        return PlainTextResponse(_describe_late(current or found[0]), status_code=409, headers=_HEADERS)
    if verb == "cancel":
        await state.runs.cancel(key.run_id)
    done = "The run is cancelled.\n" if verb == "cancel" else "The run goes on.\n"
    return PlainTextResponse(done, headers=_HEADERS)


async def _find_pause(
    context: AppContext, verb: FlowVerb, params: Mapping[str, str]
) -> tuple[WaitKey, tuple[Execution, ClaimedRun]] | None:
    """
    Return the pause that the URL names, and its run; None if there is no such run, or the URL is not signed by this project.

    A key that was replaced opens only runs that began before: it may have been replaced because others know it.
    """
    project = context.project
    earlier = await run_blocking(lambda: project.earlier_signers)
    for sign, replaced in ((project.vault.sign, math.inf), *earlier):
        key = verify_flow_url(verb, params["run_id"], params["path"], params["number"], sign)
        if key is not None:
            found = await context.engine.journal.load_run(key.run_id)
            return None if found is None or found[1].created > replaced else (key, found)
    return None


def _resumes_on_get(claimed: ClaimedRun) -> bool:
    return decode_json(claimed.definition, _Definition).settings.get("resume_on_get") is True


class _Definition(JsonStruct, frozen=True):
    """The settings of a recorded definition."""

    settings: Mapping[str, JSON]


def _describe_late(execution: Execution) -> str:
    who = f" {format_decision(execution.decisions[-1])}." if execution.decisions else ""
    if execution.status in UNFINISHED_STATUSES:
        return f"Another call was first: the run has gone on already.{who}\n"
    return f"The run has ended already (status: {execution.status}).{who}\n"


def _flow_page(verb: FlowVerb, execution: Execution) -> Response:
    """Return the page with the button that resumes or cancels a run."""
    act = "Continue the run" if verb == "resume" else "Cancel the run"
    waits = execution.status in UNFINISHED_STATUSES
    button = f'<form method="post"><button>{act}</button></form>' if waits else ""
    note = "" if waits else f"<p>{html.escape(_describe_late(execution))}</p>"
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{act}</title><style>body{{font-family:system-ui,sans-serif;margin:24px;color-scheme:light dark}}"
        "button{font:inherit;padding:8px 16px}</style></head>"
        f"<body><h1>{html.escape(execution.workflow)}</h1>{note}{button}</body></html>"
    )
    return HTMLResponse(page, headers={**_HEADERS, "content-security-policy": _FORM_POLICY})

"""
Responses of endpoints: the platform's default response, the response of a workflow or a source, or an error.

An error about an event that is stored never has status 409 or 5xx, because SDKs would repeat the request.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from starlette.responses import JSONResponse, PlainTextResponse, Response

from pdkernel.common.clock import format_iso
from pdkernel.common.version import VERSION
from pdkernel.egress.message import strip_control_characters
from pdkernel.engine.http_response import HOST_WIDE_HEADERS, STATUSES_WITHOUT_BODY, HttpResponse
from pdkernel.engine.run_context import derive_id
from pdkernel.server.app_context import AppContext, ServedWorkflow
from pdkernel.server.app_state import AppState
from pdkernel.server.host_names import parse_host_name
from pdkernel.server.middleware import RETRY_AFTER_S
from pdkernel.server.run_registry import StartedRun

STOPPING_MESSAGE = "The server is stopping. Send the request again."
METHODS = "GET,HEAD,PUT,PATCH,POST,DELETE"

_PASSIVE_TYPE = re.compile(
    r"application/(?:[\w.+-]+\+json|json|pdf|octet-stream|zip)|text/(?:plain|css|csv|event-stream|javascript|markdown)"
    r"|image/(?!svg)[\w.+-]+|(?:audio|video|font)/[\w.+-]+"
)
"""Media types that a browser does not render as a page."""
_SANDBOX = (
    b"sandbox allow-scripts allow-forms allow-popups allow-popups-to-escape-sandbox allow-modals allow-downloads"
    b" allow-pointer-lock"
)

_COOKIE_DOMAIN = re.compile(rb";\s*domain\s*(?:=[^;]*)?(?=;|\Z)", re.IGNORECASE)
_CORS = {"access-control-allow-origin": "*"}


def preflight(requested_headers: str | None) -> Response:
    """Return the response to OPTIONS."""
    headers = {**_CORS, "access-control-allow-methods": METHODS}
    if requested_headers:
        allowed = strip_control_characters(requested_headers.encode("latin-1"))
        headers["access-control-allow-headers"] = allowed.decode("latin-1")
        headers["vary"] = "Access-Control-Request-Headers"
    return Response(status_code=204, headers=headers)


def refusal_response(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return an error response with one line of text."""
    return PlainTextResponse(f"{text}\n", status_code=status, headers={**_CORS, **(headers or {})})


def stopping_response() -> Response:
    """Return the response to a request that the server does not handle any more."""
    return refusal_response(503, STOPPING_MESSAGE, {"retry-after": str(RETRY_AFTER_S), "connection": "close"})


def check_limits(state: AppState, endpoint_key: str, external_user_id: str | None = None) -> Response | None:
    """Count a request to an endpoint for a user; return the response with status 429 if a limit is exceeded, or None."""
    is_limited = not state.runs.has_room(external_user_id) or (
        state.context.settings.applies_rate_limits and not state.rate_limiter.try_acquire(endpoint_key)
    )
    return refusal_response(429, "Too many requests.", {"retry-after": "1"}) if is_limited else None


def accepted_response(context: AppContext, served: ServedWorkflow, run: StartedRun) -> Response:
    """Return the platform's default response; the run continues."""
    # parity[default-answer]: the platform's keys; inspect and quickstart have the URL of the run's page
    url = context.settings.base_url
    content = {
        "about": f"pdkernel {VERSION}",
        "event_id": run.run_id,
        "workflow_id": served.id,
        "owner_id": derive_id("o_", context.directory.project_id),
        "deployment_id": derive_id("d_", run.request.workflow.version),
        "timestamp": format_iso(context.clock.now()),
        "inspect": f"{url}/-/runs/{run.run_id}",
        "quickstart": f"{url}/-/runs/{run.run_id}",
    }
    return JSONResponse(content, headers=_CORS)


def isolate_response(response: Response) -> None:
    """
    Keep a response of a workflow from acting on the server's own pages, if the request named the endpoint by its path.

    A page gets an origin of its own: its scripts could otherwise read the console and act on it. Headers that act on the whole
    host, such as `Clear-Site-Data`, are removed.
    """
    # parity[page-origin]: on the platform, each endpoint has a host name of its own
    response.raw_headers = [
        each for each in response.raw_headers if each[0].decode("latin-1").lower() not in HOST_WIDE_HEADERS
    ]
    types = ",".join(response.headers.getlist("content-type")).split(",")
    if response.body and not all(_PASSIVE_TYPE.fullmatch(each.partition(";")[0].strip().lower()) for each in types):
        response.raw_headers.append((b"content-security-policy", _SANDBOX))


def isolate_host(response: Response, host: str) -> None:
    """
    Keep a response at *host*, a host of the endpoint's own, from acting on the hosts beside and above.

    Below the name of the server, a cookie could have the server's domain, and `Clear-Site-Data` logs out of all of its hosts.
    """
    keeps_clear = parse_host_name(host).endswith(
        ".localhost"
    )  # browsers take each of these names for a site of its own
    response.raw_headers = [
        (name, _COOKIE_DOMAIN.sub(b"", value) if name.lower() == b"set-cookie" else value)
        for name, value in response.raw_headers
        if keeps_clear or name.lower() != b"clear-site-data"
    ]


def refuse_service_worker() -> Response:
    """Refuse a service worker from the path of an endpoint: it would answer for the server's own pages."""
    return refusal_response(403, "A service worker is loaded only from a host of the endpoint: KEY.localhost.")


def trigger_response() -> Response:
    """Return the default response to a request that invokes a deployed trigger."""
    return Response(status_code=200, headers=_CORS)


def workflow_response(response: HttpResponse) -> Response:
    """Return the response that the steps of a workflow, or a source, made."""
    headers = [(name.lower(), value) for name, value in response.headers]
    if all(name != b"access-control-allow-origin" for name, _ in headers):
        headers.append((b"access-control-allow-origin", b"*"))
    if response.media_type is not None:
        headers += [(b"content-type", response.media_type.encode()), (b"x-content-type-options", b"nosniff")]
    if response.status not in STATUSES_WITHOUT_BODY - {205}:  # a 205 has a body of length zero (RFC 9110, 15.3.6)
        headers.append((b"content-length", str(len(response.content)).encode()))
    answer = Response(response.content, status_code=response.status)
    answer.raw_headers = headers
    return answer

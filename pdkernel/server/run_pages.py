"""
Pages of the server: a run, the URLs that cancel or resume a run, and the health checks.

Run pages are visible from this machine, and with the admin token from other machines. Rendering is in `render`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import html
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from pdkernel.encode import encode_json
from pdkernel.execution import UNFINISHED_STATUSES
from pdkernel.render import timeline
from pdkernel.server.app_context import AppContext
from pdkernel.server.app_state import get_state
from pdkernel.server.client_address import is_from_this_machine
from pdkernel.server.host_names import is_loopback_name

_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def routes() -> list[BaseRoute]:
    """Routes of this module."""
    return [
        Route("/-/live", live, methods=["GET"]),
        Route("/-/ready", ready, methods=["GET"]),
        Route("/-/runs/{run_id}", run_page, methods=["GET"]),
        Route("/cancel/{run_id}/{step}", cancel, methods=["GET", "POST"]),
        Route("/resume/{run_id}/{step}", resume, methods=["GET", "POST"]),
    ]


async def live(_: Request) -> Response:
    """GET `/-/live`: the process responds."""
    return JSONResponse({"status": "live"})


async def ready(request: Request) -> Response:
    """GET `/-/ready`: the server accepts requests; 503 after a shutdown has begun."""
    if get_state(request.app).is_stopping:
        return JSONResponse({"status": "stopping"}, status_code=503)
    return JSONResponse({"status": "ready"})


async def run_page(request: Request) -> Response:
    """GET `/-/runs/{run_id}`: the run as a notebook shows it."""
    context = get_state(request.app).context
    if not _is_local_request(request, context) and not _is_admin(context, request.headers.get("authorization", "")):
        return PlainTextResponse(
            "Run pages open on the server's own machine (without a proxy and --public-url), or with the admin token "
            "(PDKERNEL_ADMIN_TOKEN).\n",
            status_code=401,
            headers={**_HEADERS, "www-authenticate": 'Basic realm="pdkernel"'},
        )
    execution = await context.engine.journal.get_execution(request.path_params["run_id"])
    if execution is None:
        return PlainTextResponse("There is no such run.\n", status_code=404, headers=_HEADERS)
    if "application/json" in request.headers.get("accept", ""):
        return Response(encode_json(execution), media_type="application/json", headers=_HEADERS)
    refresh = '<meta http-equiv="refresh" content="2">' if execution.status in UNFINISHED_STATUSES else ""
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{html.escape(execution.workflow)}</title>{refresh}'
        "<style>body{font-family:system-ui,sans-serif;margin:24px;color-scheme:light dark}</style></head>"
        f"<body>{timeline.render_html(execution)}</body></html>"
    )
    return HTMLResponse(page, headers=_HEADERS)


async def cancel(request: Request) -> Response:
    """A step's `cancel_url`: the run ends as cancelled. The URL itself is the authorization."""
    found = await get_state(request.app).runs.cancel(request.path_params["run_id"])
    text = "The run is cancelled.\n" if found else "There is no such run in progress.\n"
    return PlainTextResponse(text, status_code=200 if found else 404, headers=_HEADERS)


async def resume(_: Request) -> Response:
    """A step's `resume_url`, which this version does not support."""
    return PlainTextResponse(
        "This version of pdkernel does not resume runs. A delay ends by itself.\n",
        status_code=501,
        headers=_HEADERS,
    )


def _is_local_request(request: Request, context: AppContext) -> bool:
    """Whether the request certainly comes from this machine; False behind a proxy or a public URL."""
    settings = context.settings
    if settings.trusted_proxies or not is_loopback_name(urlsplit(settings.base_url).netloc):
        return False
    return is_from_this_machine(request.scope, request.headers)


def _is_admin(context: AppContext, authorization: str) -> bool:
    expected = context.settings.admin_token_hash
    scheme, _, given = authorization.partition(" ")
    if expected is None:
        return False
    if scheme.lower() == "basic":  # the browser's prompt; the user name is ignored
        try:
            given = base64.b64decode(given, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(hashlib.sha256(given.strip().encode("utf-8", "surrogatepass")).digest(), expected)

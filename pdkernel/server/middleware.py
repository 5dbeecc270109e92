"""
Middleware of the server: the Host check, and endpoints with a host name of their own.

Requests with an unknown Host are rejected, so that a page on another site cannot call the server under its own name.
"""

from __future__ import annotations

import asyncio
import logging
import re

from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pdkernel.egress.own_server import CALLER_HEADER, OwnServer
from pdkernel.errors import ProjectError
from pdkernel.server.app_context import AppContext
from pdkernel.server.database_probe import DatabaseProbe
from pdkernel.server.host_names import HostNames
from pdkernel.server.step_connections import STEP_CALL_KEY

_LOG = logging.getLogger(__name__)
_KEY = re.compile(r"e[no][a-z0-9]{8,}", re.IGNORECASE)
"""An endpoint key in the platform's form; other keys are found by the routes."""
BASE_PATH_KEY = "pdkernel.base"
"""Key in the scope for the base path that was removed from the path."""
HEALTH_PATHS = ("/-/live", "/-/ready")
"""The health checks, which do not wait for the database."""
RETRY_AFTER_S = 5
"""Seconds after which a caller may repeat a request that was answered 503."""
UNAVAILABLE_MESSAGE = "The server cannot use the project's database. Send the request again."
UNKNOWN_OUTCOME_MESSAGE = (
    "The project's database could not be written, or did not answer in time, so the request may have been stored. Send it "
    "again. An event whose tries have the same Idempotency-Key starts one run."
)
"""The answer to a request that may have taken effect."""
_PAGE_HEADERS = {"content-security-policy": "default-src 'none'", "cache-control": "no-store"}


class HostCheckMiddleware:
    """
    Rejects requests with an unknown Host.

    Args:
        app: The next application.
        names: Accepted Host names.
    """

    def __init__(self, app: ASGIApp, names: HostNames) -> None:
        self._app = app
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reject the request, or pass it on."""
        allowed = self._names.is_allowed(Headers(scope=scope).get("host", ""))
        if allowed and self._names.base_path:
            _strip_base_path(scope, self._names.base_path)
        await (self._app if allowed else _MISDIRECTED)(scope, receive, send)


class DatabaseErrorMiddleware:
    """
    Answers 503 to every request while the project's database does not answer, and to a request that fails because of it.

    So does a request that waits for the database when it stops answering. What such a request writes may be stored.

    The log has the reason of a failure. The caller does not learn it, because it names the database.

    Args:
        app: The next application.
        probe: Whether the database answers.
    """

    def __init__(self, app: ASGIApp, probe: DatabaseProbe) -> None:
        self._app = app
        self._probe = probe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if not self._probe.answers and not scope["path"].endswith(HEALTH_PATHS):
            await _build_unavailable_response(scope)(scope, receive, send)
            return
        has_started, reason = False, UNAVAILABLE_MESSAGE
        with self._probe.request() as wait:

            async def sent(message: Message) -> None:
                nonlocal has_started
                has_started = True
                self._probe.release(wait)
                await send(message)

            try:
                await self._app(scope, receive, sent)
            except ProjectError as fault:
                self._probe.report(fault.message)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if self._probe.answers or task is None or task.cancelling():
                    raise
                reason = UNKNOWN_OUTCOME_MESSAGE
            else:
                return
        if not has_started:
            await _build_unavailable_response(scope, reason)(scope, receive, send)


def _build_unavailable_response(scope: Scope, reason: str = UNAVAILABLE_MESSAGE) -> Response:
    headers = {"retry-after": str(RETRY_AFTER_S), "access-control-allow-origin": "*"}
    if scope["path"].startswith("/v1/"):
        return JSONResponse({"error": reason}, status_code=503, headers=headers)
    if "text/html" in Headers(scope=scope).get("accept", ""):
        page = (
            '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Unavailable</title></head><body>'
            "<h1>The console is not available at the moment</h1><p>The server cannot use the project's database. The reason is "
            "in the server's log. Reload this page in some seconds.</p></body></html>"
        )
        return HTMLResponse(page, status_code=503, headers={**headers, **_PAGE_HEADERS})
    return PlainTextResponse(f"{reason}\n", status_code=503, headers=headers)


class StepCallMiddleware:
    """
    Removes the mark of calls that steps make to this server, and sets `STEP_CALL_KEY` in the scope of such a call.

    A call on a connection that a step has opened itself (`step_connections`) stays one of no run, whatever mark it has.

    Args:
        app: The next application.
        own_server: Recognizes the mark.
    """

    def __init__(self, app: ASGIApp, own_server: OwnServer) -> None:
        self._app = app
        self._own_server = own_server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on without its mark."""
        if any(name == CALLER_HEADER for name, _ in scope["headers"]):
            scope["headers"], caller = self._own_server.take_mark(scope["headers"])
            scope.setdefault(STEP_CALL_KEY, caller)
        await self._app(scope, receive, send)


class EndpointRoutingMiddleware:
    """
    Rejects requests with an unknown Host, and routes requests whose host or path names an endpoint.

    Args:
        app: The application for all other requests.
        context: Context of the server.
        endpoint: The application of endpoints.
    """

    def __init__(self, app: ASGIApp, context: AppContext, endpoint: ASGIApp) -> None:
        self._app = app
        self._names = HostNames(context.settings)
        self._workflows = context.workflows
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request to the endpoint or to the next application."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._names.is_allowed(host):
            await _MISDIRECTED(scope, receive, send)
            return
        if self._names.base_path:
            _strip_base_path(scope, self._names.base_path)
        if not scope["path"].startswith(HEALTH_PATHS):
            await self._refresh()
        if self._names.is_console(host):  # the origin of the console has no other pages
            is_console = scope["path"] == "/" or scope["path"].startswith("/-/")
            await (self._app if is_console else _CONSOLE_ONLY)(scope, receive, send)
            return
        key = self._key(host) or self._key(headers.get("x-forwarded-host", ""))
        if key is not None:
            scope["pdkernel.key"] = key
        elif not self._is_at_endpoint(scope["path"]):
            await self._app(scope, receive, send)
            return
        await self._endpoint(scope, receive, send)

    async def _refresh(self) -> None:
        """Load workflows that have changed. If that fails in a way that is not foreseen, the previous ones stay served."""
        try:
            await self._workflows.refresh()
        except ProjectError:
            raise
        except Exception:  # noqa: BLE001 - one workflow that cannot be loaded must not stop the requests of all others
            _LOG.exception(
                "Changed workflows could not be reloaded because of an unexpected error; the previous ones stay"
            )

    def _is_at_endpoint(self, path: str) -> bool:
        """Return whether the path begins with an endpoint key; saves most requests the search through all routes."""
        first = path[1:].partition("/")[0]
        return _KEY.fullmatch(first) is not None and self._workflows.find(first) is not None

    def _key(self, host: str) -> str | None:
        key = self._names.find_endpoint_key(host) if host else None
        if key is None or (
            not host.lower().partition(":")[0].endswith("pipedream.net") and not self._workflows.find(key)
        ):
            return None
        return key


def _strip_base_path(scope: Scope, base: str) -> None:
    """Remove *base*, the path of the public URL, from the request's path; some proxies leave it there."""
    raw = scope.get("raw_path") or scope["path"].encode()
    if scope["path"].startswith(f"{base}/") and raw.startswith(f"{base}/".encode()):
        scope.update({"path": scope["path"][len(base) :], "raw_path": raw[len(base.encode()) :], BASE_PATH_KEY: base})


_CONSOLE_ONLY = PlainTextResponse("There is no such page of the console.\n", status_code=404)
_MISDIRECTED = PlainTextResponse(
    "This server does not accept that host name. To accept it, start the server with --public-url.\n", status_code=421
)

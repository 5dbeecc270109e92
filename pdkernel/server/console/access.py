"""
Who may open a page of the console or act on it, and the login.

A person logs in with the one-time code of the server's terminal or with the admin token, and gets a cookie. A program sends the
admin token as a bearer token. The address of a client opens nothing: behind a proxy every client seems to be on this machine.
An action also requires that a page of this server sent the form, with the token of the session.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Literal
from urllib.parse import urlencode, urlsplit

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from pdkernel.common.blocking import run_blocking
from pdkernel.errors import DamagedRecordError, PdkernelError, ProjectError
from pdkernel.server.app_state import AppState, get_state
from pdkernel.server.authorization import parse_bearer_token
from pdkernel.server.client_address import resolve_client_ip, resolve_scheme
from pdkernel.server.console import pages
from pdkernel.server.console_sessions import SESSION_LIFETIME_S, ConsoleSession, TooManyAttemptsError
from pdkernel.server.forms import is_from_this_server, read_form
from pdkernel.server.host_names import build_console_url
from pdkernel.server.step_connections import STEP_CALL_KEY

COOKIE = "pdkernel_console"
CSRF_FIELD = "csrf"
_MAX_FORM_BYTES = 64 * 1024
_PAGE_PATH = re.compile(r"/-/(?:(?:runs|users|batches)(?:/[A-Za-z0-9_]+)?)?(?:\?[A-Za-z0-9_.~%&=+:-]*)?\Z")
"""Paths to which a login may lead back."""
_PORT = re.compile("[0-9]{1,5}")
_NOT_LOGGED_IN = "Log in to the console, or send the admin token (PDKERNEL_ADMIN_TOKEN) as a bearer token."
_FOREIGN = "The form was not sent by a page of this session. Open the page again."
_STEP_CALL = "A step cannot use the console of its own server."
_LIMITED = "There were too many wrong codes. Wait a minute, and try again. The admin token works at once."

Kind = Literal["page", "stream", "action"]


@dataclass(frozen=True, slots=True)
class Visit:
    """
    A request that may use the console.

    Attributes:
        request: The request.
        state: State of the application.
        session: The session of a person; None for a program with the admin token.
        form: The fields of an action.
    """

    request: Request
    state: AppState
    session: ConsoleSession | None
    form: Mapping[str, str]

    @property
    def wants_json(self) -> bool:
        """Whether the response is JSON."""
        return self.session is None or "application/json" in self.request.headers.get("accept", "")

    @property
    def visitor(self) -> str:
        """Who decides about a run, for its record."""
        return "admin token" if self.session is None else self.session.name

    def page(self, template: str, *, status: int = 200, **values: object) -> Response:
        """Return the page of *template*."""
        return pages.render_page(self.request, template, self.session, status=status, **values)

    def problem(self, status: int, text: str) -> Response:
        """Return the response to a request that cannot be fulfilled."""
        if self.wants_json:
            return pages.json_response({"error": {"message": text}}, status=status)
        return self.page("problem", status=status, text=text)


Handler = Callable[[Visit], Awaitable[Response]]


def for_visitors(kind: Kind) -> Callable[[Handler], Callable[[Request], Awaitable[Response]]]:
    """Return a route's handler that calls the decorated function for requests that may use the console only."""

    def decorate(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        @wraps(handler)
        async def respond(request: Request) -> Response:
            if request.scope.get(STEP_CALL_KEY):
                return pages.json_response({"error": {"message": _STEP_CALL}}, status=403)
            state, session = get_state(request.app), await find_session(request)
            if session is None:
                refused = _check_program(request, kind)
                if refused is not None:
                    return refused
            visit = Visit(request, state, session, await _read_fields(request) if kind == "action" else {})
            if kind == "action" and not _is_own_form(visit):
                return visit.problem(403, _FOREIGN)
            try:
                return await handler(visit)
            except DamagedRecordError as fault:  # the rest of the database can be read
                return visit.problem(500, str(fault))
            except ProjectError:  # `DatabaseErrorMiddleware` responds
                raise
            except PdkernelError as fault:
                return visit.problem(500, str(fault))

        return respond

    return decorate


async def find_session(request: Request) -> ConsoleSession | None:
    """Return the session of the request's cookie, or None; at another host name than that of the console no cookie counts."""
    if not _is_at_console(request):
        return None
    cookie = request.cookies.get(_cookie_name(request), "")
    return await run_blocking(get_state(request.app).console.find, cookie)


async def login_page(request: Request) -> Response:
    """
    Answer GET `/-/login`: the page to log in.

    A code in the URL only fills the form: a link preview that follows the URL does not use the code up.
    """
    target = _target(request.query_params.get("next"))
    if await find_session(request) is not None:
        return pages.redirect(request, target)
    return _login_form(request, target, code=request.query_params.get("code", ""))


async def log_in(request: Request) -> Response:
    """Answer POST `/-/login`: exchange the one-time code or the admin token for a cookie."""
    state, form = get_state(request.app), await _read_fields(request)
    if request.scope.get(STEP_CALL_KEY) or not is_from_this_server(state.context, request):
        return PlainTextResponse(f"{_FOREIGN}\n", status_code=403, headers=pages.HEADERS)
    target = _target(form.get("next"))
    is_at_console = _is_at_console(request)
    use = state.console.log_in if is_at_console else state.console.exchange
    try:
        token = await run_blocking(use, form.get("secret", ""), _address(request))
    except TooManyAttemptsError:
        return _login_form(request, target, problem=_LIMITED, status=429)
    if token is None:
        text = "This is not a valid code, and not the admin token. A code is valid once, for ten minutes."
        return _login_form(request, target, problem=text, status=401)
    if not is_at_console:
        query = urlencode({"code": token, "next": target})
        return pages.render_page(
            request,
            "elsewhere",
            None,
            link=f"{_console_url(request)}/-/login?{query}",
            base_url=state.context.settings.base_url,
        )
    response = pages.redirect(request, target)
    _set_cookie(request, response, token, SESSION_LIFETIME_S)
    return response


async def print_code(request: Request) -> Response:
    """Answer POST `/-/login/code`: print a new code on the server's terminal."""
    state, form = get_state(request.app), await _read_fields(request)
    if request.scope.get(STEP_CALL_KEY) or not is_from_this_server(state.context, request):
        return PlainTextResponse(f"{_FOREIGN}\n", status_code=403, headers=pages.HEADERS)
    printed = await run_blocking(state.console.print_new_code)
    text = "The terminal of the server shows a new code." if printed else "Wait half a minute before the next code."
    return _login_form(request, _target(form.get("next")), note=text)


@for_visitors("action")
async def log_out(visit: Visit) -> Response:
    """Answer POST `/-/logout`: end the session."""
    if visit.session is not None:
        await run_blocking(visit.state.console.end, visit.session)
    response = pages.redirect(visit.request, "/-/login")
    _set_cookie(visit.request, response, "", 0)
    return response


def _check_program(request: Request, kind: Kind) -> Response | None:
    """Return the refusal of a request without a session; None if the request has the admin token."""
    token = parse_bearer_token(request.headers.get("authorization"))
    if token is not None:
        if get_state(request.app).console.is_admin_token(token):
            return None
    elif kind != "stream" and "text/html" in request.headers.get("accept", ""):
        query = f"?{request.url.query}" if request.url.query else ""
        return pages.redirect(request, f"/-/login?{urlencode({'next': _target(request.url.path + query)})}")
    return pages.json_response(
        {"error": {"message": _NOT_LOGGED_IN}}, status=401, headers={"www-authenticate": 'Bearer realm="pdkernel"'}
    )


def _is_own_form(visit: Visit) -> bool:
    """Return whether the form of an action comes from a page of this server and of the session."""
    if not is_from_this_server(visit.state.context, visit.request):
        return False
    if visit.session is None:  # a browser does not send a bearer token on its own
        return True
    given, expected = visit.form.get(CSRF_FIELD, ""), visit.session.csrf_token
    return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode())


async def _read_fields(request: Request) -> dict[str, str]:
    return await read_form(request, _MAX_FORM_BYTES) or {}


def _login_form(
    request: Request, target: str, *, code: str = "", problem: str = "", note: str = "", status: int = 200
) -> Response:
    console = get_state(request.app).console
    return pages.render_page(
        request,
        "login",
        None,
        status=status,
        target=target,
        code=code,
        problem=problem,
        note=note,
        is_at_console=_is_at_console(request),
        has_terminal=console.has_terminal,
        has_admin_token=console.has_admin_token,
    )


def _is_at_console(request: Request) -> bool:
    """Return whether the request is for the host name that the console has."""
    names = get_state(request.app).names
    return not names.has_console_host or names.is_console(request.headers.get("host", ""))


def _console_url(request: Request) -> str:
    """Return the base of the console's URLs, at the port by which the browser reaches this server."""
    settings = get_state(request.app).context.settings
    _, _, port = request.headers.get("host", "").rpartition(":")
    return build_console_url(settings.base_url, settings.console_host, int(port) if _PORT.fullmatch(port) else None)


def _target(path: str | None) -> str:
    """Return *path* if it is a page of the console, else the first page."""
    return path if path is not None and _PAGE_PATH.match(path) else "/-/"


def _address(request: Request) -> str:
    settings = get_state(request.app).context.settings
    return resolve_client_ip(request.scope, request.headers, settings.trusted_proxies)


def _cookie_name(request: Request) -> str:
    """Return the name of the cookie: browsers do not separate the cookies of two servers on one machine by their ports."""
    port = urlsplit(get_state(request.app).context.settings.base_url).port
    return f"{COOKIE}_{port}" if port else COOKIE


def _set_cookie(request: Request, response: Response, token: str, lifetime_s: int) -> None:
    settings = get_state(request.app).context.settings
    scheme = resolve_scheme(request.scope, request.headers, settings.trusted_proxies)
    response.set_cookie(
        _cookie_name(request),
        token,
        max_age=lifetime_s,
        # never the path of an endpoint: its steps would read the cookie
        path=f"{pages.base_path(request)}/-/",
        secure="https" in (scheme, urlsplit(settings.base_url).scheme),
        httponly=True,
        samesite="strict",
    )

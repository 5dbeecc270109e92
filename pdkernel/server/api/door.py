"""
The door of Connect's API: whose request it is, what for, and how an answer or an error is written.

Knows tokens, scopes, environments and the shape of errors. What a route does is the route's own.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ParamSpec, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from pdkernel.egress import Policy
from pdkernel.errors import EndUserError, PdkernelError, ProductionPlanError, RequestError, StepError
from pdkernel.identity import Environment, check_external_user_id, parse_environment
from pdkernel.model import JSON
from pdkernel.project import ConnectToken
from pdkernel.server.api.browsers import may_use, open_to
from pdkernel.server.api.rates import Bucket, Rates, Throttled
from pdkernel.server.link.tokens import find_token
from pdkernel.server.oauth.access import Unauthorized, authorize, bearer_token
from pdkernel.server.oauth.scopes import covers
from pdkernel.server.serving import Serving

P = ParamSpec("P")
T = TypeVar("T")

CONNECT_TOKEN = "ctok_"  # noqa: S105 - how one begins
MAX_BODY = 8 << 20
"""Bytes of a request's JSON."""
_BACKEND_ONLY = "This takes the access token of an OAuth client, not a Connect token."


class ApiError(Exception):
    """An answer that is an error: `{"error": text}`."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class Call:
    """
    One request to the API, admitted.

    Attributes:
        request: As it came.
        serving: What is served.
        environment: Of which environment the caller speaks.
        token: The Connect token that a browser came with, or None for an OAuth client.
        scopes: What the caller's token is good for.
    """

    request: Request
    serving: Serving
    environment: Environment
    scopes: tuple[str, ...]
    token: ConnectToken | None = field(default=None, repr=False)

    @property
    def policy(self) -> Policy:
        """
        What becomes of the outbound calls that the request starts.

        A Connect token is in the hands of an end user, who chooses URLs: its calls reach public addresses only, in every mode.
        An OAuth client is the product's own back end, and its calls reach what a workflow's steps reach: this machine and
        private networks, too.
        """
        return replace(self.serving.settings.policy, public_only=self.token is not None)

    def path(self, name: str) -> str:
        """A part of the path."""
        return str(self.request.path_params[name])

    def query(self, name: str) -> str | None:
        """A parameter of the query; an empty one is none."""
        return self.request.query_params.get(name) or None

    def flag(self, name: str) -> bool | None:
        """A parameter that is true or false: JS SDK 1.x writes 1 and 0, the others true and false."""
        value = self.query(name)
        if value is None:
            return None
        return value.lower() in ("1", "true", "yes")

    async def body(self) -> dict[str, Any]:
        """
        The request's JSON object; an empty body is an empty one.

        Raises:
            ApiError: It is none, or too large.
        """
        raw = await read_body(self.request, MAX_BODY)
        if not raw.strip():
            return {}
        try:
            value = json.loads(raw)
            # no value of JSON: NaN, numbers beyond every double; no text that can be kept: half of a surrogate pair
            json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
        except (ValueError, RecursionError):
            raise ApiError(400, "The body is not JSON.") from None
        if not isinstance(value, dict):
            raise ApiError(400, "The body is not a JSON object.")
        return value

    def user(self, given: object) -> str:
        """
        The external user whom the request is about; a Connect token's own if none is given.

        Raises:
            ApiError: None, one that cannot be, or another's than the token's.
        """
        if given is None and self.token is not None:
            return self.token.external_user_id
        if not isinstance(given, str):
            raise ApiError(400, "external_user_id is missing: your own id of the user, a text.")
        check_external_user_id(given)
        if "\0" in given:
            raise ApiError(400, "external_user_id holds a character that is no text.")
        self.check_user(given)
        return given

    def check_user(self, user: str | None) -> None:
        """Raise `ApiError` if a Connect token of another user asks for *user*."""
        if self.token is not None and user != self.token.external_user_id:
            raise ApiError(403, "This Connect token is another external user's.")

    def may(self, scope: str) -> bool:
        """Whether the token is good for *scope*."""
        return covers(self.scopes, scope)

    def check_scope(self, *scopes: str) -> None:
        """Raise `ApiError` if the token is good for none of *scopes*; without any it may be good for nothing."""
        if scopes and not any(map(self.may, scopes)):
            raise ApiError(403, f"The access token is not good for {' or '.join(scopes)}.")

    def check_project(self) -> None:
        """Raise `ApiError` if the path names another project."""
        project, ours = self.request.path_params.get("project_id"), self.serving.directory.project_id
        if project and project != ours:
            raise ApiError(404, f"There is no project {project[:40]!r} here; it is {ours}.")

    async def ask(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call something that may wait for a database or the network."""
        return await asyncio.to_thread(function, *args, **kwargs)


Handler = Callable[[Call], "Awaitable[Response | JSON]"]
Endpoint = Callable[[Request], Awaitable[Response]]


def door(handler: Handler, *, scopes: Sequence[str], backend: bool, rates: Rates, bucket: Bucket | None) -> Endpoint:
    """
    *handler* as an endpoint: its JSON or response, its errors as JSON.

    Args:
        handler: What answers.
        scopes: What a token must be good for, one of them; none for any token.
        backend: Whether Connect tokens are refused.
        rates: Counts requests.
        bucket: Which of the platform's rate limits counts, or None.
    """

    async def endpoint(request: Request) -> Response:
        serving: Serving = request.app.state.serving
        page = None
        answer: Response | JSON
        try:
            call = await _admit(request, serving, backend=backend)
            page = request.headers.get("origin") if call.token is not None else None
            call.check_scope(*scopes)
            call.check_project()
            if bucket is not None and serving.settings.rate_limits:
                rates.count(bucket, serving.clock)
            answer = await handler(call)
        except Unauthorized as refused:
            if _connect_token(request) is not None:
                page = request.headers.get("origin")  # so that a page learns that it needs a new token
            answer = _error(401, str(refused), {"WWW-Authenticate": 'Bearer realm="pdkernel"'})
        except Throttled as refused:
            answer = _error(429, "Throttled", refused.headers)
        except ApiError as refused:
            answer = _error(refused.status, str(refused))
        except PdkernelError as fault:
            answer = _error(status_of(fault), said(fault))
        except ClientDisconnect:
            answer = Response(status_code=400)
        return open_to(answer if isinstance(answer, Response) else JSONResponse(answer), page)

    return endpoint


async def read_body(request: Request, most: int) -> bytes:
    """
    The request's body.

    Raises:
        ApiError: It holds more than *most* bytes; the rest was not read.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise ApiError(413, f"The body holds more than {most} bytes.")
    return bytes(body)


def status_of(fault: PdkernelError) -> int:
    """The status of an error of ours: SDKs repeat 409 and 5xx, so what the same request meets again is 400 or 404."""
    if fault.code in ("action_not_found", "action_version"):
        return 404
    if isinstance(fault, ProductionPlanError):
        return 403
    if fault.exit_status == RequestError.exit_status or isinstance(fault, StepError):
        return 400
    return 500


def said(fault: PdkernelError) -> str:
    """An error's text for a caller: what to do is left out where it names other users or commands of this machine."""
    return fault.message if isinstance(fault, EndUserError) else str(fault)


async def _admit(request: Request, serving: Serving, *, backend: bool) -> Call:
    text = _connect_token(request)
    if text is not None:
        found = await asyncio.to_thread(find_token, serving, text)
        if found is None:
            raise Unauthorized("The Connect token is not valid here or has expired.")
        if backend:
            raise ApiError(403, _BACKEND_ONLY)
        if not may_use(found, request.headers.get("origin")):
            raise ApiError(403, "Pages of this origin may not use the Connect token: see allowed_origins.")
        call = Call(request, serving, found.environment, tuple((found.terms.scope or "connect:*").split()), found)
    else:
        caller = authorize(serving, request.headers.get("authorization"))
        environment = parse_environment(request.headers.get("x-pd-environment"))
        call = Call(request, serving, environment, caller.scopes)
    return call


def _connect_token(request: Request) -> str | None:
    """The Connect token that came with the request, good or not; None if it came with another or none."""
    bearer = bearer_token(request.headers.get("authorization"))
    return bearer if bearer is not None and bearer.startswith(CONNECT_TOKEN) else None


def _error(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": text}, status_code=status, headers=headers)

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

from pdkernel.egress import OutboundPolicy
from pdkernel.errors import EndUserError, PdkernelError, ProductionPlanError, RequestError, StepError
from pdkernel.identity import Environment, check_external_user_id, parse_environment
from pdkernel.model import JSON
from pdkernel.project import ConnectToken
from pdkernel.server.api.cors import allow_origin, is_origin_allowed
from pdkernel.server.api.rate_limits import Bucket, RateLimitedError, RateLimiter
from pdkernel.server.app_context import AppContext
from pdkernel.server.link.tokens import find_token
from pdkernel.server.oauth.authorization import UnauthorizedError, authorize, parse_bearer_token
from pdkernel.server.oauth.scopes import scope_covers

P = ParamSpec("P")
T = TypeVar("T")

CONNECT_TOKEN_PREFIX = "ctok_"  # noqa: S105 - how one begins
MAX_BODY_BYTES = 8 << 20
"""Bytes of a request's JSON."""
_BACKEND_ONLY = "This takes the access token of an OAuth client, not a Connect token."


class ApiError(Exception):
    """An answer that is an error: `{"error": text}`."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class ApiCall:
    """
    One request to the API, admitted.

    Attributes:
        request: As it came.
        context: What is served.
        environment: Of which environment the caller speaks.
        token: The Connect token that a browser came with, or None for an OAuth client.
        scopes: What the caller's token is good for.
    """

    request: Request
    context: AppContext
    environment: Environment
    scopes: tuple[str, ...]
    token: ConnectToken | None = field(default=None, repr=False)

    @property
    def policy(self) -> OutboundPolicy:
        """
        What becomes of the outbound calls that the request starts.

        A Connect token is in the hands of an end user, who chooses URLs: its calls reach public addresses only, in every mode.
        An OAuth client is the product's own back end, and its calls reach what a workflow's steps reach: this machine and
        private networks, too.
        """
        return replace(self.context.settings.policy, public_only=self.token is not None)

    def path_param(self, name: str) -> str:
        """A part of the path."""
        return str(self.request.path_params[name])

    def query_param(self, name: str) -> str | None:
        """A parameter of the query; an empty one is none."""
        return self.request.query_params.get(name) or None

    def query_flag(self, name: str) -> bool | None:
        """A parameter that is true or false: JS SDK 1.x writes 1 and 0, the others true and false."""
        value = self.query_param(name)
        if value is None:
            return None
        return value.lower() in ("1", "true", "yes")

    async def read_json(self) -> dict[str, Any]:
        """
        The request's JSON object; an empty body is an empty one.

        Raises:
            ApiError: It is none, or too large.
        """
        raw = await read_body(self.request, MAX_BODY_BYTES)
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

    def resolve_user(self, given: object) -> str:
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

    def has_scope(self, scope: str) -> bool:
        """Whether the token is good for *scope*."""
        return scope_covers(self.scopes, scope)

    def check_scope(self, *scopes: str) -> None:
        """Raise `ApiError` if the token is good for none of *scopes*; without any it may be good for nothing."""
        if scopes and not any(map(self.has_scope, scopes)):
            raise ApiError(403, f"The access token is not good for {' or '.join(scopes)}.")

    def check_project(self) -> None:
        """Raise `ApiError` if the path names another project."""
        project, ours = self.request.path_params.get("project_id"), self.context.directory.project_id
        if project and project != ours:
            raise ApiError(404, f"There is no project {project[:40]!r} here; it is {ours}.")

    async def run_in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call something that may wait for a database or the network."""
        return await asyncio.to_thread(function, *args, **kwargs)


ApiHandler = Callable[[ApiCall], "Awaitable[Response | JSON]"]
Endpoint = Callable[[Request], Awaitable[Response]]


def authenticated_endpoint(
    handler: ApiHandler, *, scopes: Sequence[str], backend_only: bool, rate_limiter: RateLimiter, bucket: Bucket | None
) -> Endpoint:
    """
    *handler* as an endpoint: its JSON or response, its errors as JSON.

    Args:
        handler: What answers.
        scopes: What a token must be good for, one of them; none for any token.
        backend_only: Whether Connect tokens are refused.
        rate_limiter: Counts requests.
        bucket: Which of the platform's rate limits counts, or None.
    """

    async def endpoint(request: Request) -> Response:
        context: AppContext = request.app.state.context
        page = None
        answer: Response | JSON
        try:
            call = await _authenticate(request, context, backend=backend_only)
            page = request.headers.get("origin") if call.token is not None else None
            call.check_scope(*scopes)
            call.check_project()
            if bucket is not None and context.settings.applies_rate_limits:
                rate_limiter.count(bucket, context.clock)
            answer = await handler(call)
        except UnauthorizedError as refused:
            if _connect_token(request) is not None:
                page = request.headers.get("origin")  # so that a page learns that it needs a new token
            answer = _error(401, str(refused), {"WWW-Authenticate": 'Bearer realm="pdkernel"'})
        except RateLimitedError as refused:
            answer = _error(429, "Throttled", refused.headers)
        except ApiError as refused:
            answer = _error(refused.status, str(refused))
        except PdkernelError as fault:
            answer = _error(http_status(fault), public_message(fault))
        except ClientDisconnect:
            answer = Response(status_code=400)
        return allow_origin(answer if isinstance(answer, Response) else JSONResponse(answer), page)

    return endpoint


async def read_body(request: Request, max_bytes: int) -> bytes:
    """
    The request's body.

    Raises:
        ApiError: It holds more than *max_bytes* bytes; the rest was not read.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise ApiError(413, f"The body holds more than {max_bytes} bytes.")
    return bytes(body)


def http_status(fault: PdkernelError) -> int:
    """The status of an error of ours: SDKs repeat 409 and 5xx, so what the same request meets again is 400 or 404."""
    if fault.code in ("action_not_found", "action_version"):
        return 404
    if isinstance(fault, ProductionPlanError):
        return 403
    if fault.exit_status == RequestError.exit_status or isinstance(fault, StepError):
        return 400
    return 500


def public_message(fault: PdkernelError) -> str:
    """An error's text for a caller: what to do is left out where it names other users or commands of this machine."""
    return fault.message if isinstance(fault, EndUserError) else str(fault)


async def _authenticate(request: Request, context: AppContext, *, backend: bool) -> ApiCall:
    text = _connect_token(request)
    if text is not None:
        found = await asyncio.to_thread(find_token, context, text)
        if found is None:
            raise UnauthorizedError("The Connect token is not valid here or has expired.")
        if backend:
            raise ApiError(403, _BACKEND_ONLY)
        if not is_origin_allowed(found, request.headers.get("origin")):
            raise ApiError(403, "Pages of this origin may not use the Connect token: see allowed_origins.")
        call = ApiCall(request, context, found.environment, tuple((found.terms.scope or "connect:*").split()), found)
    else:
        caller = authorize(context, request.headers.get("authorization"))
        environment = parse_environment(request.headers.get("x-pd-environment"))
        call = ApiCall(request, context, environment, caller.scopes)
    return call


def _connect_token(request: Request) -> str | None:
    """The Connect token that came with the request, good or not; None if it came with another or none."""
    bearer = parse_bearer_token(request.headers.get("authorization"))
    return bearer if bearer is not None and bearer.startswith(CONNECT_TOKEN_PREFIX) else None


def _error(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": text}, status_code=status, headers=headers)

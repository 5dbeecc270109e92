"""
A request to Connect's API: authentication, scopes, environment, parameters, pages of lists, and error responses.

SDKs request pages until `end_cursor` is null. An item may vanish between two requests.

A Connect token lists the origins whose web pages may use the token. A preflight request has no token, so every page passes the
preflight; the origin is checked with the request itself.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pdkernel.common.blocking import run_blocking
from pdkernel.common.encode import count_containers, decode_large
from pdkernel.common.identity import Environment, check_external_user_id, parse_environment
from pdkernel.egress import OutboundPolicy
from pdkernel.errors import EndUserError, PdkernelError, ProductionPlanError, ProjectError, RequestError, StepError
from pdkernel.model import JSON
from pdkernel.server.app_context import AppContext
from pdkernel.server.app_state import AppState, get_state
from pdkernel.server.authorization import CONNECT_SCOPE, UnauthorizedError, authorize, parse_bearer_token, scope_covers
from pdkernel.server.link.tokens import TOKEN_PREFIX, find_token
from pdkernel.server.rate_limits import Bucket, RateLimitedError
from pdkernel.storage import ConnectToken

MAX_BODY_BYTES = 8 << 20
"""Maximum size of a JSON body."""
MAX_BODY_CONTAINERS = 100_000
"""Maximum number of lists and objects in a JSON body: more of them stop the event loop for long."""
_BACKEND_ONLY = "This route requires the access token of an OAuth client, not a Connect token."


class ApiError(Exception):
    """An error response: `{"error": text}`."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class ApiCall:
    """
    An authenticated request to the API.

    Attributes:
        request: The HTTP request.
        state: State of the application.
        environment: Environment of the request.
        token: The caller's Connect token, or None for an OAuth client.
        scopes: Scopes of the caller's token.
    """

    request: Request
    state: AppState
    environment: Environment
    scopes: tuple[str, ...]
    token: ConnectToken | None = field(default=None, repr=False)

    @property
    def context(self) -> AppContext:
        """Context of the server."""
        return self.state.context

    @property
    def policy(self) -> OutboundPolicy:
        """
        Policy for outbound calls of this request.

        The bearer of a Connect token is an end user, who can choose URLs: the calls reach public addresses only, in every mode.
        An OAuth client is the product's back end: its calls may also reach this machine and private networks, as calls of steps do.
        """
        return replace(self.context.settings.policy, public_only=self.token is not None)

    def path_param(self, name: str) -> str:
        """Return a path parameter."""
        return str(self.request.path_params[name])

    def query_param(self, name: str) -> str | None:
        """Return a query parameter, or None if it is missing or empty."""
        return self.request.query_params.get(name) or None

    def query_flag(self, name: str) -> bool | None:
        """Return a boolean query parameter, or None. JS SDK 1.x sends 1 and 0, other SDKs true and false."""
        value = self.query_param(name)
        if value is None:
            return None
        return value.lower() in ("1", "true", "yes")

    async def read_json(self) -> dict[str, Any]:
        """
        Return the JSON object of the body; an empty body counts as {}.

        Raises:
            ApiError: The body is not a JSON object, or is too large.
        """
        raw = await read_body(self.request, MAX_BODY_BYTES)
        if not raw.strip():
            return {}
        if count_containers(raw, MAX_BODY_CONTAINERS):
            raise ApiError(413, f"The body has more than {MAX_BODY_CONTAINERS:,} lists and objects.")
        try:
            # rejects NaN, infinite numbers and lone surrogates, which cannot be stored
            value = decode_large(msgspec.json.decode, raw)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            raise ApiError(400, "The body is not JSON.") from None
        if not isinstance(value, dict):
            raise ApiError(400, "The body is not a JSON object.")
        return value

    def resolve_user(self, requested: object) -> str:
        """
        Return the external user of the request; by default the Connect token's user.

        Raises:
            ApiError: The user is missing, invalid, or not the Connect token's user.
        """
        if requested is None and self.token is not None:
            return self.token.external_user_id
        if not isinstance(requested, str):
            raise ApiError(400, "external_user_id is missing. Send your own id of the user, as a string.")
        check_external_user_id(requested)
        self.check_user(requested)
        return requested

    def check_user(self, user: str | None) -> None:
        """Raise `ApiError` if the caller has a Connect token of another user than *user*."""
        if self.token is not None and user != self.token.external_user_id:
            raise ApiError(403, "This Connect token belongs to another external user.")

    def has_scope(self, scope: str) -> bool:
        """Return whether the token has *scope*."""
        return scope_covers(self.scopes, scope)

    def check_scope(self, *scopes: str) -> None:
        """Raise `ApiError` if *scopes* is not empty and the token does not have any of them."""
        if scopes and not any(map(self.has_scope, scopes)):
            raise ApiError(403, f"The access token lacks the scope {' or '.join(scopes)}.")

    def check_project(self) -> None:
        """Raise `ApiError` if the path has another project's id."""
        project, own = self.request.path_params.get("project_id"), self.context.directory.project_id
        if project and project != own:
            raise ApiError(404, f"This server has no project {project[:40]!r}, only {own}.")


ApiHandler = Callable[[ApiCall], "Awaitable[Response | JSON]"]
Endpoint = Callable[[Request], Awaitable[Response]]


def authenticated_endpoint(
    handler: ApiHandler,
    *,
    scopes: Sequence[str],
    backend_only: bool,
    bucket: Bucket | None,
) -> Endpoint:
    """
    Wrap *handler* as an endpoint with authentication and JSON errors.

    Args:
        handler: The handler of the route.
        scopes: Scopes of which a token requires one; empty for any token.
        backend_only: Whether to reject Connect tokens.
        bucket: The platform's rate limit that applies, or None.
    """

    async def endpoint(request: Request) -> Response:
        state = get_state(request.app)
        # lets a web page read the response to its Connect token, also why the token is refused
        origin = request.headers.get("origin") if _connect_token(request) is not None else None
        answer: Response | JSON
        try:
            call = await _authenticate(request, state, backend_only=backend_only)
            call.check_scope(*scopes)
            call.check_project()
            if bucket is not None and state.context.settings.applies_rate_limits:
                state.api_rate_limiter.count(bucket, state.context.clock)
            answer = await handler(call)
        except UnauthorizedError as refused:
            answer = _error(401, str(refused), {"WWW-Authenticate": 'Bearer realm="pdkernel"'})
        except RateLimitedError as refused:
            answer = _error(429, "Throttled", refused.headers)
        except ApiError as refused:
            answer = _error(refused.status, str(refused))
        except ProjectError:  # `DatabaseErrorMiddleware` responds
            raise
        except PdkernelError as fault:
            answer = _error(http_status(fault), public_message(fault))
        return _allow_origin(answer if isinstance(answer, Response) else JSONResponse(answer), origin)

    return endpoint


async def read_body(request: Request, max_bytes: int) -> bytes:
    """
    Read the body of a request.

    Raises:
        ApiError: The body has more than *max_bytes* bytes; the rest is not read.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise ApiError(413, f"The body has more than {max_bytes} bytes.")
    return bytes(body)


def http_status(fault: PdkernelError) -> int:
    """Return the status for an error. SDKs repeat requests after 409 and 5xx, so a permanent error gets 400, 403 or 404."""
    if fault.code in ("action_not_found", "action_version"):
        return 404
    if isinstance(fault, ProductionPlanError):
        return 403
    if fault.exit_status == RequestError.exit_status or isinstance(fault, StepError):
        return 400
    return 500


def public_message(fault: PdkernelError) -> str:
    """Return the error's text for the caller, without a fix that names other users or local commands."""
    return fault.message if isinstance(fault, EndUserError) else str(fault)


async def _authenticate(request: Request, state: AppState, *, backend_only: bool) -> ApiCall:
    text = _connect_token(request)
    if text is not None:
        found = await run_blocking(find_token, state.context, text)
        if found is None:
            raise UnauthorizedError("The Connect token is invalid or has expired.")
        if backend_only:
            raise ApiError(403, _BACKEND_ONLY)
        if not _is_origin_allowed(found, request.headers.get("origin")):
            raise ApiError(403, "The Connect token does not allow pages of this origin: see allowed_origins.")
        scopes = tuple((found.terms.scope or CONNECT_SCOPE).split())
        return ApiCall(request, state, found.environment, scopes, found)
    caller = await run_blocking(authorize, state.context.project, request.headers.get("authorization"))
    environment = parse_environment(request.headers.get("x-pd-environment"))
    return ApiCall(request, state, environment, caller.scopes)


def _connect_token(request: Request) -> str | None:
    """Return the text of the request's Connect token, valid or not; None if the request does not have a Connect token."""
    bearer = parse_bearer_token(request.headers.get("authorization"))
    return bearer if bearer is not None and bearer.startswith(TOKEN_PREFIX) else None


def _error(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": text}, status_code=status, headers=headers)


T = TypeVar("T")

# parity[page-sizes]: the SDKs name the parameters, and the length of a page is not documented
DEFAULT_LIMIT = 10
MAX_LIMIT = 100
"""Maximum items of a page."""


class Page(Generic[T]):
    """
    A page of *items*.

    Args:
        call: The request with the page's parameters.
        items: All items, in order.
        key_of: Returns an item's key.

    Attributes:
        items: Items of this page.

    Raises:
        ApiError: A parameter is invalid.
    """

    def __init__(self, call: ApiCall, items: Sequence[T], key_of: Callable[[T], str]) -> None:
        limit = _limit(call.query_param("limit"))
        keys = [key_of(item) for item in items]
        after, before = call.query_param("after"), call.query_param("before")
        first, last = 0, len(items)
        if after is not None:
            first = _index_after(after, keys)
        if before is not None:
            last = _index_of(before, keys)
            first = max(first, last - limit) if after is None else first
        last = min(last, first + limit)
        self.items = items[first:last]
        self._total = len(items)
        self._start = _cursor(first, keys[first]) if first < last else None
        # parity[end-cursor]: null on the last page, so that SDKs do not request an empty page
        self._end = _cursor(last - 1, keys[last - 1]) if first < last < len(items) else None

    def to_json(self, data: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the response with the serialized items *data*."""
        return {
            "page_info": {
                "count": len(data),
                "total_count": self._total,
                "start_cursor": self._start,
                "end_cursor": self._end,
            },
            "data": list(data),
        }


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_LIMIT
    # Python refuses to parse very long numbers
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) < 1:
        raise ApiError(400, f"limit must be a number from 1 to {MAX_LIMIT}.")
    return min(int(text), MAX_LIMIT)


def _cursor(index: int, key: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([index, key]).encode()).decode("ascii").rstrip("=")


def _parse_cursor(cursor: str) -> tuple[int, str]:
    try:
        index, key = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (binascii.Error, ValueError, TypeError, RecursionError):
        raise ApiError(400, "The cursor does not belong to this list.") from None
    if not isinstance(index, int) or not isinstance(key, str):
        raise ApiError(400, "The cursor does not belong to this list.")
    return index, key


def _index_of(cursor: str, keys: Sequence[str]) -> int:
    """Return the index of the cursor's item; if the item is gone, its former index."""
    index, key = _parse_cursor(cursor)
    return keys.index(key) if key in keys else min(max(index, 0), len(keys))


def _index_after(cursor: str, keys: Sequence[str]) -> int:
    """Return the index after the cursor's item; if the item is gone, its former index."""
    _, key = _parse_cursor(cursor)
    return _index_of(cursor, keys) + (key in keys)


_PREFLIGHT = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, POST, PUT, PATCH, DELETE",
    "Access-Control-Max-Age": "600",
}


async def preflight(request: Request) -> Response:
    """Return the response to a preflight request; allows every page."""
    requested = request.headers.get("access-control-request-headers", "authorization, content-type")
    return Response(status_code=204, headers={**_PREFLIGHT, "Access-Control-Allow-Headers": requested})


def _is_origin_allowed(token: ConnectToken, origin: str | None) -> bool:
    """Return whether a page of *origin* may use *token*; None for a client other than a browser."""
    return origin is None or origin.rstrip("/") in token.terms.allowed_origins


def _allow_origin(response: Response, origin: str | None) -> Response:
    """Allow pages of *origin* to read *response*."""
    if origin is not None:
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers.add_vary_header("Origin")
    return response

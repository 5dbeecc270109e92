"""Routes of Connect tokens: `POST .../tokens` and `GET .../tokens/{token}/validate`."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pdkernel.accounts.apps import check_app_slug
from pdkernel.common.blocking import run_blocking
from pdkernel.common.clock import format_iso
from pdkernel.common.identity import parse_environment
from pdkernel.errors import RequestError
from pdkernel.server.app_context import AppContext
from pdkernel.server.app_serializers import resolve_link_app, serialize_app
from pdkernel.server.app_state import get_state
from pdkernel.server.authorization import UnauthorizedError, authorize
from pdkernel.server.link.account_connection import NoSuchAccountError, check_reconnectable
from pdkernel.server.link.tokens import APP_NOT_FOUND_MESSAGE, create_token, find_token_problem, parse_terms
from pdkernel.server.rate_limits import rate_limit_headers

MAX_BODY_BYTES = 1 << 16
SCOPE = "connect:tokens:create"
MAX_TOKENS_PER_MINUTE = 100
"""Limit of new tokens for one external user, if rate limits apply (platform documentation)."""


async def create_token_route(request: Request) -> Response:
    """Answer `POST /v1/connect/{project_id}/tokens`."""
    context = get_state(request.app).context
    try:
        caller = await run_blocking(authorize, context.project, request.headers.get("authorization"))
    except UnauthorizedError as fault:
        return _error(401, str(fault))
    if not caller.has_scope(SCOPE):
        return _error(403, f"The access token lacks the scope {SCOPE}.")
    if request.path_params["project_id"] != context.directory.project_id:
        return _error(404, "project not found")
    try:
        body = await _read(request)
        environment = parse_environment(request.headers.get("x-pd-environment"))
        # JS SDK 1.x sends both names of the field
        user = body.get("external_user_id", body.get("external_id"))
        if not isinstance(user, str):
            raise RequestError("external_user_id is missing.", fix="Send your own id of the user, as a string.")
        terms, lifetime_s = parse_terms(context, body, caller)
        if context.settings.applies_rate_limits:
            since = context.clock.now() - timedelta(minutes=1)
            recent_tokens = await run_blocking(context.project.connect_tokens.count_since, user, environment, since)
            if recent_tokens >= MAX_TOKENS_PER_MINUTE:
                return _rate_limit_response(context)
        created = await run_blocking(
            create_token, context, external_user_id=user, environment=environment, terms=terms, lifetime_s=lifetime_s
        )
    except RequestError as fault:
        return _error(400, str(fault))
    answer = {
        "token": created.text,
        "expires_at": format_iso(created.token.expires_at),
        "connect_link_url": created.link_url(context.settings.base_url),
    }
    return JSONResponse(answer, headers={"cache-control": "no-store"})


async def validate_token_route(request: Request) -> Response:
    """Answer `GET /v1/connect/tokens/{token}/validate?app_id=...`: status 200 also for an invalid token, and without an access token."""
    context = get_state(request.app).context
    token = await run_blocking(context.project.connect_tokens.find, request.path_params["token"])
    fault = find_token_problem(context, token)
    if fault is not None or token is None:
        return _validation_response({"success": False, "error": fault})
    answer: dict[str, Any] = {
        "success": True,
        "project_id": context.directory.project_id,
        "project_environment": token.environment,
        "project_app_name": "pdkernel",
        "success_redirect_uri": token.terms.success_redirect_uri,
        "error_redirect_uri": token.terms.error_redirect_uri,
    }
    app = await run_blocking(resolve_link_app, context, request.query_params.get("app_id", ""))
    if app:
        try:
            check_app_slug(app)
        except RequestError:
            return _validation_response({"success": False, "error": APP_NOT_FOUND_MESSAGE})
        answer["app"] = await run_blocking(serialize_app, context, app)
    account = request.query_params.get("account_id")
    if app and account:
        try:
            await run_blocking(check_reconnectable, context, token, app, account)
        except NoSuchAccountError as fault:
            return _validation_response({"success": False, "error": str(fault)})
    return _validation_response(answer)


async def _read(request: Request) -> dict[str, Any]:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise RequestError(f"The body has more than {MAX_BODY_BYTES} bytes.")
    try:
        value = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise RequestError("The body is not a JSON object.")
    return value


def _validation_response(answer: dict[str, Any]) -> Response:
    # a page of the product sends the request from the user's browser; the token in the path authorizes it
    return JSONResponse(answer, headers={"cache-control": "no-store", "access-control-allow-origin": "*"})


def _error(status: int, text: str) -> Response:
    return JSONResponse({"error": text}, status_code=status)


def _rate_limit_response(context: AppContext) -> Response:
    now = context.clock.now().timestamp()
    headers = rate_limit_headers(MAX_TOKENS_PER_MINUTE, now=now, resets_at=now + 60)
    return JSONResponse({"error": "Throttled"}, status_code=429, headers=headers)

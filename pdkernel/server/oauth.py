"""
Routes `POST /v1/oauth/token` and `POST /v1/oauth/revoke`.

A client sends its credentials as JSON, as a form, by HTTP Basic, or as a signed assertion (RFC 7523), which is valid once.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote_plus

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Message

from pdkernel.accounts.apps import format_origin
from pdkernel.common.blocking import run_blocking
from pdkernel.server.app_context import AppContext
from pdkernel.server.app_state import get_state
from pdkernel.server.authorization import scope_covers
from pdkernel.storage.oauth_clients import TOKEN_LIFETIME_S, OAuthClient

GRANT = "client_credentials"
_NO_STORE_HEADERS = {"Cache-Control": "no-store", "Pragma": "no-cache"}
_MAX_FIELDS = 50
_MAX_BODY_BYTES = 64 * 1024
"""Maximum size of a body; the sender is not authenticated yet."""
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_HEADER_TYPE = "client-authentication+jwt"
"""`typ` of an assertion, set by the official SDK; another token signed with the same key is not an assertion."""
_MAX_LIFETIME_S = 300.0
"""Maximum lifetime of an assertion in seconds (the official SDK uses 60)."""
_CLOCK_SKEW_S = 10.0
"""Tolerated difference of the clocks in seconds."""


class _OAuthError(Exception):
    """An error response of RFC 6749, section 5.2."""

    def __init__(self, error: str, description: str, status: int = 400) -> None:
        super().__init__(description)
        self.error = error
        self.status = status


def routes() -> list[BaseRoute]:
    """Return the routes of OAuth tokens."""
    return [
        Route("/v1/oauth/token", create_token, methods=["POST"]),
        Route("/v1/oauth/revoke", revoke_token, methods=["POST"]),
    ]


async def create_token(request: Request) -> Response:
    """Issue an access token for a client's credentials."""
    context = get_state(request.app).context
    request = _limit_body(request)
    try:
        fields = await _parse_fields(request)
        if context.passthrough is not None and await _is_pipedream_client(context, request, fields):
            return await context.passthrough.tokens.issue(request, fields, _credentials(request, fields)[0])
        client = await _authenticate(context, request, fields)
        if fields.get("grant_type") != GRANT:
            raise _OAuthError("unsupported_grant_type", f"grant_type must be {GRANT}.")
        scopes = _grant_scopes(client, fields.get("scope", ""))
    except _OAuthError as refused:
        return _refusal(refused)
    token = await run_blocking(context.project.access_tokens.issue, client.id, scopes)
    answer = {
        "access_token": token,
        "token_type": "Bearer",
        "expires_in": TOKEN_LIFETIME_S,
        "created_at": int(context.clock.now().timestamp()),
        "scope": " ".join(scopes),
    }
    return JSONResponse(answer, headers=_NO_STORE_HEADERS)


async def revoke_token(request: Request) -> Response:
    """Revoke a token. As in RFC 7009, an invalid token is not an error."""
    context = get_state(request.app).context
    tokens = context.project.access_tokens
    try:
        request = _limit_body(request)
        fields = await _parse_fields(request)
        if context.passthrough is not None and await _is_pipedream_client(context, request, fields):
            return await context.passthrough.tokens.revoke(request, fields.get("token", ""))
        client = await _authenticate(context, request, fields)
        if not fields.get("token"):
            raise _OAuthError("invalid_request", "The field `token` is missing: send the token to revoke.")
    except _OAuthError as refused:
        return _refusal(refused)
    token = await run_blocking(tokens.verify, fields["token"])
    if token is not None and token.client_id == client.id:
        await run_blocking(tokens.revoke, token)
    return JSONResponse({}, headers=_NO_STORE_HEADERS)


async def _is_pipedream_client(context: AppContext, request: Request, fields: Mapping[str, str]) -> bool:
    """Return whether the client is not of this server, so that Pipedream may know it. Local credentials are never forwarded."""
    return not await run_blocking(context.project.oauth_clients.is_known, _credentials(request, fields)[0])


def _credentials(request: Request, fields: Mapping[str, str]) -> tuple[str, str]:
    return _parse_basic(request.headers.get("authorization")) or (
        fields.get("client_id", ""),
        fields.get("client_secret", ""),
    )


async def _authenticate(context: AppContext, request: Request, fields: Mapping[str, str]) -> OAuthClient:
    client_id, secret = _credentials(request, fields)
    if "client_assertion" in fields:
        return await _authenticate_assertion(context, request, fields, client_id, secret)
    client = await run_blocking(context.project.oauth_clients.authenticate, client_id, secret)
    if client is None:
        raise _OAuthError("invalid_client", "There is no such client, or the secret is wrong.", 401)
    return client


async def _authenticate_assertion(
    context: AppContext, request: Request, fields: Mapping[str, str], client_id: str, secret: str
) -> OAuthClient:
    if secret or fields.get("client_assertion_type") != ASSERTION_TYPE:
        raise _OAuthError(
            "invalid_request",
            f"With client_assertion, omit client_secret, and set client_assertion_type to {ASSERTION_TYPE}.",
        )
    # the origin of the request's URL, and of the public URL
    named = format_origin(str(request.base_url)), format_origin(context.settings.base_url)
    client = await run_blocking(_find_issuer, context, fields["client_assertion"], named, client_id)
    if client is None:
        text = f"The assertion is invalid, has expired or was already used. The audience must be {' or '.join(named)}."
        raise _OAuthError("invalid_client", text, 401)
    return client


def _find_issuer(
    context: AppContext, assertion: str, audience: Collection[str], client_id: str = ""
) -> OAuthClient | None:
    """
    Return the client that issued *assertion*, and mark the assertion as used; None if the assertion is invalid.

    The client must have issued it for this server, a short time ago (`private_key_jwt`, RFC 7523).

    Args:
        context: Context of the server.
        assertion: A signed JWT.
        audience: Accepted audiences.
        client_id: Client id in the request, or "".
    """
    try:
        named = str(jwt.decode(assertion, options={"verify_signature": False}).get("sub"))
        key = context.project.client_keys.find(named)
        if key is None or jwt.get_unverified_header(assertion).get("typ") != _HEADER_TYPE:
            return None
        claims: dict[str, Any] = jwt.decode(
            assertion,
            key,
            algorithms=["RS256" if isinstance(key, rsa.RSAPublicKey) else "ES256"],
            audience=list(audience),
            issuer=named,
            # times are checked below with the context's clock
            options={
                "require": ["iss", "sub", "aud", "exp", "jti"],
                "verify_exp": False,
                "verify_nbf": False,
                "verify_iat": False,
            },
        )
        expires, begins = float(claims["exp"]), float(claims.get("nbf", 0))
    except (jwt.InvalidTokenError, TypeError, ValueError, OverflowError):
        return None
    now = context.clock.now().timestamp()
    timely = (
        begins - _CLOCK_SKEW_S <= now < expires + _CLOCK_SKEW_S and expires <= now + _MAX_LIFETIME_S + _CLOCK_SKEW_S
    )
    if not timely or client_id not in ("", named):
        return None
    client = context.project.oauth_clients.find(named)
    if client is None or not context.project.client_keys.consume_assertion(
        named, claims["jti"], expires + _CLOCK_SKEW_S
    ):
        return None
    return client


def _grant_scopes(client: OAuthClient, requested: str) -> tuple[str, ...]:
    scopes = tuple(dict.fromkeys(requested.split()))
    if not scopes:
        return client.scopes
    if not all(scope_covers(client.scopes, scope) for scope in scopes):
        # a request for every scope gets all scopes of the client
        if scopes == ("*",):
            return client.scopes
        raise _OAuthError("invalid_scope", "The client does not have all of these scopes.")
    return scopes


def _limit_body(request: Request) -> Request:
    """Return *request* with a limit on its body."""
    size = 0

    async def receive() -> Message:
        nonlocal size
        message = await request.receive()
        size += len(message.get("body", b""))
        if size > _MAX_BODY_BYTES:
            raise _OAuthError("invalid_request", f"The body has more than {_MAX_BODY_BYTES} bytes.", 413)
        return message

    return Request(request.scope, receive)


async def _parse_fields(request: Request) -> dict[str, str]:
    """Return the fields of a JSON or form body; without a content type, the first character decides."""
    raw = await request.body()
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_json = kind == "application/json" or kind.endswith("+json") or (not kind and raw.lstrip()[:1] == b"{")
    try:
        if is_json:
            values: Any = json.loads(raw)
        else:
            pairs = parse_qsl(raw.decode("utf-8"), keep_blank_values=True, max_num_fields=_MAX_FIELDS)
            values = dict(pairs)
            if len(values) < len(pairs):  # RFC 6749, section 3.2
                raise _OAuthError("invalid_request", "A field of the form is repeated.")
    except (ValueError, RecursionError):
        raise _OAuthError("invalid_request", "The body is neither JSON nor a form.") from None
    if not isinstance(values, dict):
        raise _OAuthError("invalid_request", "The body is not a JSON object.")
    if isinstance(values.get("scope"), list):
        values["scope"] = " ".join(map(str, values["scope"]))
    texts = {name: value for name, value in values.items() if isinstance(value, str)}
    if any("\0" in value or not _is_text(value) for value in texts.values()):
        raise _OAuthError("invalid_request", "The body contains NUL or invalid characters.")
    return texts


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON can escape
        return False
    return True


def _parse_basic(authorization: str | None) -> tuple[str, str] | None:
    """Return the credentials of a Basic header; each part is form-encoded (RFC 6749, section 2.3.1)."""
    scheme, _, encoded = (authorization or "").strip().partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        client_id, _, secret = base64.b64decode(encoded, validate=True).decode("utf-8").partition(":")
    except (binascii.Error, ValueError):
        raise _OAuthError("invalid_request", "The Basic credentials are invalid.") from None
    return unquote_plus(client_id).replace("\0", ""), unquote_plus(secret)


def _refusal(refused: _OAuthError) -> Response:
    headers = (
        {**_NO_STORE_HEADERS, "WWW-Authenticate": 'Basic realm="pdkernel"'}
        if refused.status == 401
        else _NO_STORE_HEADERS
    )
    answer = {"error": refused.error, "error_description": str(refused)}
    return JSONResponse(answer, status_code=refused.status, headers=headers)

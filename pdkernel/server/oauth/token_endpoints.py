"""
`POST /v1/oauth/token` and `/v1/oauth/revoke`.

Knows the three ways in which SDKs send a client's credentials: JSON, a form, HTTP Basic; and that an assertion stands in a
secret's place. Which client they belong to and
what a token holds are the project's tables' to know.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote_plus

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message

from pdkernel.project.access_tokens import TOKEN_LIFETIME_S
from pdkernel.project.oauth_clients import OAuthClient
from pdkernel.server.app_context import AppContext
from pdkernel.server.oauth import client_assertions
from pdkernel.server.oauth.scopes import scope_covers

GRANT = "client_credentials"
_UNCACHED = {"Cache-Control": "no-store", "Pragma": "no-cache"}
_MAX_FIELDS = 50
_MAX_BYTES = 64 * 1024
"""Of a body: whoever has no token yet may send one."""


class _OAuthError(Exception):
    """An answer of RFC 6749, section 5.2."""

    def __init__(self, error: str, description: str, status: int = 400) -> None:
        super().__init__(description)
        self.error = error
        self.status = status


async def create_token(request: Request) -> Response:
    """Answer a client's credentials with an access token."""
    context: AppContext = request.app.state.context
    request = _limited(request)
    try:
        fields = await _fields(request)
        if context.passthrough is not None and await _is_pipedreams(context, request, fields):
            return await context.passthrough.tokens.issue(request, fields, _credentials(request, fields)[0])
        client = await _client(context, request, fields)
        if fields.get("grant_type") != GRANT:
            raise _OAuthError("unsupported_grant_type", f"grant_type is {GRANT} here.")
        scopes = _scopes(client, fields.get("scope", ""))
    except _OAuthError as refused:
        return _refusal(refused)
    token = await run_in_threadpool(context.project.access_tokens.issue, client.id, scopes)
    answer = {
        "access_token": token,
        "token_type": "Bearer",
        "expires_in": TOKEN_LIFETIME_S,
        "created_at": int(context.clock.now().timestamp()),
        "scope": " ".join(scopes),
    }
    return JSONResponse(answer, headers=_UNCACHED)


async def revoke_token(request: Request) -> Response:
    """Refuse a token from now on; like RFC 7009, a token that is not good any more is no error."""
    context: AppContext = request.app.state.context
    tokens = context.project.access_tokens
    try:
        request = _limited(request)
        fields = await _fields(request)
        if context.passthrough is not None and await _is_pipedreams(context, request, fields):
            return await context.passthrough.tokens.revoke(request, fields.get("token", ""))
        client = await _client(context, request, fields)
        if not fields.get("token"):
            raise _OAuthError("invalid_request", "Which token is to be revoked? Send it as `token`.")
    except _OAuthError as refused:
        return _refusal(refused)
    token = await run_in_threadpool(tokens.verify, fields["token"])
    if token is not None and token.client_id == client.id:
        await run_in_threadpool(tokens.revoke, token)
    return JSONResponse({}, headers=_UNCACHED)


async def _is_pipedreams(context: AppContext, request: Request, fields: Mapping[str, str]) -> bool:
    """Whether the client is one of the real project's: one that nobody has made here. What is ours is not sent there."""
    return not await run_in_threadpool(context.project.oauth_clients.is_known, _credentials(request, fields)[0])


def _credentials(request: Request, fields: Mapping[str, str]) -> tuple[str, str]:
    return _basic(request.headers.get("authorization")) or (
        fields.get("client_id", ""),
        fields.get("client_secret", ""),
    )


async def _client(context: AppContext, request: Request, fields: Mapping[str, str]) -> OAuthClient:
    client_id, secret = _credentials(request, fields)
    if "client_assertion" in fields:
        return await _assertions_client(context, request, fields, client_id, secret)
    client = await run_in_threadpool(context.project.oauth_clients.authenticate, client_id, secret)
    if client is None:
        raise _OAuthError("invalid_client", "There is no such client, or its secret is another.", 401)
    return client


async def _assertions_client(
    context: AppContext, request: Request, fields: Mapping[str, str], client_id: str, secret: str
) -> OAuthClient:
    if secret or fields.get("client_assertion_type") != client_assertions.TYPE:
        raise _OAuthError("invalid_request", f"client_assertion comes without a secret, as {client_assertions.TYPE}.")
    named = client_assertions.audiences(context, request)
    client = await run_in_threadpool(
        client_assertions.authenticate_assertion, context, fields["client_assertion"], named, client_id
    )
    if client is None:
        text = f"The assertion is not good here, has expired or was used. Its audience is {' or '.join(named)}."
        raise _OAuthError("invalid_client", text, 401)
    return client


def _scopes(client: OAuthClient, asked: str) -> tuple[str, ...]:
    wanted = tuple(dict.fromkeys(asked.split()))
    if not wanted:
        return client.scopes
    if not all(scope_covers(client.scopes, scope) for scope in wanted):
        # one that asks for everything gets everything that it may have
        if wanted == ("*",):
            return client.scopes
        raise _OAuthError("invalid_scope", "The client may not have all of these scopes.")
    return wanted


def _limited(request: Request) -> Request:
    """*request*, whose body can be read as far as it may be."""
    size = 0

    async def receive() -> Message:
        nonlocal size
        message = await request.receive()
        size += len(message.get("body", b""))
        if size > _MAX_BYTES:
            raise _OAuthError("invalid_request", f"The body holds more than {_MAX_BYTES} bytes.", 413)
        return message

    return Request(request.scope, receive)


async def _fields(request: Request) -> dict[str, str]:
    """The fields of the body, JSON or a form, by what it is labelled; without a label by what it looks like."""
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
                raise _OAuthError("invalid_request", "A field of the form is there twice.")
    except (ValueError, RecursionError):
        raise _OAuthError("invalid_request", "The body is neither JSON nor a form.") from None
    if not isinstance(values, dict):
        raise _OAuthError("invalid_request", "The body is no JSON object.")
    if isinstance(values.get("scope"), list):
        values["scope"] = " ".join(map(str, values["scope"]))
    texts = {name: value for name, value in values.items() if isinstance(value, str)}
    if any("\0" in value or not _is_text(value) for value in texts.values()):
        raise _OAuthError("invalid_request", "The body holds characters that are no text.")
    return texts


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can write
        return False
    return True


def _basic(authorization: str | None) -> tuple[str, str] | None:
    """Credentials of a Basic header; each part is form-encoded (RFC 6749, section 2.3.1)."""
    scheme, _, encoded = (authorization or "").strip().partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        client_id, _, secret = base64.b64decode(encoded, validate=True).decode("utf-8").partition(":")
    except (binascii.Error, ValueError):
        raise _OAuthError("invalid_request", "The Basic credentials cannot be read.") from None
    return unquote_plus(client_id).replace("\0", ""), unquote_plus(secret)


def _refusal(refused: _OAuthError) -> Response:
    headers = {**_UNCACHED, "WWW-Authenticate": 'Basic realm="pdkernel"'} if refused.status == 401 else _UNCACHED
    answer = {"error": refused.error, "error_description": str(refused)}
    return JSONResponse(answer, status_code=refused.status, headers=headers)

"""
Tokens that Pipedream issued: forwards requests to issue and revoke them, and checks which tokens open endpoints.

A token belongs to the workspace in one of three cases:

- Pipedream issued the token through this server to the client of the login.
- Pipedream issued the token through this server to another client, and the token names the workspace of the login's own token.
- Pipedream accepts the token in a request for the project's accounts.

If the token's scopes are known, they must include starting workflows.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, Protocol

from starlette.requests import Request
from starlette.responses import Response

from pdkernel.common.blocking import run_blocking
from pdkernel.common.clock import Clock
from pdkernel.server.authorization import INVOKE_SCOPE, scope_covers
from pdkernel.storage import Login
from pdkernel.storage.short_lived_tokens import PipedreamToken, PipedreamTokenTable

TokenStatus = Literal["good", "unknown", "scope", "unchecked"]
"""The token opens endpoints; does not belong to the workspace; lacks the scope; Pipedream did not respond."""

GOOD_CACHE_S, BAD_CACHE_S = 60.0, 5.0
"""Seconds for which the result of a check is cached."""
CHECK_TIMEOUT_S = 10.0
"""Timeout of a check in seconds."""
_MAX_CONCURRENT_CHECKS = 8
_MAX_CACHED_TOKENS = 1000
_MAX_TOKEN_CHARACTERS = 8192
_MAX_TOKEN_LIFETIME_S = 86400.0


class TokenIssuer(Protocol):
    """Sends the requests to Pipedream that issue, revoke and check tokens."""

    @property
    def login(self) -> Login:
        """The login at the real project."""
        ...

    async def forward(self, request: Request) -> Response:
        """Return Pipedream's response to *request*, or a 502 with the reason."""
        ...

    async def forward_and_parse(self, request: Request) -> tuple[Response, dict[str, Any]]:
        """As `forward`, with the JSON object in the response; an empty object if the body is too large or not JSON."""
        ...

    async def probe_accounts(self, token: str, *, timeout_s: float) -> int | None:
        """Return the status of a request for the project's accounts with *token*; None if Pipedream does not respond."""
        ...

    async def fetch_own_token(self, *, timeout_s: float) -> str | None:
        """Return a new token for the client of the login, or None if Pipedream does not issue a token."""
        ...


class PipedreamTokenVerifier:
    """
    The tokens of one server. Belongs to one event loop.

    Args:
        issuer: Sends requests to Pipedream.
        token_table: Tokens that Pipedream issued through this server.
        clock: For the age of cached results.
    """

    def __init__(self, issuer: TokenIssuer, token_table: PipedreamTokenTable, clock: Clock) -> None:
        self._issuer = issuer
        self._table = token_table
        self._clock = clock
        self._cache: dict[bytes, tuple[float, TokenStatus]] = {}
        self._pending_checks: dict[bytes, asyncio.Task[TokenStatus]] = {}
        self._turns = asyncio.Semaphore(_MAX_CONCURRENT_CHECKS)
        self._workspace: str | None = None

    async def issue(self, request: Request, fields: Mapping[str, str], client_id: str) -> Response:
        """Forward a request for a token, and store the token of the response."""
        answer, token_response = await self._issuer.forward_and_parse(request)
        token = token_response.get("access_token")
        if answer.status_code == 200 and isinstance(token, str):
            claims = decode_claims(token)
            life = token_response.get("expires_in")
            await run_blocking(
                self._table.add,
                token,
                client_id,
                _workspace(claims),
                _scopes(token_response.get("scope"))
                or _scopes(claims.get("scope"))
                or _scopes(fields.get("scope"))
                or ("*",),
                min(float(life), _MAX_TOKEN_LIFETIME_S) if isinstance(life, int | float) and life > 0 else 0.0,
            )
        return answer

    async def revoke(self, request: Request, token: str) -> Response:
        """Forward a request to revoke *token*; the token opens no endpoint afterwards."""
        await run_blocking(self._table.remove, token)
        try:
            return await self._issuer.forward(request)
        finally:  # a check in progress may have asked Pipedream before
            self._cache.pop(_digest(token), None)
            self._pending_checks.pop(_digest(token), None)

    async def check(self, token: str) -> TokenStatus:
        """Check *token*; concurrent checks of the same token share one request."""
        if (
            token.startswith("ctok_")
            or not token.isascii()
            or not token.isprintable()
            or len(token) > _MAX_TOKEN_CHARACTERS
        ):
            return "unknown"  # a Connect token of a browser does not open endpoints
        key = _digest(token)
        until, status = self._cache.get(key, (0.0, "unknown"))
        if until > self._clock.monotonic():
            return status
        task = self._pending_checks.get(key)
        if task is None:
            task = self._pending_checks[key] = asyncio.create_task(self._find(token))
            task.add_done_callback(partial(self._keep, key))
        return await asyncio.shield(task)

    def _keep(self, key: bytes, task: asyncio.Task[TokenStatus]) -> None:
        """Cache the result of *task*, unless the token of *key* was revoked while it was checked."""
        if self._pending_checks.get(key) is not task:
            return
        del self._pending_checks[key]
        if task.cancelled() or task.exception() is not None or (found := task.result()) == "unchecked":
            return
        self._cache[key] = (self._clock.monotonic() + (GOOD_CACHE_S if found == "good" else BAD_CACHE_S), found)
        while len(self._cache) > _MAX_CACHED_TOKENS:
            self._cache.pop(next(iter(self._cache)))

    async def _find(self, token: str) -> TokenStatus:
        issued = await run_blocking(self._table.find, token)
        if issued is not None:
            if not scope_covers(issued.scopes, INVOKE_SCOPE):
                return "scope"
            if await self._is_of_workspace(issued):
                return "good"
        async with self._turns:
            status = await self._issuer.probe_accounts(token, timeout_s=CHECK_TIMEOUT_S)
        if status == 200:
            # Pipedream has just accepted the token, so its claims are genuine
            scopes = _scopes(decode_claims(token).get("scope"))
            return "good" if not scopes or scope_covers(scopes, INVOKE_SCOPE) else "scope"
        return "unknown" if status in (401, 403, 404) else "unchecked"

    async def _is_of_workspace(self, issued: PipedreamToken) -> bool:
        if issued.client_id == self._issuer.login.client_id:
            return True
        if issued.workspace is None:
            return False
        if self._workspace is None:
            own = await self._issuer.fetch_own_token(timeout_s=CHECK_TIMEOUT_S)
            self._workspace = _workspace(decode_claims(own)) if own else None
        return issued.workspace == self._workspace


def decode_claims(token: str) -> Mapping[str, Any]:
    """
    Return the claims of *token*, or an empty mapping if the token is not a JWT.

    The signature is not checked: pass only tokens that Pipedream issued or accepted.
    """
    import jwt

    try:
        claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    except (jwt.InvalidTokenError, ValueError, TypeError):
        return {}
    return claims


def _workspace(claims: Mapping[str, Any]) -> str | None:
    subject = claims.get("sub")
    return subject if isinstance(subject, str) and subject.startswith("o_") else None


def _scopes(value: Any) -> tuple[str, ...]:
    if isinstance(value, list):
        return tuple(map(str, value))
    return tuple(value.split()) if isinstance(value, str) else ()


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def parse_json_object(body: bytes) -> dict[str, Any]:
    """Parse the JSON object in *body*; empty if *body* is not a JSON object."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}

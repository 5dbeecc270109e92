"""
Client authentication by a signed assertion (`private_key_jwt`, RFC 7523).

The client must have issued the assertion for this server, a short time ago. An assertion is valid once.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from starlette.requests import Request

from pdkernel.connect.oauth_providers import format_origin
from pdkernel.project.oauth_clients import OAuthClient
from pdkernel.server.app_context import AppContext

TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_HEADER_TYPE = "client-authentication+jwt"
"""`typ` of an assertion, set by the official SDK; another token signed with the same key is not an assertion."""
_MAX_LIFETIME_S = 300.0
"""Maximum lifetime of an assertion in seconds (the official SDK uses 60)."""
_CLOCK_SKEW_S = 10.0
"""Tolerated difference of the clocks in seconds."""


def audiences(context: AppContext, request: Request) -> tuple[str, ...]:
    """Accepted audiences: the origin of the request's URL, and of the public URL."""
    return format_origin(str(request.base_url)), format_origin(context.settings.base_url)


def authenticate_assertion(
    context: AppContext, assertion: str, audience: Collection[str], client_id: str = ""
) -> OAuthClient | None:
    """
    Return the client that issued *assertion*, and mark the assertion as used; None if the assertion is invalid.

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

"""
Assertions: what a client signs with its private key in a secret's place (`private_key_jwt`, RFC 7523).

Knows what one must say: made by the client, for this server, a short time ago, and used once. The client's public key and
which assertions were used are the project's tables'.
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
"""`typ` of an assertion, so that no other token that the key has signed is taken for one (the official SDK writes it)."""
_MAX_LIFETIME_S = 300.0
"""Seconds that an assertion may be good for (ours; the official SDK asks for 60)."""
_SKEW_S = 10.0
"""Seconds that the clocks of client and server may differ."""


def audiences(context: AppContext, request: Request) -> tuple[str, ...]:
    """What this server is called by its callers: the origin of the address that this one used, and of the public one."""
    return format_origin(str(request.base_url)), format_origin(context.settings.base_url)


def authenticate_assertion(
    context: AppContext, assertion: str, audience: Collection[str], client_id: str = ""
) -> OAuthClient | None:
    """
    The client that made *assertion*, which is used up by this; None if nobody did, or it is not good here and now.

    Args:
        context: What is served.
        assertion: A signed JWT.
        audience: What this server is called.
        client_id: Who the request says that it is, if it does.
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
            # times by our clock instead
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
    timely = begins - _SKEW_S <= now < expires + _SKEW_S and expires <= now + _MAX_LIFETIME_S + _SKEW_S
    if not timely or client_id not in ("", named):
        return None
    client = context.project.oauth_clients.find(named)
    if client is None or not context.project.client_keys.consume_assertion(named, claims["jti"], expires + _SKEW_S):
        return None
    return client

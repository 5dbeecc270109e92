"""
OAuth clients and their tokens.

    token_endpoints  the token and revocation endpoints, and the authentication of clients
    authorization    authorizes a request by its access token
"""

from __future__ import annotations

from starlette.routing import BaseRoute, Route

from pdkernel.server.oauth.token_endpoints import create_token, revoke_token


def routes() -> list[BaseRoute]:
    """Routes of the package."""
    return [
        Route("/v1/oauth/token", create_token, methods=["POST"]),
        Route("/v1/oauth/revoke", revoke_token, methods=["POST"]),
    ]

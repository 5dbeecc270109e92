"""
OAuth clients and their tokens.

    tokens    the token endpoint, and the one that revokes
    assertions  what a client signs in a secret's place
    access    whose request it is, by its token
    scopes    what a token is good for
"""

from __future__ import annotations

from starlette.routing import BaseRoute, Route

from pdkernel.server.oauth.token_endpoints import create_token, revoke_token


def routes() -> list[BaseRoute]:
    """This room's routes; handlers find `Serving` in `request.app.state.context`."""
    return [
        Route("/v1/oauth/token", create_token, methods=["POST"]),
        Route("/v1/oauth/revoke", revoke_token, methods=["POST"]),
    ]

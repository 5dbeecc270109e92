"""
Whose request it is: a bearer token, read.

Knows what a token must be good for. Where tokens come from is `tokens`'; what a caller does with one is the routes'.
"""

from __future__ import annotations

from dataclasses import dataclass

from pdkernel.server.app_context import AppContext
from pdkernel.server.oauth.scopes import scope_covers


class UnauthorizedError(Exception):
    """No token, or one that is not good; the message says which, and never the token."""


@dataclass(frozen=True, slots=True)
class AuthorizedClient:
    """
    An OAuth client that calls.

    Attributes:
        client_id: Which.
        project_id: Of which project: ours.
        scopes: What its token is good for.
    """

    client_id: str
    project_id: str
    scopes: tuple[str, ...]

    def has_scope(self, scope: str) -> bool:
        """Whether the token is good for *scope*."""
        return scope_covers(self.scopes, scope)


def parse_bearer_token(authorization: str | None) -> str | None:
    """The token in an `Authorization` header, or None; an empty header is none (Python SDKs send one)."""
    scheme, _, token = (authorization or "").strip().partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def authorize(context: AppContext, authorization: str | None) -> AuthorizedClient:
    """
    The client whose token the `Authorization` header holds. Asks the database at most once in five seconds.

    Raises:
        Unauthorized: There is no such token.
    """
    token = parse_bearer_token(authorization)
    if token is None:
        raise UnauthorizedError("No access token was given.")
    found = context.project.access_tokens.verify(token)
    if found is None:
        raise UnauthorizedError("The access token is not valid here, has expired or was revoked.")
    return AuthorizedClient(found.client_id, context.project.project_id, found.scopes)

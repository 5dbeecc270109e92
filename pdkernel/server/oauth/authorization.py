"""Authorizes a request by its bearer token."""

from __future__ import annotations

from dataclasses import dataclass

from pdkernel.server.app_context import AppContext
from pdkernel.server.scopes import scope_covers


class UnauthorizedError(Exception):
    """The token is missing or invalid. The message never contains the token."""


@dataclass(frozen=True, slots=True)
class AuthorizedClient:
    """
    The OAuth client of a request.

    Attributes:
        client_id: Id of the client.
        project_id: Id of this server's project.
        scopes: Scopes of the token.
    """

    client_id: str
    project_id: str
    scopes: tuple[str, ...]

    def has_scope(self, scope: str) -> bool:
        """Whether the token has *scope*."""
        return scope_covers(self.scopes, scope)


def parse_bearer_token(authorization: str | None) -> str | None:
    """The token in an `Authorization` header, or None; some Python SDKs send an empty header."""
    scheme, _, token = (authorization or "").strip().partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def authorize(context: AppContext, authorization: str | None) -> AuthorizedClient:
    """
    The client of the `Authorization` header's token. Reads the database at most once in five seconds per token.

    Raises:
        UnauthorizedError: The token is missing or invalid.
    """
    token = parse_bearer_token(authorization)
    if token is None:
        raise UnauthorizedError("The access token is missing.")
    found = context.project.access_tokens.verify(token)
    if found is None:
        raise UnauthorizedError("The access token is invalid, has expired or was revoked.")
    return AuthorizedClient(found.client_id, context.project.project_id, found.scopes)

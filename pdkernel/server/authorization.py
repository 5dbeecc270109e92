"""
Authorizes a request by its bearer token, and compares the scopes of tokens.

    *                        everything
    connect:*                everything of Connect
    connect:accounts:*       reading and writing accounts
    connect:accounts:read    one thing
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pdkernel.storage import Project

CONNECT_SCOPE = "connect:*"
"""The widest scope of a Connect token."""
INVOKE_SCOPE = "connect:workflow:invoke"
"""The scope that starts a workflow whose trigger requires OAuth."""


def scope_covers(held: Iterable[str], required: str) -> bool:
    """Return whether one of the *held* scopes includes *required*."""
    return any(scope in ("*", required) or (scope.endswith(":*") and required.startswith(scope[:-1])) for scope in held)


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
        """Return whether the token has *scope*."""
        return scope_covers(self.scopes, scope)


def parse_bearer_token(authorization: str | None) -> str | None:
    """Return the token in an `Authorization` header, or None; some Python SDKs send an empty header."""
    scheme, _, token = (authorization or "").strip().partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def authorize(project: Project, authorization: str | None) -> AuthorizedClient:
    """
    Return the client of the `Authorization` header's token. Reads the database at most once in five seconds per token.

    Raises:
        UnauthorizedError: The token is missing or invalid.
    """
    token = parse_bearer_token(authorization)
    if token is None:
        raise UnauthorizedError("The access token is missing.")
    found = project.access_tokens.verify(token)
    if found is None:
        raise UnauthorizedError("The access token is invalid, has expired or was revoked.")
    return AuthorizedClient(found.client_id, project.project_id, found.scopes)

"""
Scopes of access tokens.

    *                        everything
    connect:*                everything of Connect
    connect:accounts:*       reading and writing accounts
    connect:accounts:read    one thing
"""

from __future__ import annotations

from collections.abc import Iterable

CONNECT_SCOPE = "connect:*"
"""The widest scope of a Connect token."""
INVOKE_SCOPE = "connect:workflow:invoke"
"""The scope that starts a workflow whose trigger requires OAuth."""


def scope_covers(held: Iterable[str], required: str) -> bool:
    """Whether one of the *held* scopes includes *required*."""
    return any(scope in ("*", required) or (scope.endswith(":*") and required.startswith(scope[:-1])) for scope in held)

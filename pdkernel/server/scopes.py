"""
Scopes of access tokens.

    *                        everything
    connect:*                everything of Connect
    connect:accounts:*       reading and writing accounts
    connect:accounts:read    one thing
"""

from __future__ import annotations

from collections.abc import Iterable

INVOKE_SCOPE = "connect:workflow:invoke"
"""The scope that starts a workflow whose trigger requires OAuth."""


def scope_covers(held: Iterable[str], wanted: str) -> bool:
    """Whether one of the *held* scopes includes *wanted*."""
    return any(scope in ("*", wanted) or (scope.endswith(":*") and wanted.startswith(scope[:-1])) for scope in held)

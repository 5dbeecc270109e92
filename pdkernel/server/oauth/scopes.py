"""
Scopes: what a token is good for.

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
    """Whether one of the *held* scopes is *wanted* or stands for it."""
    return any(scope in ("*", wanted) or (scope.endswith(":*") and wanted.startswith(scope[:-1])) for scope in held)

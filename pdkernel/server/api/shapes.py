"""
Users, accounts and apps as the API writes them.

Knows which fields SDKs cannot do without, and that dates are ISO here. Credentials are written only where a caller may
have them, which is for the routes to know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pdkernel.clock import iso
from pdkernel.connect.renewal import due_at
from pdkernel.engine.context import stable_id
from pdkernel.identity import Account, ExternalUser
from pdkernel.project import Grant
from pdkernel.server.app_shapes import app_json
from pdkernel.server.serving import Serving


def user_json(user: ExternalUser) -> dict[str, Any]:
    """A user."""
    created = iso(user.created_at)
    return {
        "id": stable_id("exu_", f"{user.environment}/{user.external_id}"),
        "external_id": user.external_id,
        "created_at": created,
        "updated_at": created,
    }


def account_json(serving: Serving, account: Account, *, credentials: Mapping[str, str] | None = None) -> dict[str, Any]:
    """An account, with its credentials if they are given."""
    created = iso(account.created_at)
    shown: dict[str, Any] = {
        "id": account.id,
        "name": account.name,
        "external_id": account.external_user_id,
        "healthy": account.healthy,
        "dead": not account.healthy,
        "app": app_json(serving, account.app),
        "created_at": created,
        "updated_at": created,
        "authorized_scopes": [],
    }
    if credentials is not None:
        shown |= {"credentials": dict(credentials), **_renewal(serving.project.grants.find(account.id))}
    return shown


def _renewal(grant: Grant | None) -> dict[str, Any]:
    """When the access token of an account ends, and is got anew; nothing of it for one without."""
    if grant is None:
        return {"expires_at": None, "error": None, "last_refreshed_at": None, "next_refresh_at": None}
    due = due_at(grant)
    return {
        "expires_at": iso(grant.expires_at) if grant.expires_at else None,
        "error": grant.error,
        "last_refreshed_at": iso(grant.renewed_at),
        "next_refresh_at": iso(due) if due else None,
    }

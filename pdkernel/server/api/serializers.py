"""JSON form of users and accounts in the API, with every field that SDKs require. Routes decide whether to add credentials."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pdkernel.clock import format_iso
from pdkernel.connect.token_refresh import refresh_due_at
from pdkernel.engine.run_context import derive_id
from pdkernel.identity import Account, ExternalUser
from pdkernel.project import Grant
from pdkernel.server.app_context import AppContext
from pdkernel.server.app_serializers import serialize_app


def serialize_user(user: ExternalUser) -> dict[str, Any]:
    """Serialize a user."""
    created = format_iso(user.created_at)
    return {
        "id": derive_id("exu_", f"{user.environment}/{user.external_id}"),
        "external_id": user.external_id,
        "created_at": created,
        "updated_at": created,
    }


def serialize_account(
    context: AppContext, account: Account, *, credentials: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Serialize an account, with *credentials* if not None."""
    created = format_iso(account.created_at)
    shown: dict[str, Any] = {
        "id": account.id,
        "name": account.name,
        "external_id": account.external_user_id,
        "healthy": account.healthy,
        "dead": not account.healthy,
        "app": serialize_app(context, account.app),
        "created_at": created,
        "updated_at": created,
        "authorized_scopes": [],
    }
    if credentials is not None:
        shown |= {"credentials": dict(credentials), **_serialize_refresh(context.project.grants.find(account.id))}
    return shown


def _serialize_refresh(grant: Grant | None) -> dict[str, Any]:
    """The times of expiry and refresh of the account's access token; all None if the account has no grant."""
    if grant is None:
        return {"expires_at": None, "error": None, "last_refreshed_at": None, "next_refresh_at": None}
    due = refresh_due_at(grant)
    return {
        "expires_at": format_iso(grant.expires_at) if grant.expires_at else None,
        "error": grant.error,
        "last_refreshed_at": format_iso(grant.renewed_at),
        "next_refresh_at": format_iso(due) if due else None,
    }

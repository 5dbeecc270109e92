"""
Routes of external users (list, delete) and of their accounts (list, read, connect with a Connect token, delete).

Only an OAuth client receives credentials, never a browser. Accounts of the other environment and your own accounts are not
visible.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import JSONResponse, Response

from pdkernel.accounts.apps import check_app_slug
from pdkernel.accounts.oauth import refresh_due_at
from pdkernel.common.blocking import run_blocking
from pdkernel.common.clock import format_iso
from pdkernel.common.identity import Account, ExternalUser
from pdkernel.engine.run_context import derive_id
from pdkernel.errors import RequestError
from pdkernel.model import JSON
from pdkernel.server import webhooks
from pdkernel.server.api.api_call import ApiCall, ApiError, Page
from pdkernel.server.api.apps import resolve_app_slug
from pdkernel.server.app_context import AppContext
from pdkernel.server.app_serializers import serialize_app
from pdkernel.server.authorization import parse_bearer_token
from pdkernel.server.link.account_connection import connect_account
from pdkernel.server.link.tokens import find_token
from pdkernel.storage import Grant


async def list_accounts(call: ApiCall) -> JSON:
    """Answer `GET .../accounts`, newest first."""
    user = call.query_param("external_user_id")
    if call.token is not None:
        user = call.resolve_user(user)
    page = Page(call, await _list_account_ids(call, user, call.query_param("app")), str)
    found = [await run_blocking(call.context.directory.find_account, each) for each in page.items]
    return page.to_json([await _serialize(call, account) for account in found if account is not None])


async def list_user_accounts(call: ApiCall) -> JSON:
    """Answer `GET .../users/{external_user_id}/accounts`: a list without pages."""
    ids = await _list_account_ids(call, call.resolve_user(call.path_param("external_user_id")), call.query_param("app"))
    found = [await run_blocking(call.context.directory.find_account, each) for each in ids]
    return [await _serialize(call, account) for account in found if account is not None]


async def retrieve(call: ApiCall) -> JSON:
    """Answer `GET .../accounts/{account_id}`."""
    return await _serialize(call, await find_account(call, call.path_param("account_id")))


async def create(call: ApiCall) -> Response:
    """Answer `POST .../accounts`: connects an account of a key-based app for a Connect token's user."""
    body = await call.read_json()
    token, text = call.token, parse_bearer_token(call.request.headers.get("authorization")) or ""
    given = body.get("connect_token")
    if token is None or given is not None:
        text = given if isinstance(given, str) else ""
        token = await run_blocking(find_token, call.context, text)
    if token is None:
        raise ApiError(400, "connect_token is missing, invalid, or has expired.")
    call.check_user(token.external_user_id)
    if token.environment != call.environment:
        raise ApiError(400, f"The Connect token belongs to the environment {token.environment}.")
    app, name, account_id = body.get("app_slug"), body.get("name"), body.get("account_id")
    if not isinstance(app, str):
        raise ApiError(400, "app_slug is missing. Send the app's slug, as a string.")
    if name is not None and not isinstance(name, str):
        raise ApiError(400, "name must be a string.")
    if account_id is not None and not isinstance(account_id, str):
        raise ApiError(400, "account_id must be a string: the id of the account to reconnect.")
    account = await run_blocking(
        connect_account,
        call.context,
        token,
        token_text=text,
        app=check_app_slug(app),
        credentials=_credentials(body),
        name=name,
        account_id=account_id,
    )
    task = webhooks.webhook_task(call.context, token)
    return JSONResponse(await _serialize(call, account), background=task)


async def delete(call: ApiCall) -> Response:
    """Answer `DELETE .../accounts/{account_id}`."""
    account = await find_account(call, call.path_param("account_id"))
    await run_blocking(call.context.directory.remove_account, account.id)
    return Response(status_code=204)


async def delete_app_accounts(call: ApiCall) -> Response:
    """Answer `DELETE .../apps/{app_id}/accounts`: all accounts of an app, by its id or slug, of the caller's environment."""
    slug = await resolve_app_slug(call, call.path_param("app_id"))
    for account in await _list_account_ids(call, None, slug):
        await run_blocking(call.context.directory.remove_account, account)
    return Response(status_code=204)


async def find_account(call: ApiCall, account_id: str) -> Account:
    """
    Find the external user's account with that id in the caller's environment.

    Raises:
        ApiError: The caller has no such account. The error does not reveal accounts of other users.
    """
    account = await run_blocking(call.context.directory.find_account, account_id)
    if (
        account is None
        or account.external_user_id is None
        or account.environment != call.environment
        or (call.token is not None and account.external_user_id != call.token.external_user_id)
    ):
        raise ApiError(404, f"There is no account {account_id[:80]!r} in {call.environment}.")
    return account


async def _list_account_ids(call: ApiCall, user: str | None, app: str | None) -> Sequence[str]:
    """Return the ids of accounts, newest first. In a large project, loading all accounts instead of a page would take seconds."""
    slug = None if app is None else await resolve_app_slug(call, app)
    directory = call.context.directory
    found = await run_blocking(
        directory.account_ids, external_user_id=user, environment=call.environment, app=slug, own=False
    )
    # an account is never connected with a custom OAuth client (`oa_...`)
    return [] if call.query_param("oauth_app_id") else found


async def _serialize(call: ApiCall, account: Account) -> dict[str, Any]:
    credentials = None
    if call.query_flag("include_credentials") and call.token is None:
        credentials = await run_blocking(call.context.directory.credentials, account.id)
    return await run_blocking(_serialize_account, call.context, account, credentials=credentials)


def _credentials(body: dict[str, Any]) -> dict[str, str]:
    text = body.get("cfmap_json")
    try:
        fields = json.loads(text) if isinstance(text, str) else text
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict) or not fields:
        raise RequestError("cfmap_json is missing. Send the account's fields, a JSON object as a string.")
    return {str(name): value if isinstance(value, str) else json.dumps(value) for name, value in fields.items()}


async def list_users(call: ApiCall) -> JSON:
    """Answer `GET .../users`, by id."""
    users = await run_blocking(call.context.directory.users, call.environment)
    words = call.query_param("q")
    found = [user for user in users if words is None or words.lower() in user.external_id.lower()]
    page = Page(call, found, lambda user: user.external_id)
    return page.to_json([_serialize_user(user) for user in page.items])


async def delete_user(call: ApiCall) -> Response:
    """Answer `DELETE .../users/{external_user_id}`, with their accounts and deployed triggers of that environment."""
    user = call.resolve_user(call.path_param("external_user_id"))
    if not await run_blocking(call.context.directory.delete_user, user, call.environment):
        raise ApiError(404, f"There is no external user {user!r} in {call.environment}.")
    return Response(status_code=204)


def _serialize_user(user: ExternalUser) -> dict[str, Any]:
    """Return a user as JSON, with every field that SDKs require."""
    created = format_iso(user.created_at)
    return {
        "id": derive_id("exu_", f"{user.environment}/{user.external_id}"),
        "external_id": user.external_id,
        "created_at": created,
        "updated_at": created,
    }


def _serialize_account(
    context: AppContext, account: Account, *, credentials: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return an account as JSON, with every field that SDKs require, and with *credentials* if not None."""
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
    """Return the times of expiry and refresh of the account's access token; all None if the account has no grant."""
    if grant is None:
        return {"expires_at": None, "error": None, "last_refreshed_at": None, "next_refresh_at": None}
    due = refresh_due_at(grant)
    return {
        "expires_at": format_iso(grant.expires_at) if grant.expires_at else None,
        "error": grant.error,
        "last_refreshed_at": format_iso(grant.renewed_at),
        "next_refresh_at": format_iso(due) if due else None,
    }

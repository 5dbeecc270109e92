"""Connects an account with a Connect token. A token connects one account. The limit of external users applies if it is set."""

from __future__ import annotations

from collections.abc import Mapping

from pdkernel.accounts.oauth import OAuthTokens, build_oauth_credentials, store_grant
from pdkernel.common.identity import Account
from pdkernel.errors import RequestError
from pdkernel.render.apps import format_app_name
from pdkernel.server.app_context import LinkContext
from pdkernel.server.link.tokens import USED_MESSAGE
from pdkernel.server.webhooks import build_success_event, store_event
from pdkernel.storage import ConnectToken

TOO_MANY_USERS_MESSAGE = "You've hit your limit on the number of external users you can connect."
"""The platform's message (documentation of its webhooks)."""


class TokenUsedError(RequestError):
    """The token is already used or has expired."""

    code = "connect_token"


class NoSuchAccountError(RequestError):
    """The account to reconnect does not exist or belongs to another user."""

    code = "unknown_account"


class TooManyUsersError(RequestError):
    """The environment has reached its limit of external users."""

    code = "too_many_users"


def connect_account(
    context: LinkContext,
    token: ConnectToken,
    *,
    token_text: str,
    app: str,
    credentials: Mapping[str, str],
    name: str | None = None,
    account_id: str | None = None,
) -> Account:
    """
    Connect an account of *app* for the token's user, or reconnect *account_id*, and store the event for the token's webhook. Blocks.

    Raises:
        NoSuchAccountError: The user has no such account of *app* in that environment.
        TokenUsedError: The token is already used.
        TooManyUsersError: The limit of external users is reached.
        RequestError: The credentials are invalid; the token stays unused.
    """
    with context.project.one_transaction("connect"):  # the check of the limit, the use of the token and the new user
        account = _connect(context, token, app, credentials, name, account_id)
        store_event(context, token, build_success_event(token, token_text, account))
    return account


def _connect(
    context: LinkContext,
    token: ConnectToken,
    app: str,
    credentials: Mapping[str, str],
    name: str | None,
    account_id: str | None,
) -> Account:
    if account_id is not None:
        check_reconnectable(context, token, app, account_id)
    else:
        _check_user_limit(context, token)
    if not context.project.connect_tokens.claim(token.digest):
        raise TokenUsedError(USED_MESSAGE)
    if account_id is not None:
        return context.directory.reconnect_account(account_id, credentials)
    return context.directory.add_account(
        app=app,
        credentials=credentials,
        external_user_id=token.external_user_id,
        environment=token.environment,
        name=name,
    )


def connect_by_oauth(
    context: LinkContext,
    token: ConnectToken,
    *,
    token_text: str,
    app: str,
    tokens: OAuthTokens,
    account_id: str | None = None,
) -> Account:
    """Connect an account of *app* with a provider's *tokens*. Raises the errors of `connect_account`."""
    with context.project.one_transaction("connect"):
        credentials = build_oauth_credentials(tokens)
        account = connect_account(
            context, token, token_text=token_text, app=app, credentials=credentials, account_id=account_id
        )
        store_grant(context.project, account.id, tokens)
    return account


def check_reconnectable(context: LinkContext, token: ConnectToken, app: str, account_id: str) -> None:
    """
    Check that the token's user owns the account. The error does not reveal accounts of other users.

    Raises:
        NoSuchAccountError: The user has no such account.
    """
    found = context.directory.find_account(account_id)
    is_owner = found is not None and (found.external_user_id, found.environment, found.app) == (
        token.external_user_id,
        token.environment,
        app,
    )
    if not is_owner:
        raise NoSuchAccountError(
            f"There is no {format_app_name(app)} account {account_id[:80]} of this user to reconnect."
        )


def _check_user_limit(context: LinkContext, token: ConnectToken) -> None:
    limit = context.settings.max_development_users
    if limit is None or token.environment != "development":
        return
    users = context.directory.users(token.environment)
    if len(users) >= limit and all(user.external_id != token.external_user_id for user in users):
        raise TooManyUsersError(TOO_MANY_USERS_MESSAGE)

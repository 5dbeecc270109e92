"""
Connecting one account with one token, and telling of it.

Knows that a token is used up exactly when an account comes of it, and the switch for the platform's limit of users.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from pdkernel.connect.oauth import OAuthTokens
from pdkernel.connect.token_refresh import build_oauth_credentials, store_grant
from pdkernel.errors import RequestError
from pdkernel.identity import Account
from pdkernel.project import ConnectToken
from pdkernel.server.app_context import LinkContext
from pdkernel.server.link.tokens import USED_MESSAGE

TOO_MANY_USERS_MESSAGE = "You've hit your limit on the number of external users you can connect."
"""The platform's words (documentation of its webhooks)."""
_connect_lock = threading.Lock()


class TokenUsedError(RequestError):
    """An account was connected with the token already, or its time is over."""

    code = "connect_token"


class NoSuchAccountError(RequestError):
    """The account that is to be connected anew is not there, or not the token's user's."""

    code = "unknown_account"


class TooManyUsersError(RequestError):
    """The environment has as many external users as it may."""

    code = "too_many_users"


def connect_account(
    context: LinkContext,
    token: ConnectToken,
    *,
    app: str,
    credentials: Mapping[str, str],
    name: str | None = None,
    account_id: str | None = None,
) -> Account:
    """
    Connect an account of *app* for the token's user, or the one of *account_id* anew; blocks as the directory does.

    Raises:
        NoSuchAccountError: There is no such account of that user, there, and of that app.
        TokenUsedError: The token is used up.
        TooManyUsersError: The user would be one too many.
        RequestError: The credentials cannot be used; the token stays good.
    """
    with _connect_lock:  # who is counted has been added, or not begun
        return _connect(context, token, app, credentials, name, account_id)


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
    try:
        if account_id is not None:
            return context.directory.reconnect_account(account_id, credentials)
        return context.directory.add_account(
            app=app,
            credentials=credentials,
            external_user_id=token.external_user_id,
            environment=token.environment,
            name=name,
        )
    except BaseException:
        context.project.connect_tokens.release(token.digest)
        raise


def connect_by_oauth(
    context: LinkContext, token: ConnectToken, *, app: str, tokens: OAuthTokens, account_id: str | None = None
) -> Account:
    """Connect an account of *app* that a provider gave *tokens* for. Raises as `connect_account` does."""
    account = connect_account(
        context, token, app=app, credentials=build_oauth_credentials(tokens), account_id=account_id
    )
    store_grant(context.project, account.id, tokens)
    return account


def check_reconnectable(context: LinkContext, token: ConnectToken, app: str, account_id: str) -> None:
    """
    Whether the token's user can connect that account anew; whether somebody else has it is not said.

    Raises:
        NoSuchAccountError: They cannot.
    """
    found = context.directory.find_account(account_id)
    theirs = found is not None and (found.external_user_id, found.environment, found.app) == (
        token.external_user_id,
        token.environment,
        app,
    )
    if not theirs:
        raise NoSuchAccountError(f"There is no {app} account {account_id[:80]} of this user to be connected again.")


def _check_user_limit(context: LinkContext, token: ConnectToken) -> None:
    most = context.settings.max_development_users
    if most is None or token.environment != "development":
        return
    users = context.directory.users(token.environment)
    if len(users) >= most and all(user.external_id != token.external_user_id for user in users):
        raise TooManyUsersError(TOO_MANY_USERS_MESSAGE)

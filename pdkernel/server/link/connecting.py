"""
Connecting one account with one token, and telling of it.

Knows that a token is used up exactly when an account comes of it, and the switch for the platform's limit of users.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from pdkernel.connect.oauth import Tokens
from pdkernel.connect.renewal import keep_grant, oauth_credentials
from pdkernel.errors import RequestError
from pdkernel.identity import Account
from pdkernel.project import ConnectToken
from pdkernel.server.link.tokens import USED
from pdkernel.server.serving import Linking

TOO_MANY_USERS = "You've hit your limit on the number of external users you can connect."
"""The platform's words (documentation of its webhooks)."""
_CONNECTING = threading.Lock()


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
    serving: Linking,
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
    with _CONNECTING:  # who is counted has been added, or not begun
        return _connect(serving, token, app, credentials, name, account_id)


def _connect(
    serving: Linking,
    token: ConnectToken,
    app: str,
    credentials: Mapping[str, str],
    name: str | None,
    account_id: str | None,
) -> Account:
    if account_id is not None:
        check_account(serving, token, app, account_id)
    else:
        _check_users(serving, token)
    if not serving.project.connect_tokens.claim(token.digest):
        raise TokenUsedError(USED)
    try:
        if account_id is not None:
            return serving.directory.reconnect_account(account_id, credentials)
        return serving.directory.add_account(
            app=app,
            credentials=credentials,
            external_user_id=token.external_user_id,
            environment=token.environment,
            name=name,
        )
    except BaseException:
        serving.project.connect_tokens.release(token.digest)
        raise


def connect_by_oauth(
    serving: Linking, token: ConnectToken, *, app: str, tokens: Tokens, account_id: str | None = None
) -> Account:
    """Connect an account of *app* that a provider gave *tokens* for. Raises as `connect_account` does."""
    account = connect_account(serving, token, app=app, credentials=oauth_credentials(tokens), account_id=account_id)
    keep_grant(serving.project, account.id, tokens)
    return account


def check_account(serving: Linking, token: ConnectToken, app: str, account_id: str) -> None:
    """
    Whether the token's user can connect that account anew; whether somebody else has it is not said.

    Raises:
        NoSuchAccountError: They cannot.
    """
    found = serving.directory.find_account(account_id)
    theirs = found is not None and (found.external_user_id, found.environment, found.app) == (
        token.external_user_id,
        token.environment,
        app,
    )
    if not theirs:
        raise NoSuchAccountError(f"There is no {app} account {account_id[:80]} of this user to be connected again.")


def _check_users(serving: Linking, token: ConnectToken) -> None:
    most = serving.settings.user_cap
    if most is None or token.environment != "development":
        return
    users = serving.directory.users(token.environment)
    if len(users) >= most and all(user.external_id != token.external_user_id for user in users):
        raise TooManyUsersError(TOO_MANY_USERS)

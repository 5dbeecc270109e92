"""
Connecting one account with one token, and telling of it.

Knows that a token is used up exactly when an account comes of it, and the switch for the platform's limit of users.
"""

from __future__ import annotations

from collections.abc import Mapping

from pdkernel.connect.oauth import Tokens
from pdkernel.connect.renewal import keep_grant, oauth_credentials
from pdkernel.errors import RequestError
from pdkernel.identity import Account
from pdkernel.project import ConnectToken
from pdkernel.server.link.tokens import USED
from pdkernel.server.serving import Serving

TOO_MANY_USERS = "You've hit your limit on the number of external users you can connect."
"""The platform's words (documentation of its webhooks)."""


class TokenUsedError(RequestError):
    """An account was connected with the token already, or its time is over."""

    code = "connect_token"


class TooManyUsersError(RequestError):
    """The environment has as many external users as it may."""

    code = "too_many_users"


def connect_account(
    serving: Serving, token: ConnectToken, *, app: str, credentials: Mapping[str, str], name: str | None = None
) -> Account:
    """
    Connect an account of *app* for the token's user; blocks as the directory does.

    Raises:
        TokenUsedError: The token is used up.
        TooManyUsersError: The user would be one too many.
        RequestError: The credentials cannot be used; the token stays good.
    """
    _check_users(serving, token)
    if not serving.project.connect_tokens.claim(token.digest):
        raise TokenUsedError(USED)
    try:
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


def connect_by_oauth(serving: Serving, token: ConnectToken, *, app: str, tokens: Tokens) -> Account:
    """Connect an account of *app* that a provider gave *tokens* for. Raises as `connect_account` does."""
    account = connect_account(serving, token, app=app, credentials=oauth_credentials(tokens))
    keep_grant(serving.project, account.id, tokens)
    return account


def _check_users(serving: Serving, token: ConnectToken) -> None:
    most = serving.settings.user_cap
    if most is None or token.environment != "development":
        return
    users = serving.directory.users(token.environment)
    if len(users) >= most and all(user.external_id != token.external_user_id for user in users):
        raise TooManyUsersError(TOO_MANY_USERS)

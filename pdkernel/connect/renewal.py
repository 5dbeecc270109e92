"""
Access tokens of accounts that were connected by OAuth: kept, and renewed before they end or once they are refused.

Knows which of them are due and that one process renews at a time. Renewing blocks for as long as the provider takes.
"""

from __future__ import annotations

import logging
import time
from datetime import timedelta

from pdkernel.connect.oauth import ProviderError, Tokens, refresh
from pdkernel.connect.providers import find_provider
from pdkernel.identity import Account, Credentials
from pdkernel.project import Grant, Project

AHEAD = timedelta(minutes=5)
"""So long before its end a token is renewed: a run that starts now is to end with it."""
ACCESS_TOKEN = "oauth_access_token"  # noqa: S105 - a field's name
_WAIT_S = 20.0

_log = logging.getLogger(__name__)


def oauth_credentials(tokens: Tokens) -> dict[str, str]:
    """An account's credentials; what renews them stays with us."""
    # parity[oauth-credentials]: the platform's also hold the refresh token and the client's id
    return {ACCESS_TOKEN: tokens.access_token}


def keep_grant(project: Project, account_id: str, tokens: Tokens, *, last: str | None = None) -> None:
    """Keep what renews the account's token; *last* is the refresh token until now."""
    now = project.clock.now()
    ends = None if tokens.expires_in is None else now + timedelta(seconds=tokens.expires_in)
    project.grants.put(account_id, Grant(tokens.refresh_token or last, ends, now))


def is_due(project: Project, account_id: str, credentials: Credentials) -> bool:
    """Whether `renewed` would ask a provider for a new access token, or wait for who asks."""
    if ACCESS_TOKEN not in credentials:
        return False
    grant = project.grants.find(account_id)
    return grant is not None and _due(project, grant)


def renewed(project: Project, account_id: str, credentials: Credentials) -> Credentials:
    """
    *credentials* of that account, which are due, with a new access token.

    A provider that cannot be reached changes nothing; one that refuses marks the account as unhealthy.
    """
    grant = project.grants.find(account_id)
    if grant is None:
        return credentials
    if not project.grants.claim(account_id):
        return _wait(project, account_id, grant)
    # another process may have renewed it between our look and our claim
    grant = project.grants.find(account_id) or grant
    account = project.accounts.find(account_id)
    if account is None or not _due(project, grant):
        if account is not None:
            project.grants.put(account_id, grant)
        return project.accounts.credentials(account_id)
    return _renew(project, account, grant, credentials)


def _due(project: Project, grant: Grant) -> bool:
    if grant.refresh_token is None or grant.error is not None:
        return False
    ends = grant.expires_at
    if ends is not None:
        lasting = ends - grant.renewed_at
        # a token that never lasts as long as our margin is renewed in the last fifth of its life
        return grant.refused or project.clock.now() >= ends - min(AHEAD, lasting / 5)
    return grant.refused


def _renew(project: Project, account: Account, grant: Grant, credentials: Credentials) -> Credentials:
    provider = find_provider(project, account.app)
    last = grant.refresh_token
    if provider is None or last is None:
        project.grants.put(account.id, grant)
        return credentials
    try:
        tokens = refresh(provider, last)
    except ProviderError as fault:
        _log.warning("The token of %s (%s) could not be renewed: %s", account.id, account.app, fault)
        error = str(fault) if fault.final else None
        project.grants.put(
            account.id, Grant(last, grant.expires_at, grant.renewed_at, refused=grant.refused, error=error)
        )
        if fault.final:
            project.accounts.mark_unhealthy(account.id)
        return credentials
    fresh = {**credentials, **oauth_credentials(tokens)}
    if project.accounts.renew(account.id, fresh):  # it may have been removed meanwhile
        keep_grant(project, account.id, tokens, last=last)
    return Credentials(fresh)


def _wait(project: Project, account_id: str, seen: Grant) -> Credentials:
    """The account's credentials once the process that renews them is done, or what there is after a while."""
    for _ in range(round(_WAIT_S / 0.05)):
        time.sleep(0.05)
        now = project.grants.find(account_id)
        if now is None or now != seen:
            break
    return project.accounts.credentials(account_id)

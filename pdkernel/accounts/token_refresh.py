"""
Refresh of access tokens of accounts connected by OAuth 2, before they expire or after an API rejected them.

One process refreshes a token at a time. A refresh blocks until the provider responds.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from datetime import datetime, timedelta

from pdkernel.accounts.oauth import OAuthTokens, ProviderError, refresh_tokens
from pdkernel.accounts.oauth_providers import find_provider
from pdkernel.common.identity import ACCESS_TOKEN_FIELD, Account, Credentials
from pdkernel.storage import Grant, Project

REFRESH_MARGIN = timedelta(minutes=5)
"""A token is refreshed this long before it expires, so that a run that starts now can finish with it."""
_MAX_WAIT_S = 20.0

_log = logging.getLogger(__name__)


def build_oauth_credentials(tokens: OAuthTokens) -> dict[str, str]:
    """The account's credentials; the refresh token stays in the project."""
    # parity[oauth-credentials]: credentials of the platform also have the refresh token and the client's id
    return {ACCESS_TOKEN_FIELD: tokens.access_token}


def store_grant(project: Project, account_id: str, tokens: OAuthTokens) -> None:
    """Store the refresh token of an account that was just connected."""
    project.grants.set(account_id, _grant(project, tokens))


def refresh_due_at(grant: Grant) -> datetime | None:
    """When the token is due for a refresh; None for a token that cannot be refreshed or does not expire."""
    if grant.refresh_token is None or grant.expires_at is None:
        return None
    # a token with a lifetime shorter than the margin is refreshed in the last fifth of its lifetime
    return grant.expires_at - min(REFRESH_MARGIN, (grant.expires_at - grant.renewed_at) / 5)


def is_refresh_due(project: Project, account_id: str) -> bool:
    """Whether `refresh_credentials` would request a new access token, or wait for another process that requests a token."""
    grant = project.grants.find(account_id)
    return grant is not None and _is_due(project, grant)


def refresh_credentials(project: Project, account_id: str, credentials: Credentials) -> Credentials:
    """
    Return *credentials*, for which `is_refresh_due` is true, with a new access token.

    If the provider is unreachable, the credentials stay unchanged. If the provider rejects the refresh token, the account becomes
    unhealthy.
    """
    claim = project.grants.claim_renewal(account_id)
    if claim is None:
        return _wait_for_refresh(project, account_id)
    # another process may have refreshed the token, or removed the account, before this process claimed the refresh
    grant, account = project.grants.find(account_id), project.accounts.find(account_id)
    if grant is None or account is None or not _is_due(project, grant):
        if grant is not None:
            project.grants.finish_renewal(account_id, claim, grant)
        return project.accounts.credentials(account_id)
    return _renew(project, account, grant, claim, credentials)


def _is_due(project: Project, grant: Grant) -> bool:
    if grant.refresh_token is None or grant.error is not None:
        return False
    due = refresh_due_at(grant)
    return grant.is_refused or (due is not None and project.clock.now() >= due)


def _renew(project: Project, account: Account, grant: Grant, claim: float, credentials: Credentials) -> Credentials:
    provider = find_provider(project, account.app)
    last = grant.refresh_token
    if provider is None or last is None:
        project.grants.finish_renewal(account.id, claim, grant)
        return credentials
    try:
        tokens = refresh_tokens(provider, last)
    except ProviderError as fault:
        _log.warning("The token of %s (%s) could not be renewed: %s", account.id, account.app, fault)
        with project.one_transaction():
            if fault.is_permanent:
                project.accounts.mark_unhealthy(account.id, renewal_claim=claim)
                grant = replace(grant, error=str(fault))
            finished = project.grants.finish_renewal(account.id, claim, grant)
        return credentials if finished else project.accounts.credentials(account.id)
    fresh = {**credentials, **build_oauth_credentials(tokens)}
    with project.one_transaction():  # a provider that rotates refresh tokens does not accept the last one again
        is_current = project.accounts.replace_credentials(account.id, fresh, renewal_claim=claim)
        if is_current:
            project.grants.finish_renewal(account.id, claim, _grant(project, tokens, last=last))
    # if the account was removed or reconnected meanwhile, the new token is dropped
    return Credentials(fresh) if is_current else project.accounts.credentials(account.id)


def _grant(project: Project, tokens: OAuthTokens, *, last: str | None = None) -> Grant:
    now = project.clock.now()
    ends = None if tokens.expires_in is None else now + timedelta(seconds=tokens.expires_in)
    return Grant(tokens.refresh_token or last, ends, now)


def _wait_for_refresh(project: Project, account_id: str) -> Credentials:
    """The account's credentials after another process has refreshed them, or unchanged after `_MAX_WAIT_S` seconds."""
    for _ in range(round(_MAX_WAIT_S / 0.05)):
        time.sleep(0.05)
        if not project.grants.is_renewing(account_id):
            break
    return project.accounts.credentials(account_id)

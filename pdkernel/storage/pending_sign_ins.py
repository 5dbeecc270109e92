"""
Pending sign-ins: redirects to an app's sign-in page whose callback has not arrived yet.

The callback arrives once, within minutes, with the OAuth state of the redirect.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field

from sqlalchemy import delete, insert, select

from pdkernel.common.clock import Clock
from pdkernel.storage.connect_tokens import hash_token
from pdkernel.storage.database import Database
from pdkernel.storage.schema import link_visits
from pdkernel.storage.sealed_columns import locate
from pdkernel.storage.vault import Vault

SIGN_IN_TIMEOUT_S = 15 * 60.0
"""Seconds within which a person must sign in at the app."""


@dataclass(frozen=True, slots=True)
class PendingSignIn:
    """
    The data for the callback of a sign-in.

    Attributes:
        token: The connect token.
        app: The app's slug.
        verifier: The PKCE code verifier.
        browser: Digest of the cookie that identifies the browser.
        redirect_uri: The callback URL.
        account: The id of the account to reconnect, or None.
        framed: Whether the sign-in is in a popup of an embedded page, which waits for a message from the popup.
    """

    token: str = field(repr=False)
    app: str
    verifier: str = field(repr=False)
    browser: str = field(repr=False)
    redirect_uri: str
    account: str | None = None
    framed: bool = False


class PendingSignInTable:
    """Pending sign-ins by OAuth state; only the digest of the state is stored."""

    def __init__(self, database: Database, vault: Vault, clock: Clock) -> None:
        self._database = database
        self._vault = vault
        self._clock = clock

    def add(self, state: str, visit: PendingSignIn) -> None:
        """Store a sign-in under *state*; expired ones are removed."""
        digest, now = hash_token(state), self._clock.now().timestamp()
        sealed = self._vault.seal_json(visit, _vault_context(digest))
        with self._database.write() as connection:
            connection.execute(delete(link_visits).where(link_visits.c.expires <= now))
            connection.execute(
                insert(link_visits).values(digest=digest, expires=now + SIGN_IN_TIMEOUT_S, sealed_visit=sealed)
            )

    def consume(self, state: str, browser: str) -> PendingSignIn | None:
        """
        Remove and return the sign-in of *state*; None if it does not exist, has expired, or was started in another browser.

        *browser* is the hash of the browser's id. Another browser does not use the sign-in up.
        """
        digest, now = hash_token(state), self._clock.now().timestamp()
        is_state = link_visits.c.digest == digest
        with self._database.write() as connection:
            row = connection.execute(select(link_visits).where(is_state)).first()
            if row is None or row.expires <= now:
                return None
            found = self._vault.unseal_json(row.sealed_visit, _vault_context(digest), PendingSignIn)
            if not hmac.compare_digest(browser, found.browser):
                return None
            # on Postgres, another process may have removed it meanwhile
            return found if connection.execute(delete(link_visits).where(is_state)).rowcount > 0 else None


def _vault_context(digest: str) -> str:
    return locate(link_visits.c.sealed_visit, digest=digest)

"""
People who were sent to an app's own sign-in page and are expected back.

Knows that each comes back once, within minutes, with the state that they were sent away with.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from sqlalchemy import delete, insert, select

from pdkernel.clock import Clock
from pdkernel.project.connect_tokens import hash_token
from pdkernel.project.database import Database
from pdkernel.project.schema import link_visits
from pdkernel.project.vault import Vault

SIGN_IN_TIMEOUT_S = 15 * 60.0
"""Seconds that a person has for signing in at the app."""


@dataclass(frozen=True, slots=True)
class PendingSignIn:
    """
    What is needed when the person comes back.

    Attributes:
        token: The connect token.
        app: The app's slug.
        verifier: PKCE's.
        browser: Digest of what marks the browser that was sent away.
        redirect_uri: The address that it comes back to.
        account: The id of the account that is connected anew, or None.
        framed: Whether it was sent away in a window of its own, from a page in a frame, which waits to be told.
    """

    token: str = field(repr=False)
    app: str
    verifier: str = field(repr=False)
    browser: str = field(repr=False)
    redirect_uri: str
    account: str | None = None
    framed: bool = False


class PendingSignInTable:
    """Visits by the state that they were begun with, which itself is not kept."""

    def __init__(self, database: Database, vault: Vault, clock: Clock) -> None:
        self._database = database
        self._vault = vault
        self._clock = clock

    def add(self, state: str, visit: PendingSignIn) -> None:
        """Expect somebody with *state*; those who did not come in time are forgotten."""
        digest, now = hash_token(state), self._clock.now().timestamp()
        sealed = self._vault.seal_json(asdict(visit), _vault_context(digest))
        with self._database.write() as connection:
            connection.execute(delete(link_visits).where(link_visits.c.expires <= now))
            connection.execute(
                insert(link_visits).values(digest=digest, expires=now + SIGN_IN_TIMEOUT_S, sealed_visit=sealed)
            )

    def consume(self, state: str) -> PendingSignIn | None:
        """The visit that was begun with *state*, this once; None if there is none or its time is over."""
        digest, now = hash_token(state), self._clock.now().timestamp()
        with self._database.write() as connection:
            row = connection.execute(select(link_visits).where(link_visits.c.digest == digest)).first()
            taken = connection.execute(delete(link_visits).where(link_visits.c.digest == digest)).rowcount > 0
        if row is None or not taken or row.expires <= now:
            return None
        visit = self._vault.unseal_json(row.sealed_visit, _vault_context(digest))
        return PendingSignIn(**visit) if isinstance(visit, dict) else None


def _vault_context(digest: str) -> str:
    return f"link_visits/{digest}/visit"

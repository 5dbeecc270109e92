"""
What renews the access token of an account that was connected by OAuth.

Knows when the token ends, whether the app refused it, and that only one process at a time renews it: many providers
give a new refresh token each time and take the old one for stolen when it comes again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import bindparam, delete, or_, select, update

from pdkernel.clock import Clock
from pdkernel.project.compiled_query import CompiledQuery
from pdkernel.project.database import Database
from pdkernel.project.schema import account_grants
from pdkernel.project.upsert import upsert_row
from pdkernel.project.vault import Vault

RENEWAL_CLAIM_S = 30.0
"""Seconds after which a process that began to renew a token counts as gone."""

_OF_ACCOUNT = CompiledQuery(select(account_grants).where(account_grants.c.account == bindparam("of")))


@dataclass(frozen=True, slots=True)
class Grant:
    """
    What there is for one account.

    Attributes:
        refresh_token: Gets the next access token; None where the app gave none.
        expires_at: When the access token ends, or None if the app did not say.
        renewed_at: When the access token was got.
        is_refused: The app answered 401 to the access token.
        error: Why it could not be renewed, or None.
    """

    refresh_token: str | None = field(repr=False)
    expires_at: datetime | None
    renewed_at: datetime
    is_refused: bool = False
    error: str | None = None


class GrantTable:
    """Grants by account."""

    def __init__(self, database: Database, vault: Vault, clock: Clock) -> None:
        self._database = database
        self._vault = vault
        self._clock = clock

    def set(self, account_id: str, grant: Grant) -> None:
        """Keep *grant* in the place of the account's last one; nobody renews it any more."""
        sealed = None
        if grant.refresh_token is not None:
            sealed = self._vault.seal(grant.refresh_token, _vault_context(account_id))
        with self._database.write() as connection:
            upsert_row(
                connection,
                account_grants,
                "account",
                account=account_id,
                **_columns(grant),
                claimed=None,
                sealed_refresh_token=sealed,
            )

    def finish_renewal(self, account_id: str, claim: float, grant: Grant) -> bool:
        """Give *claim* back with *grant*; False, and nothing is kept, if it is somebody else's or the grant is a new one."""
        sealed = None
        if grant.refresh_token is not None:
            sealed = self._vault.seal(grant.refresh_token, _vault_context(account_id))
        mine = (account_grants.c.account == account_id, account_grants.c.claimed == claim)
        with self._database.write() as connection:
            row = update(account_grants).where(*mine)
            kept = {**_columns(grant), "claimed": None, "sealed_refresh_token": sealed}
            return connection.execute(row.values(kept)).rowcount > 0

    def find(self, account_id: str) -> Grant | None:
        """The account's grant; None for one that was not connected by OAuth."""
        with self._database.read() as connection:
            row = _OF_ACCOUNT.fetch_first(connection, of=account_id)
        if row is None:
            return None
        sealed = row.sealed_refresh_token
        return Grant(
            refresh_token=None if sealed is None else self._vault.unseal(sealed, _vault_context(account_id)),
            expires_at=None if row.expires is None else datetime.fromtimestamp(row.expires, UTC),
            renewed_at=datetime.fromtimestamp(row.renewed, UTC),
            is_refused=bool(row.refused),
            error=row.error,
        )

    def mark_refused(self, account_id: str, since: datetime) -> bool:
        """
        The app answered 401 to the access token that the account had at *since*; one that came later is as good as before.

        False for an account without a grant.
        """
        theirs = account_grants.c.account == account_id
        with self._database.write() as connection:
            row = update(account_grants).where(theirs, account_grants.c.renewed <= since.timestamp())
            if connection.execute(row.values(refused=True)).rowcount > 0:
                return True
            return connection.execute(select(account_grants.c.account).where(theirs)).first() is not None

    def remove(self, account_id: str) -> None:
        """The account's token is renewed no more: it was given other credentials."""
        with self._database.write() as connection:
            connection.execute(delete(account_grants).where(account_grants.c.account == account_id))

    def claim_renewal(self, account_id: str) -> float | None:
        """Begin to renew the account's token: what `settle` wants; None while another process does."""
        now = self._clock.now().timestamp()
        claimed = account_grants.c.claimed
        free = or_(claimed.is_(None), claimed <= now - RENEWAL_CLAIM_S)
        with self._database.write() as connection:
            row = update(account_grants).where(account_grants.c.account == account_id, free)
            return now if connection.execute(row.values(claimed=now)).rowcount > 0 else None

    def is_renewing(self, account_id: str) -> bool:
        """Whether a process renews the account's token."""
        query = select(account_grants.c.claimed).where(account_grants.c.account == account_id)
        with self._database.read() as connection:
            return connection.execute(query).scalar_one_or_none() is not None


def _columns(grant: Grant) -> dict[str, Any]:
    return {
        "expires": None if grant.expires_at is None else grant.expires_at.timestamp(),
        "renewed": grant.renewed_at.timestamp(),
        "refused": grant.is_refused,
        "error": grant.error,
    }


def _vault_context(account_id: str) -> str:
    return f"account_grants/{account_id}/refresh_token"

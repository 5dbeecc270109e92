"""
OAuth grants of accounts: refresh tokens, and renewal claims.

Many providers issue a new refresh token at each renewal and treat a second use of the old token as theft. So a process claims a
renewal before it starts, and only one process renews an access token at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import bindparam, delete, or_, select, update

from pdkernel.common.clock import Clock
from pdkernel.storage.database import Database
from pdkernel.storage.schema import account_grants
from pdkernel.storage.statements import CompiledQuery, upsert_row
from pdkernel.storage.vault import Vault, locate

RENEWAL_CLAIM_S = 30.0
"""Seconds after which a renewal claim expires, because its process is assumed to have ended."""

_OF_ACCOUNT = CompiledQuery(select(account_grants).where(account_grants.c.account == bindparam("of")))


@dataclass(frozen=True, slots=True)
class Grant:
    """
    The grant of one account.

    Attributes:
        refresh_token: The refresh token, or None if the app issued none.
        expires_at: When the access token expires, or None if unknown.
        renewed_at: When the access token was issued.
        is_refused: Whether the app responded with 401 to the access token.
        error: The reason why the last renewal failed, or None.
    """

    refresh_token: str | None = field(repr=False)
    expires_at: datetime | None
    renewed_at: datetime
    is_refused: bool = False
    error: str | None = None


class GrantTable:
    """The OAuth grants of a project, by account."""

    def __init__(self, database: Database, vault: Vault, clock: Clock) -> None:
        self._database = database
        self._vault = vault
        self._clock = clock

    def set(self, account_id: str, grant: Grant) -> None:
        """Store *grant*, in place of an earlier grant of the account. A running renewal loses its claim."""
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
        """Store the result of a renewal. False, without a change, if the renewal has lost its *claim*."""
        sealed = None
        if grant.refresh_token is not None:
            sealed = self._vault.seal(grant.refresh_token, _vault_context(account_id))
        is_claimed = (account_grants.c.account == account_id, account_grants.c.claimed == claim)
        with self._database.write() as connection:
            row = update(account_grants).where(*is_claimed)
            values = {**_columns(grant), "claimed": None, "sealed_refresh_token": sealed}
            return connection.execute(row.values(values)).rowcount > 0

    def find(self, account_id: str) -> Grant | None:
        """The account's grant, or None if it was not connected by OAuth."""
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
        Record that the app responded with 401 to the access token that was valid at *since*.

        A token that was renewed later is not affected. Returns False for an account without a grant.
        """
        same_account = account_grants.c.account == account_id
        with self._database.write() as connection:
            row = update(account_grants).where(same_account, account_grants.c.renewed <= since.timestamp())
            if connection.execute(row.values(refused=True)).rowcount > 0:
                return True
            return connection.execute(select(account_grants.c.account).where(same_account)).first() is not None

    def remove(self, account_id: str) -> None:
        """Remove the account's grant, because the account has other credentials now."""
        with self._database.write() as connection:
            connection.execute(delete(account_grants).where(account_grants.c.account == account_id))

    def claim_renewal(self, account_id: str) -> float | None:
        """Claim the renewal of the account's token. Returns the claim for `finish_renewal`; None if another process has it."""
        now = self._clock.now().timestamp()
        claimed = account_grants.c.claimed
        free = or_(claimed.is_(None), claimed <= now - RENEWAL_CLAIM_S)
        with self._database.write() as connection:
            row = update(account_grants).where(account_grants.c.account == account_id, free)
            return now if connection.execute(row.values(claimed=now)).rowcount > 0 else None

    def is_renewing(self, account_id: str) -> bool:
        """Whether a process is renewing the account's token."""
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
    return locate(account_grants.c.sealed_refresh_token, account=account_id)

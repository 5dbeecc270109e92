"""
Connect tokens: each lets one external user connect one account.

Only the token's digest is stored. A token expires, can be used once, and ends when its OAuth client is removed.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sqlalchemy import delete, func, insert, select, update

from pdkernel.common.clock import Clock
from pdkernel.common.identity import Environment
from pdkernel.storage.database import Database
from pdkernel.storage.schema import clients, connect_tokens
from pdkernel.storage.sealed_columns import locate
from pdkernel.storage.vault import Vault

EXPIRED_RETENTION_S = 24 * 3600.0
"""Seconds for which an expired token is kept, so that its use can be answered with the reason."""


@dataclass(frozen=True, slots=True)
class TokenTerms:
    """
    The settings of a token from its creation.

    Attributes:
        session: The id of the session for the product's back end (`connect_session_id`).
        allowed_origins: Origins whose pages may use the token and embed the page; empty allows no page.
        success_redirect_uri: The URL that the browser opens after an account was connected, or None.
        error_redirect_uri: The URL that the browser opens after a final failure, or None.
        webhook_uri: The URL that receives a request after both outcomes, or None.
        scope: API scopes of the token, separated by blanks; None for a link of the project's owner.
        client_id: The OAuth client that created the token, or None for a link of the project's owner.
    """

    session: str
    allowed_origins: tuple[str, ...] = ()
    success_redirect_uri: str | None = field(default=None, repr=False)
    error_redirect_uri: str | None = field(default=None, repr=False)
    webhook_uri: str | None = field(default=None, repr=False)
    scope: str | None = None
    client_id: str | None = None


@dataclass(frozen=True, slots=True)
class ConnectToken:
    """
    A token, without its text.

    Attributes:
        digest: SHA-256 of the token's text.
        external_user_id: The external user who connects an account.
        environment: The user's environment.
        created_at: When the token was created.
        expires_at: When the token expires.
        used_at: When an account was connected with the token, or None.
        terms: The token's settings.
    """

    digest: str = field(repr=False)
    external_user_id: str
    environment: Environment
    created_at: datetime
    expires_at: datetime
    terms: TokenTerms
    used_at: datetime | None = None


def hash_token(token: str) -> str:
    """The digest that is stored for a token. A fast hash is enough, because a token has 128 random bits."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


class ConnectTokenTable:
    """The Connect tokens of a project, by digest."""

    def __init__(self, database: Database, vault: Vault, clock: Clock) -> None:
        self._database = database
        self._vault = vault
        self._clock = clock

    def add(self, token: ConnectToken) -> None:
        """Store *token*, and remove tokens that expired more than `EXPIRED_RETENTION_S` ago."""
        now = self._clock.now().timestamp()
        row = insert(connect_tokens).values(
            digest=token.digest,
            external_user=token.external_user_id,
            environment=token.environment,
            created=token.created_at.timestamp(),
            expires=token.expires_at.timestamp(),
            sealed_terms=self._vault.seal_json(token.terms, _vault_context(token.digest)),
        )
        with self._database.write() as connection:
            connection.execute(delete(connect_tokens).where(connect_tokens.c.expires < now - EXPIRED_RETENTION_S))
            connection.execute(row)

    def find(self, token: str) -> ConnectToken | None:
        """The stored token with the text *token*, even if it is expired or used; None also if its OAuth client was removed."""
        return self.find_by_digest(hash_token(token))

    def find_by_digest(self, digest: str) -> ConnectToken | None:
        """As `find`, by the digest."""
        with self._database.read() as connection:
            row = connection.execute(select(connect_tokens).where(connect_tokens.c.digest == digest)).first()
            if row is None or not hmac.compare_digest(row.digest, digest):
                return None
            terms = self._vault.unseal_json(row.sealed_terms, _vault_context(digest), TokenTerms)
            if terms.client_id is not None:
                active = select(clients.c.id).where(clients.c.id == terms.client_id, clients.c.removed.is_(None))
                if connection.execute(active).first() is None:
                    return None
        return ConnectToken(
            digest=row.digest,
            external_user_id=row.external_user,
            environment=row.environment,
            created_at=datetime.fromtimestamp(row.created, UTC),
            expires_at=datetime.fromtimestamp(row.expires, UTC),
            terms=terms,
            used_at=None if row.used is None else datetime.fromtimestamp(row.used, UTC),
        )

    def claim(self, digest: str) -> bool:
        """Mark the token as used, which succeeds for one caller only; False if it was used or has expired."""
        now = self._clock.now().timestamp()
        free = (connect_tokens.c.digest == digest, connect_tokens.c.used.is_(None), connect_tokens.c.expires > now)
        with self._database.write() as connection:
            return connection.execute(update(connect_tokens).where(*free).values(used=now)).rowcount > 0

    def count_since(self, external_user_id: str, environment: Environment, moment: datetime) -> int:
        """The number of tokens created for that user since *moment*."""
        query = select(func.count()).where(
            connect_tokens.c.external_user == external_user_id,
            connect_tokens.c.environment == environment,
            connect_tokens.c.created >= moment.timestamp(),
        )
        with self._database.read() as connection:
            return connection.execute(query).scalar_one()


def _vault_context(digest: str) -> str:
    return locate(connect_tokens.c.sealed_terms, digest=digest)

"""
Access tokens that Pipedream issued through this server: their client and scopes.

They are stored, so that other processes accept them, and this process after a restart. A token is stored as its SHA-256.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete, select

from pdkernel.common.clock import Clock
from pdkernel.storage.connect_tokens import hash_token
from pdkernel.storage.database import Database
from pdkernel.storage.schema import issued_tokens
from pdkernel.storage.upsert import upsert_row


@dataclass(frozen=True, slots=True)
class PipedreamToken:
    """
    The stored data of a token.

    Attributes:
        client_id: The client that received the token.
        workspace: The workspace that the token names (`o_...`), or None.
        scopes: The granted scopes.
    """

    client_id: str
    workspace: str | None
    scopes: tuple[str, ...]


class PipedreamTokenTable:
    """The tokens that have not expired."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def add(self, token: str, client_id: str, workspace: str | None, scopes: Sequence[str], lifetime_s: float) -> None:
        """Store *token* for *lifetime_s* seconds; expired tokens are removed."""
        now = self._clock.now().timestamp()
        with self._database.write() as connection:
            connection.execute(delete(issued_tokens).where(issued_tokens.c.expires <= now))
            upsert_row(
                connection,
                issued_tokens,
                "digest",
                digest=hash_token(token),
                client=client_id,
                workspace=workspace,
                scope=" ".join(scopes),
                expires=now + lifetime_s,
            )

    def find(self, token: str) -> PipedreamToken | None:
        """The stored data of *token*, or None."""
        query = select(issued_tokens).where(
            issued_tokens.c.digest == hash_token(token), issued_tokens.c.expires > self._clock.now().timestamp()
        )
        with self._database.read() as connection:
            row = connection.execute(query).first()
        return None if row is None else PipedreamToken(row.client, row.workspace, tuple(row.scope.split()))

    def remove(self, token: str) -> None:
        """Remove *token*."""
        with self._database.write() as connection:
            connection.execute(delete(issued_tokens).where(issued_tokens.c.digest == hash_token(token)))

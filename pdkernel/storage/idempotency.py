"""
Stored responses to outbound calls that are sent once: a repeated run gets the stored response.

Responses are encrypted, because they may contain secrets. `egress.send_once` computes the key of a call.
"""

from __future__ import annotations

from sqlalchemy import delete, func, select

from pdkernel.common.clock import Clock
from pdkernel.execution import StoredResponse
from pdkernel.storage.database import Database
from pdkernel.storage.schema import sent
from pdkernel.storage.sealed_columns import locate
from pdkernel.storage.upsert import upsert_row
from pdkernel.storage.vault import Vault

ANSWER_RETENTION_S = 90 * 24 * 3600.0
"""Seconds for which a response is stored; after that, the call is sent again."""

MAX_ANSWERS = 10_000
"""Maximum number of stored responses; the oldest are removed first."""


class IdempotencyTable:
    """Stored responses, by the key of the call. Adding a response removes expired and excess responses."""

    def __init__(self, database: Database, vault: Vault, clock: Clock, *, max_answers: int = MAX_ANSWERS) -> None:
        self._max_answers = max_answers
        self._database = database
        self._vault = vault
        self._clock = clock

    def find(self, key: str) -> StoredResponse | None:
        """The stored response to the call *key*; None if it does not exist or has expired."""
        oldest = self._clock.now().timestamp() - ANSWER_RETENTION_S
        query = select(sent.c.sealed_answer).where(sent.c.request == key, sent.c.created >= oldest)
        with self._database.read() as connection:
            sealed = connection.execute(query).scalar_one_or_none()
        return None if sealed is None else self._vault.unseal_json(sealed, _vault_context(key), StoredResponse)

    def add(self, key: str, recorded: StoredResponse) -> None:
        """Store a response, in place of an earlier response to the call."""
        sealed = self._vault.seal_json(recorded, _vault_context(key))
        now = self._clock.now().timestamp()
        with self._database.write() as connection:
            upsert_row(connection, sent, "request", request=key, sealed_answer=sealed, created=now)
            connection.execute(delete(sent).where(sent.c.created < now - ANSWER_RETENTION_S))
            # the limit may be exceeded by 5 %, so that the oldest responses are not searched for at every new response
            if connection.execute(select(func.count()).select_from(sent)).scalar_one() > self._max_answers * 1.05:
                newest = select(sent.c.request).order_by(sent.c.created.desc(), sent.c.request).limit(self._max_answers)
                connection.execute(delete(sent).where(sent.c.request.not_in(newest)))

    def remove(self, key: str) -> None:
        """Remove the response to the call *key*, which was not sent, or was rejected."""
        with self._database.write() as connection:
            connection.execute(delete(sent).where(sent.c.request == key))


def _vault_context(key: str) -> str:
    return locate(sent.c.sealed_answer, request=key)

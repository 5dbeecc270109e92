"""
Recorded answers of outbound calls that are sent once: a repeated run gets the recorded answer.

Answers are encrypted, because they can hold anything. The caller computes the key of a call.
"""

from __future__ import annotations

from sqlalchemy import delete, func, select

from pdkernel.clock import Clock
from pdkernel.execution import StoredResponse
from pdkernel.project.database import Database
from pdkernel.project.schema import sent
from pdkernel.project.upsert import upsert_row
from pdkernel.project.vault import Vault

ANSWER_RETENTION_S = 90 * 24 * 3600.0
"""The time for which an answer is kept; after that, the call is sent again."""

MAX_ANSWERS = 10_000
"""The number of answers that are kept; the oldest are removed first."""


class IdempotencyTable:
    """Recorded answers by the call's key; adding an answer removes expired and excess ones."""

    def __init__(self, database: Database, vault: Vault, clock: Clock, *, max_answers: int = MAX_ANSWERS) -> None:
        self._max_answers = max_answers
        self._database = database
        self._vault = vault
        self._clock = clock

    def find(self, key: str) -> StoredResponse | None:
        """The recorded answer, or None."""
        with self._database.read() as connection:
            query = select(sent.c.sealed_answer).where(sent.c.request == key)
            sealed = connection.execute(query).scalar_one_or_none()
        return None if sealed is None else self._vault.unseal_json(sealed, _vault_context(key), StoredResponse)

    def add(self, key: str, recorded: StoredResponse) -> None:
        """Record the answer, in place of an earlier one."""
        sealed = self._vault.seal_json(recorded, _vault_context(key))
        now = self._clock.now().timestamp()
        with self._database.write() as connection:
            upsert_row(connection, sent, "request", request=key, sealed_answer=sealed, created=now)
            connection.execute(delete(sent).where(sent.c.created < now - ANSWER_RETENTION_S))
            # the limit may be exceeded by 5 %, so that not every new answer searches for the oldest
            if connection.execute(select(func.count()).select_from(sent)).scalar_one() > self._max_answers * 1.05:
                newest = select(sent.c.request).order_by(sent.c.created.desc(), sent.c.request).limit(self._max_answers)
                connection.execute(delete(sent).where(sent.c.request.not_in(newest)))


def _vault_context(key: str) -> str:
    return f"sent/{key}/answer"

"""
Answers to outside requests that are sent once: a notebook that runs again gets the recorded answer.

Encrypted, because an answer may hold anything. What makes two requests the same is the caller's to know.
"""

from __future__ import annotations

import base64
from typing import Any, cast

from sqlalchemy import delete, func, select

from pdkernel.clock import Clock
from pdkernel.execution import StoredResponse
from pdkernel.project.database import Database
from pdkernel.project.schema import sent
from pdkernel.project.upsert import upsert_row
from pdkernel.project.vault import Vault

ANSWER_RETENTION_S = 90 * 24 * 3600.0
"""Seconds that an answer is remembered: an event that old is sent for anew."""

MAX_ANSWERS = 10_000
"""Answers that are remembered; the oldest go first."""


class IdempotencyTable:
    """Recorded answers by the request's key; old ones and too many are forgotten as new ones come."""

    def __init__(self, database: Database, vault: Vault, clock: Clock, *, max_answers: int = MAX_ANSWERS) -> None:
        self._most = max_answers
        self._database = database
        self._vault = vault
        self._clock = clock

    def find(self, key: str) -> StoredResponse | None:
        """The answer that was recorded for that request, or None."""
        with self._database.read() as connection:
            query = select(sent.c.sealed_answer).where(sent.c.request == key)
            sealed = connection.execute(query).scalar_one_or_none()
        if sealed is None:
            return None
        stored = cast("dict[str, Any]", self._vault.unseal_json(sealed, _vault_context(key)))
        return StoredResponse(
            status=stored["status"],
            reason=stored["reason"],
            headers=tuple((name, value) for name, value in stored["headers"]),
            body=base64.b64decode(stored["body"]),
            at=stored["at"],
        )

    def add(self, key: str, recorded: StoredResponse) -> None:
        """Record the answer to that request, in the place of an earlier one."""
        sealed = self._vault.seal_json(
            {
                "status": recorded.status,
                "reason": recorded.reason,
                "headers": [[name, value] for name, value in recorded.headers],
                "body": base64.b64encode(recorded.body).decode("ascii"),
                "at": recorded.at,
            },
            _vault_context(key),
        )
        now = self._clock.now().timestamp()
        with self._database.write() as connection:
            upsert_row(connection, sent, "request", request=key, sealed_answer=sealed, created=now)
            connection.execute(delete(sent).where(sent.c.created < now - ANSWER_RETENTION_S))
            # a twentieth more may come first, so that not every new answer looks for the oldest
            if connection.execute(select(func.count()).select_from(sent)).scalar_one() > self._most * 1.05:
                newest = select(sent.c.request).order_by(sent.c.created.desc(), sent.c.request).limit(self._most)
                connection.execute(delete(sent).where(sent.c.request.not_in(newest)))

    def remove(self, key: str) -> bool:
        """Forget the answer; False if there was none."""
        with self._database.write() as connection:
            return connection.execute(delete(sent).where(sent.c.request == key)).rowcount > 0


def _vault_context(key: str) -> str:
    return f"sent/{key}/answer"

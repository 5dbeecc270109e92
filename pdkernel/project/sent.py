"""
Answers to outside requests that are sent once: a notebook that runs again gets the recorded answer.

Encrypted, because an answer may hold anything. What makes two requests the same is the caller's to know.
"""

from __future__ import annotations

import base64
from typing import Any, cast

from sqlalchemy import delete, func, select

from pdkernel.clock import Clock
from pdkernel.execution import Recorded
from pdkernel.project.database import Database
from pdkernel.project.rows import put
from pdkernel.project.schema import sent
from pdkernel.project.vault import Vault

KEPT_S = 90 * 24 * 3600.0
"""Seconds that an answer is remembered: an event that old is sent for anew."""

MOST = 10_000
"""Answers that are remembered; the oldest go first."""


class SentTable:
    """Recorded answers by the request's key; old ones and too many are forgotten as new ones come."""

    def __init__(self, database: Database, vault: Vault, clock: Clock, *, most: int = MOST) -> None:
        self._most = most
        self._database = database
        self._vault = vault
        self._clock = clock

    def find(self, key: str) -> Recorded | None:
        """The answer that was recorded for that request, or None."""
        with self._database.read() as connection:
            query = select(sent.c.sealed_answer).where(sent.c.request == key)
            sealed = connection.execute(query).scalar_one_or_none()
        if sealed is None:
            return None
        stored = cast("dict[str, Any]", self._vault.open_json(sealed, _place(key)))
        return Recorded(
            status=stored["status"],
            reason=stored["reason"],
            headers=tuple((name, value) for name, value in stored["headers"]),
            body=base64.b64decode(stored["body"]),
            at=stored["at"],
        )

    def add(self, key: str, recorded: Recorded) -> None:
        """Record the answer to that request, in the place of an earlier one."""
        sealed = self._vault.seal_json(
            {
                "status": recorded.status,
                "reason": recorded.reason,
                "headers": [[name, value] for name, value in recorded.headers],
                "body": base64.b64encode(recorded.body).decode("ascii"),
                "at": recorded.at,
            },
            _place(key),
        )
        now = self._clock.now().timestamp()
        with self._database.write() as connection:
            put(connection, sent, "request", request=key, sealed_answer=sealed, created=now)
            connection.execute(delete(sent).where(sent.c.created < now - KEPT_S))
            # a twentieth more may come first, so that not every new answer looks for the oldest
            if connection.execute(select(func.count()).select_from(sent)).scalar_one() > self._most * 1.05:
                newest = select(sent.c.request).order_by(sent.c.created.desc(), sent.c.request).limit(self._most)
                connection.execute(delete(sent).where(sent.c.request.not_in(newest)))

    def remove(self, key: str) -> bool:
        """Forget the answer; False if there was none."""
        with self._database.write() as connection:
            return connection.execute(delete(sent).where(sent.c.request == key)).rowcount > 0


def _place(key: str) -> str:
    return f"sent/{key}/answer"

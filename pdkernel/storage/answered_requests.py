"""
Requests that are answered and not done yet, and calls that were done and must not be done again.

A request to an event source is stored before its response is sent, and removed in the transaction that stores the events of the
source. So a request that is still here although its source does not run was interrupted, and has to run again. The response to an
outbound call that is sent once is stored, and a repeated run gets it; `egress.send_once` computes the key of a call. Both are
encrypted, because they may contain secrets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, insert, literal, select, update

from pdkernel.common.clock import Clock, IdGenerator
from pdkernel.execution import StoredResponse
from pdkernel.model import JSON
from pdkernel.storage.database import Database
from pdkernel.storage.schedule import CLOCK_TOLERANCE
from pdkernel.storage.schema import answered_requests, sent
from pdkernel.storage.statements import CompiledQuery, upsert_row
from pdkernel.storage.vault import Vault, locate

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
        """Return the stored response to the call *key*; None if it does not exist or has expired."""
        oldest = self._clock.now().timestamp() - ANSWER_RETENTION_S
        query = select(sent.c.sealed_answer).where(sent.c.request == key, sent.c.created >= oldest)
        with self._database.read() as connection:
            sealed = connection.execute(query).scalar_one_or_none()
        return (
            None if sealed is None else self._vault.unseal_json(sealed, _stored_response_context(key), StoredResponse)
        )

    def add(self, key: str, recorded: StoredResponse) -> None:
        """Store a response, in place of an earlier response to the call."""
        sealed = self._vault.seal_json(recorded, _stored_response_context(key))
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


def _stored_response_context(key: str) -> str:
    return locate(sent.c.sealed_answer, request=key)


@dataclass(frozen=True, slots=True)
class AnsweredRequest:
    """
    A request whose sender has a response.

    Attributes:
        id: The id of the request.
        failures: How often it was run again without a result.
    """

    id: str
    failures: int


class AnsweredRequestTable:
    """The requests that are answered, and whose sources have not ended."""

    def __init__(self, database: Database, vault: Vault, clock: Clock, ids: IdGenerator) -> None:
        self._database = database
        self._vault = vault
        self._clock = clock
        self._ids = ids

    def new_id(self) -> str:
        """Return an id for a request."""
        return self._ids.new("", 20)

    def add(self, trigger_id: str, event: Mapping[str, JSON], request_id: str | None = None) -> str:
        """
        Store a request; return its id.

        Args:
            trigger_id: The workflow's trigger, `<workflow id>/<key>`, or the deployed trigger, `dc_...`.
            event: The request as the source receives it.
            request_id: An id of `new_id`, for a caller that must know it if this raises an error after a commit whose outcome is
                unknown.
        """
        request_id = request_id or self.new_id()
        sealed = self._vault.seal_json(dict(event), _vault_context(request_id))
        row = {"id": request_id, "trigger": trigger_id, "sealed_event": sealed}
        with self._database.write() as connection:
            connection.execute(insert(answered_requests).values(**row, failures=0, due=self._clock.now().timestamp()))
        return request_id

    def list_due_triggers(self) -> Sequence[str]:
        """Return the ids of the triggers with requests that are due, in the order of their oldest requests."""
        with self._database.read() as connection:
            rows = _DUE_TRIGGERS.fetch_all(connection, now=self._clock.now().timestamp())
        return list(dict.fromkeys(row.trigger for row in rows))

    def list_due(self, trigger_id: str) -> Sequence[AnsweredRequest]:
        """Return the requests of a trigger that are due, oldest first."""
        query = select(answered_requests.c.id, answered_requests.c.failures)
        is_due = answered_requests.c.due <= self._clock.now().timestamp()
        query = query.where(answered_requests.c.trigger == trigger_id, is_due)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(answered_requests.c.number)).all()
        return [AnsweredRequest(*row) for row in rows]

    def load_event(self, request_id: str) -> Mapping[str, JSON] | None:
        """
        Return the request as the source receives it, or None if the request was removed.

        Raises:
            DamagedRecordError: The request cannot be decrypted.
        """
        query = select(answered_requests.c.sealed_event).where(answered_requests.c.id == request_id)
        with self._database.read() as connection:
            sealed = connection.execute(query).scalar_one_or_none()
        return None if sealed is None else self._vault.unseal_json(sealed, _vault_context(request_id), dict[str, Any])

    def exists(self, request_id: str) -> bool:
        """Return whether the request has not been removed."""
        with self._database.read() as connection:
            return connection.execute(select(1).where(answered_requests.c.id == request_id)).first() is not None

    def postpone(self, request_id: str, delay_s: float) -> None:
        """Record that the request was run again without a result; it is due after *delay_s* seconds."""
        due = self._clock.now().timestamp() + delay_s
        table = answered_requests
        with self._database.write() as connection:
            change = update(table).where(table.c.id == request_id)
            connection.execute(change.values(failures=table.c.failures + 1, due=due))

    def correct_due(self, first_delay_s: float) -> None:
        """
        Let requests run now whose times came from a clock that was ahead: they would wait for longer than they were meant to.

        *first_delay_s* is the delay of the first `postpone`; each further one is twice as long.
        """
        table, now = answered_requests, self._clock.now()
        latest = (now + CLOCK_TOLERANCE).timestamp()
        with self._database.read() as connection:
            due = _LAST_DUE.fetch_all(connection)[0].due
        if due is None or due <= latest:  # most of the time
            return
        delay_s = first_delay_s / 2 * literal(1).bitwise_lshift(table.c.failures)
        with self._database.write() as connection:
            connection.execute(update(table).where(table.c.due > latest + delay_s).values(due=now.timestamp()))

    def remove(self, request_id: str) -> None:
        """Remove a request that is given up."""
        with self._database.write() as connection:
            self.finish(connection, request_id)

    @staticmethod
    def finish(connection: Connection, request_id: str) -> bool:
        """Remove a request in the transaction that stores its events; False if another process has removed it."""
        return connection.execute(delete(answered_requests).where(answered_requests.c.id == request_id)).rowcount == 1


def delete_answered_requests(connection: Connection, trigger_ids: Sequence[str]) -> None:
    """Remove the requests of triggers that are removed, in the caller's transaction."""
    connection.execute(delete(answered_requests).where(answered_requests.c.trigger.in_(trigger_ids)))


def _vault_context(request_id: str) -> str:
    return locate(answered_requests.c.sealed_event, id=request_id)


_LAST_DUE = CompiledQuery(select(func.max(answered_requests.c.due).label("due")))
_DUE_TRIGGERS = CompiledQuery(
    select(answered_requests.c.trigger)
    .where(answered_requests.c.due <= bindparam("now"))
    .order_by(answered_requests.c.number)
)

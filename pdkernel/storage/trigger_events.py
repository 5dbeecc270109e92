"""
Events of triggers that wait: until the run that an event starts is recorded, or until a webhook has received the event.

An event is stored in the transaction that makes it: the one that moves a schedule to its next time, or the one that stores a
source's state. The dedupe key makes a second start of a run harmless, and a webhook recognises by it an event that it has
received before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, and_, delete, select, tuple_, update

from pdkernel.common.identity import DEFAULT_ENVIRONMENT, Environment
from pdkernel.errors import DamagedRecordError
from pdkernel.model import JSON
from pdkernel.storage.database import Database
from pdkernel.storage.endpoint_keys import TRIGGER_SOURCE_PREFIX
from pdkernel.storage.schema import trigger_events, workflow_triggers
from pdkernel.storage.statements import CompiledQuery, insert_if_absent
from pdkernel.storage.vault import Vault, locate

WEBHOOK_ID_PREFIX = "wh_"
"""Prefix of the id of a deployed trigger's webhook."""
LINK_ID_PREFIX = "link_"
"""Prefix of the id of the webhook of a session of Connect Link."""


@dataclass(frozen=True, slots=True)
class EventTarget:
    """
    What receives the events of a trigger.

    Attributes:
        id: The id of a workflow, or of a webhook of a deployed trigger or of a session of Connect Link.
        key: The key of the workflow's trigger, or `trigger:` with the id of a deployed trigger.
    """

    id: str
    key: str

    @property
    def is_webhook(self) -> bool:
        """Whether the events are sent to a webhook."""
        return self.id.startswith(WEBHOOK_ID_PREFIX)

    @property
    def is_link(self) -> bool:
        """Whether the events are sent to the webhook of a Connect token."""
        return self.id.startswith(LINK_ID_PREFIX)

    @property
    def deployed_trigger_id(self) -> str | None:
        """The id of the deployed trigger that emits the events; None for a trigger of the workflow."""
        key = self.key
        return key.removeprefix(TRIGGER_SOURCE_PREFIX) if key.startswith(TRIGGER_SOURCE_PREFIX) else None


@dataclass(frozen=True, slots=True)
class TriggerEvent:
    """
    An event that waits.

    Attributes:
        target: What receives the event.
        dedupe_key: Its own key: the run's dedupe key, or the idempotency key for the webhook.
        data: The event.
        external_user_id: The external user of the run that sent the event; None without a user, and for an event of another origin.
        environment: The environment of that run.
        problem: Why the event cannot be decrypted, so that it is given up; None for any other event.
    """

    target: EventTarget
    dedupe_key: str
    data: Mapping[str, JSON] = field(repr=False)
    external_user_id: str | None = None
    environment: Environment = DEFAULT_ENVIRONMENT
    problem: str | None = None


class TriggerEventTable:
    """The events that wait."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault

    def add(
        self,
        connection: Connection,
        target: EventTarget,
        events: Iterable[tuple[str, Mapping[str, JSON]]],
        *,
        sender: tuple[str | None, Environment] | None = None,
    ) -> None:
        """
        Store *events*, each with its dedupe key, in the caller's transaction. An event whose key waits already is dropped.

        *sender* is the external user and the environment of the run that sends them, if a run does.
        """
        for key, data in events:
            # a list, because an event is an object: no event can pass for one with a sender
            content = dict(data) if sender is None else [dict(data), *sender]
            sealed = self._vault.seal_json(content, _vault_context(key))
            insert_if_absent(
                connection,
                trigger_events,
                workflow=target.id,
                trigger=target.key,
                dedupe_key=key,
                sealed_event=sealed,
            )

    def store(self, target: EventTarget, key: str, data: Mapping[str, JSON]) -> None:
        """Store an event in a transaction of its own, or in that of `Database.one_transaction`."""
        with self._database.write() as connection:
            self.add(connection, target, [(key, data)])

    def list_targets(self) -> Sequence[EventTarget]:
        """Return the targets for which events wait, in the order of their ids."""
        with self._database.read() as connection:
            return [EventTarget(*row) for row in _TARGETS.fetch_all(connection)]

    def list_waiting(self, targets: Iterable[EventTarget], limit: int) -> Sequence[TriggerEvent]:
        """Return the oldest events that wait for *targets*."""
        pairs = [(each.id, each.key) for each in targets]
        query = select(trigger_events).where(tuple_(trigger_events.c.workflow, trigger_events.c.trigger).in_(pairs))
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(trigger_events.c.number).limit(limit)).all()
        return [self._event(row) for row in rows]

    def _event(self, row: Any) -> TriggerEvent:
        kind: Any = dict[str, Any] | tuple[dict[str, Any], str | None, Environment]
        target = EventTarget(row.workflow, row.trigger)
        try:
            content = self._vault.unseal_json(row.sealed_event, _vault_context(row.dedupe_key), kind)
        except DamagedRecordError as fault:  # must not hold up the others
            return TriggerEvent(target, row.dedupe_key, {}, problem=fault.message)
        if isinstance(content, dict):
            return TriggerEvent(target, row.dedupe_key, content)
        return TriggerEvent(target, row.dedupe_key, *content)

    def finish(self, event: TriggerEvent, run_id: str | None = None, *, connection: Connection | None = None) -> None:
        """
        Remove an event that was handed over, or that cannot be decrypted, which becomes the result of its trigger.

        No effect if another process has removed it.

        Args:
            event: The event.
            run_id: Its recorded run, which becomes the trigger's last run, or None.
            connection: The caller's transaction; None for a new one.
        """
        values: dict[str, Any] = {} if run_id is None else {"run": run_id}
        if event.problem is not None:
            values["result"] = f"error: an event was given up: {event.problem}"
        with self._database.write() if connection is None else nullcontext(connection) as opened:
            # not by its number, which SQLite gives to the next event after the removal of this one
            removed = opened.execute(delete(trigger_events).where(trigger_events.c.dedupe_key == event.dedupe_key))
            if removed.rowcount and values:
                table, target = workflow_triggers, event.target
                is_trigger = and_(table.c.workflow == target.id, table.c.trigger == target.key)
                opened.execute(update(table).where(is_trigger).values(**values))


def _vault_context(dedupe_key: str) -> str:
    return locate(trigger_events.c.sealed_event, dedupe_key=dedupe_key)


_TARGETS = CompiledQuery(
    select(trigger_events.c.workflow, trigger_events.c.trigger)
    .distinct()
    .order_by(trigger_events.c.workflow, trigger_events.c.trigger)
)

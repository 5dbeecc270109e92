"""
Deployed triggers: event sources that run for an external user, and the newest events of each.

The events that wait for workflows and webhooks are in `trigger_events`. A trigger is due until the result of its run is stored.
The engine runs the sources.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import astuple, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, bindparam, delete, func, insert, select, update

from pdkernel.common.clock import Clock
from pdkernel.common.identity import Environment
from pdkernel.errors import DamagedRecordError
from pdkernel.model import JSON
from pdkernel.storage.answered_requests import delete_answered_requests
from pdkernel.storage.database import Database
from pdkernel.storage.endpoint_keys import format_trigger_source
from pdkernel.storage.schedule import Schedule
from pdkernel.storage.schema import deployed_events, deployed_triggers, endpoints, trigger_events
from pdkernel.storage.source_states import delete_source_states
from pdkernel.storage.statements import CompiledQuery, is_moment
from pdkernel.storage.trigger_events import EventTarget, TriggerEvent, TriggerEventTable
from pdkernel.storage.vault import Vault, locate

_log = logging.getLogger(__name__)

MAX_EVENTS_PER_TRIGGER = 100
"""The number of events that are stored per trigger."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """
    A webhook that receives the events of a trigger.

    Attributes:
        id: `wh_...`.
        url: The webhook's URL.
        signing_key: The key that signs requests.
        created: When the webhook was created, in seconds since 1970.
        key_created: When the key was created, in seconds since 1970.
        failures: The number of failed deliveries since the last success.
        failing_since: When the first of these failed, in seconds since 1970; or None.
        last_error: The reason of the last failure, or None.
        public_only: Whether events are sent to public addresses only, because a Connect token set the webhook.
    """

    id: str
    url: str = field(repr=False)
    signing_key: str = field(repr=False)
    created: float
    key_created: float
    failures: int = 0
    failing_since: float | None = None
    last_error: str | None = None
    public_only: bool = False


@dataclass(frozen=True, slots=True)
class DeployedTrigger:
    """
    A deployed trigger.

    Attributes:
        id: `dc_...`.
        external_user_id: The external user that the trigger runs for.
        environment: The user's environment.
        key: The component's key.
        version: The component's version.
        name: The display name.
        props: The configured props, without accounts.
        accounts: The user's chosen accounts, by app.
        active: Whether the trigger is active; an inactive trigger does not run.
        created_at: When the trigger was deployed.
        updated_at: When the trigger was last changed.
        schedule: The schedule of the trigger's timer; empty without a timer.
        endpoint: The key of the trigger's HTTP endpoint, or None.
        emits_on_deploy: Whether events of the source's deploy hook are delivered.
        workflows: Ids of the workflows that the events start.
        webhooks: The webhooks that receive the events.
        public_only: Whether the source reaches public addresses only, because a Connect token configured the trigger.
        base_url: The base of the URL of the endpoint when the source was activated; None without an endpoint, or if an earlier
            version stored the trigger.
        is_deployed: False until the hooks of its deployment have ended: then its caller does not know the trigger.
        ticked: The time of the timer for which the source ran last, or None. It does not run for it again if a clock is set back.
    """

    id: str
    external_user_id: str
    environment: Environment
    key: str
    version: str
    name: str
    props: Mapping[str, JSON] = field(repr=False)
    accounts: Mapping[str, str]
    active: bool
    created_at: datetime
    updated_at: datetime
    schedule: Schedule = field(default_factory=Schedule)
    endpoint: str | None = None
    emits_on_deploy: bool = True
    workflows: tuple[str, ...] = ()
    webhooks: tuple[Webhook, ...] = ()
    public_only: bool = False
    base_url: str | None = None
    is_deployed: bool = True
    ticked: datetime | None = None


class DeployedTriggerTable:
    """The deployed triggers of a project."""

    def __init__(self, database: Database, vault: Vault, clock: Clock) -> None:
        self._database = database
        self._vault = vault
        self._clock = clock
        self._waiting = TriggerEventTable(database, vault)

    def add(self, trigger: DeployedTrigger) -> None:
        """Store a new trigger."""
        with self._database.write() as connection:
            connection.execute(
                insert(deployed_triggers).values(
                    id=trigger.id,
                    external_user=trigger.external_user_id,
                    environment=trigger.environment,
                    created=trigger.created_at.timestamp(),
                    **self._values(trigger),
                )
            )

    def update(self, trigger_id: str, change: Callable[[DeployedTrigger], DeployedTrigger]) -> DeployedTrigger | None:
        """
        Store the result of *change*, which gets the stored trigger. The next run of its timer moves only with its schedule.

        Returns:
            The trigger with the new `updated_at`, or None if it was removed.
        """
        with self._database.write() as connection:
            trigger = self._lock(connection, trigger_id)
            if trigger is None:
                return None
            changed = replace(change(trigger), updated_at=self._clock.now())
            values = self._values(changed)
            if (changed.schedule, changed.active) == (trigger.schedule, trigger.active):
                del values["due"]  # the timer goes on
            connection.execute(update(deployed_triggers).where(deployed_triggers.c.id == trigger_id).values(**values))
        return changed

    def finish_deployment(self, trigger_id: str, events: Sequence[Mapping[str, JSON]], targets: Iterable[str]) -> bool:
        """Record that the hooks of a deployment have ended, with their *events*; False if the trigger was removed."""
        with self._database.write() as connection:
            trigger = self._lock(connection, trigger_id)
            if trigger is None:
                return False
            sealed = self._settings(replace(trigger, is_deployed=True))
            change = update(deployed_triggers).where(deployed_triggers.c.id == trigger_id)
            connection.execute(change.values(sealed_settings=sealed))
            return self.add_events(trigger_id, events, targets, connection=connection)

    def find(self, trigger_id: str) -> DeployedTrigger | None:
        """Return the trigger with the id *trigger_id*, or None."""
        with self._database.read() as connection:
            row = connection.execute(select(deployed_triggers).where(deployed_triggers.c.id == trigger_id)).first()
        return self._trigger(row) if row else None

    def list_triggers(self, external_user_id: str, environment: Environment) -> Sequence[DeployedTrigger]:
        """Return the triggers of the external user in *environment*, newest first."""
        query = select(deployed_triggers).where(
            deployed_triggers.c.external_user == external_user_id, deployed_triggers.c.environment == environment
        )
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(deployed_triggers.c.number.desc())).all()
        return [self._trigger(row) for row in rows]

    def list_active(self) -> Sequence[DeployedTrigger]:
        """Return the active triggers of all external users."""
        with self._database.read() as connection:
            rows = _ACTIVE.fetch_all(connection)
        return [trigger for trigger, _ in self._readable(rows)]

    def remove(self, trigger_id: str) -> bool:
        """Remove the trigger, its state, its events, those that wait too, and its endpoint key; False if it does not exist."""
        with self._database.write() as connection:
            key = format_trigger_source(trigger_id)
            # first: it waits for a transaction that stores events of the trigger, so that they are removed below
            found = connection.execute(delete(deployed_triggers).where(deployed_triggers.c.id == trigger_id))
            connection.execute(delete(trigger_events).where(trigger_events.c.trigger == key))
            connection.execute(delete(deployed_events).where(deployed_events.c.trigger == trigger_id))
            connection.execute(delete(endpoints).where(endpoints.c.source == key))
            delete_source_states(connection, trigger_id)
            delete_answered_requests(connection, [trigger_id])
            return found.rowcount > 0

    def list_due(self) -> Sequence[tuple[DeployedTrigger, datetime]]:
        """Return the triggers that are due, each with the time since which it is due."""
        table, now = deployed_triggers, self._clock.now().timestamp()
        with self._database.read() as connection:
            due = _NEXT_DUE.fetch_all(connection, after=0.0)[0].due
            if due is None or due > now:  # most of the time
                return []
            query = select(table).where(table.c.active, table.c.due <= now).order_by(table.c.due)
            rows = connection.execute(query).all()
        return [(trigger, datetime.fromtimestamp(row.due, UTC)) for trigger, row in self._readable(rows)]

    def is_due(self, trigger_id: str, due: datetime) -> bool:
        """Return whether the trigger is active, and its next time is still *due*."""
        with self._database.read() as connection:
            return connection.execute(select(1).where(_is_due(trigger_id, due))).first() is not None

    def move_due(
        self, trigger_id: str, due: datetime, upcoming: datetime | None, connection: Connection | None = None
    ) -> bool:
        """
        Set the next time of a trigger whose source has run for *due*, in the caller's transaction or in a new one.

        Returns:
            False if another process has moved it, or the trigger was changed or removed.
        """
        values = {"due": None if upcoming is None else upcoming.timestamp(), "ticked": due.timestamp()}
        with self._database.write() if connection is None else nullcontext(connection) as opened:
            change = update(deployed_triggers).where(_is_due(trigger_id, due)).values(**values)
            return opened.execute(change).rowcount == 1

    def correct_due(self) -> None:
        """Compute the next times anew that come from a clock that was ahead."""
        table, now = deployed_triggers, self._clock.now()
        if self.next_due() is None:
            return
        with self._database.write() as connection:
            query = select(table).where(table.c.active, table.c.due > now.timestamp()).with_for_update()
            for row in connection.execute(query).all():
                trigger = self._trigger(row)
                if trigger.schedule.is_too_late(datetime.fromtimestamp(row.due, UTC), now, ticked=trigger.ticked):
                    change = update(table).where(table.c.id == trigger.id)
                    connection.execute(change.values(due=_due(trigger, now)))

    def next_due(self) -> datetime | None:
        """Return the next time, after now, at which a trigger is due, or None."""
        with self._database.read() as connection:
            due = _NEXT_DUE.fetch_all(connection, after=self._clock.now().timestamp())[0].due
        return None if due is None else datetime.fromtimestamp(due, UTC)

    def record_delivery(
        self, trigger_id: str, webhook_id: str, error: str | None, *, event: TriggerEvent | None = None
    ) -> None:
        """
        Record a delivery to a webhook: its *error*, or None for success. No effect if trigger or webhook was removed.

        *event* is the event that was sent, which no longer waits.
        """
        with self._database.write() as connection:
            if event is not None:
                self._waiting.finish(event, connection=connection)
            trigger = self._lock(connection, trigger_id)
            hook = next((each for each in trigger.webhooks if each.id == webhook_id), None) if trigger else None
            if trigger is None or hook is None or (error is None and not hook.failures):
                return
            now = self._clock.now().timestamp()
            changed = replace(
                hook,
                failures=0 if error is None else hook.failures + 1,
                failing_since=None if error is None else hook.failing_since or now,
                last_error=error,
            )
            hooks = tuple(changed if each.id == webhook_id else each for each in trigger.webhooks)
            sealed = self._settings(replace(trigger, webhooks=hooks))
            change = update(deployed_triggers).where(deployed_triggers.c.id == trigger_id)
            connection.execute(change.values(sealed_settings=sealed))

    def add_events(
        self,
        trigger_id: str,
        events: Sequence[Mapping[str, JSON]],
        targets: Iterable[str] = (),
        *,
        connection: Connection | None = None,
    ) -> bool:
        """
        Store *events*, and remove the oldest events beyond `MAX_EVENTS_PER_TRIGGER`; False, without a change, if it was removed.

        Args:
            trigger_id: The trigger.
            events: The events as the API shows them, oldest first: `id` is new, and `e` is the event itself.
            targets: The ids of the workflows and webhooks for which each event waits.
            connection: The caller's transaction; None for a new one.
        """
        table = deployed_events
        with self._database.write() if connection is None else nullcontext(connection) as opened:
            is_trigger = deployed_triggers.c.id == trigger_id
            if opened.execute(select(deployed_triggers.c.id).where(is_trigger).with_for_update()).first() is None:
                return False
            for event in events:
                sealed = self._vault.seal_json(dict(event), _events_vault_context(trigger_id))
                opened.execute(insert(table).values(trigger=trigger_id, sealed_event=sealed))
                for each in targets:
                    target = EventTarget(each, format_trigger_source(trigger_id))
                    data = event["e"]
                    assert isinstance(data, dict), "the event of a source"
                    self._waiting.add(opened, target, [(f"{trigger_id}/{event['id']}/{each}", data)])
            newest_first = select(table.c.number).where(table.c.trigger == trigger_id).order_by(table.c.number.desc())
            oldest = opened.execute(newest_first.offset(MAX_EVENTS_PER_TRIGGER - 1).limit(1)).scalar_one_or_none()
            if oldest is not None:
                opened.execute(delete(table).where(table.c.trigger == trigger_id, table.c.number < oldest))
        return True

    def list_events(self, trigger_id: str, limit: int) -> Sequence[Mapping[str, Any]]:
        """Return the trigger's newest events, newest first; at most *limit*."""
        query = select(deployed_events.c.sealed_event).where(deployed_events.c.trigger == trigger_id)
        with self._database.read() as connection:
            found = connection.execute(query.order_by(deployed_events.c.number.desc()).limit(limit)).scalars().all()
        return [self._vault.unseal_json(sealed, _events_vault_context(trigger_id), dict[str, Any]) for sealed in found]

    def _readable(self, rows: Iterable[Any]) -> Iterator[tuple[DeployedTrigger, Any]]:
        """Yield the triggers of *rows* with their rows; one that cannot be decrypted is logged and deactivated."""
        for row in rows:
            try:
                yield self._trigger(row), row
            except DamagedRecordError as fault:
                with self._database.write() as connection:
                    change = update(deployed_triggers).where(deployed_triggers.c.id == row.id)
                    connection.execute(change.values(active=False, due=None))
                _log.error("The deployed trigger %s was deactivated: %s", row.id, fault.message)

    def _lock(self, connection: Connection, trigger_id: str) -> DeployedTrigger | None:
        """Return the trigger, which cannot change before *connection* commits; None if it was removed."""
        query = select(deployed_triggers).where(deployed_triggers.c.id == trigger_id).with_for_update()
        row = connection.execute(query).first()
        return self._trigger(row) if row else None

    def _values(self, trigger: DeployedTrigger) -> dict[str, Any]:
        return {
            "active": trigger.active,
            "updated": trigger.updated_at.timestamp(),
            "due": _due(trigger, self._clock.now()) if trigger.active else None,
            "sealed_settings": self._settings(trigger),
        }

    def _settings(self, trigger: DeployedTrigger) -> bytes:
        settings = {
            "key": trigger.key,
            "version": trigger.version,
            "name": trigger.name,
            "props": dict(trigger.props),
            "accounts": dict(trigger.accounts),
            "schedule": [trigger.schedule.interval_s, trigger.schedule.cron, trigger.schedule.timezone],
            "endpoint": trigger.endpoint,
            "emits_on_deploy": trigger.emits_on_deploy,
            "workflows": list(trigger.workflows),
            "webhooks": [list(astuple(hook)) for hook in trigger.webhooks],
            "public_only": trigger.public_only,
            "base_url": trigger.base_url,
            "is_deployed": trigger.is_deployed,
        }
        return self._vault.seal_json(settings, _settings_vault_context(trigger.id))

    def _trigger(self, row: Any) -> DeployedTrigger:
        settings = self._vault.unseal_json(row.sealed_settings, _settings_vault_context(row.id), dict[str, Any])
        return DeployedTrigger(
            id=row.id,
            external_user_id=row.external_user,
            environment=row.environment,
            active=bool(row.active),
            created_at=datetime.fromtimestamp(row.created, UTC),
            updated_at=datetime.fromtimestamp(row.updated, UTC),
            ticked=None if row.ticked is None else datetime.fromtimestamp(row.ticked, UTC),
            **{
                **settings,
                "schedule": Schedule(*settings["schedule"]),
                "workflows": tuple(settings["workflows"]),
                "webhooks": tuple(Webhook(*hook) for hook in settings["webhooks"]),
            },
        )


def _is_due(trigger_id: str, due: datetime) -> ColumnElement[bool]:
    table = deployed_triggers.c
    return and_(table.id == trigger_id, table.active, is_moment(table.due, due))


def _due(trigger: DeployedTrigger, moment: datetime) -> float | None:
    found = trigger.schedule.next_after(moment, ticked=trigger.ticked)
    return None if found is None else found.timestamp()


def _settings_vault_context(trigger_id: str) -> str:
    return locate(deployed_triggers.c.sealed_settings, id=trigger_id)


def _events_vault_context(trigger_id: str) -> str:
    return locate(deployed_events.c.sealed_event, trigger=trigger_id)


_ACTIVE = CompiledQuery(select(deployed_triggers).where(deployed_triggers.c.active))
_NEXT_DUE = CompiledQuery(
    select(func.min(deployed_triggers.c.due).label("due")).where(
        deployed_triggers.c.active, deployed_triggers.c.due > bindparam("after")
    )
)

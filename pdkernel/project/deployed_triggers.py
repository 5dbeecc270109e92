"""
Deployed triggers: event sources that run for an external user, and the newest events of each.

Knows when one is due, and that one process runs it then. What a source is and does is the engine's to know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, cast

from sqlalchemy import delete, insert, select, update

from pdkernel.clock import Clock
from pdkernel.identity import Environment
from pdkernel.model import JSON
from pdkernel.project.database import Database
from pdkernel.project.endpoint_keys import format_trigger_source
from pdkernel.project.schedule import Schedule
from pdkernel.project.schema import deployed_events, deployed_triggers, endpoints
from pdkernel.project.vault import Vault

MAX_EVENTS_PER_TRIGGER = 100
"""Events that are kept of each."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """
    Where the events of a trigger are sent.

    Attributes:
        id: `wh_...`.
        url: Where.
        signing_key: What a request is signed with.
        created: Seconds since 1970.
        key_created: When the key was made.
        failures: Events that it has not taken since it last took one.
        failing_since: When the first of these was sent, in seconds since 1970; or None.
        last_error: Why it did not take the last of these, or None.
        public_only: A Connect token named it: events are sent to public addresses only.
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
    A trigger.

    Attributes:
        id: `dc_...`.
        external_user_id: For whom it runs.
        environment: Where.
        key: Of its component.
        version: The component's.
        name: For people.
        props: What it was configured with, accounts apart.
        accounts: The user's accounts that were chosen for it, by app.
        active: Whether it runs.
        created_at: When it was deployed.
        updated_at: When that was last changed.
        schedule: When its timer wakes it; empty if it has none.
        endpoint: The key of its endpoint, where requests wake it; or None.
        emits_on_deploy: Whether what its deploy hook emitted counts.
        workflows: Ids of the workflows that its events start.
        webhooks: Where they are sent.
        public_only: A Connect token configured it: its source reaches public addresses only.
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


class DeployedTriggerTable:
    """The deployed triggers of a project."""

    def __init__(self, database: Database, vault: Vault, clock: Clock) -> None:
        self._database = database
        self._vault = vault
        self._clock = clock

    def add(self, trigger: DeployedTrigger) -> None:
        """Keep a new one."""
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

    def update(self, trigger: DeployedTrigger) -> DeployedTrigger:
        """Keep what was changed; it counts as changed now."""
        changed = replace(trigger, updated_at=self._clock.now())
        with self._database.write() as connection:
            query = update(deployed_triggers).where(deployed_triggers.c.id == trigger.id)
            connection.execute(query.values(**self._values(changed)))
        return changed

    def find(self, trigger_id: str) -> DeployedTrigger | None:
        """The one of that id, or None."""
        with self._database.read() as connection:
            row = connection.execute(select(deployed_triggers).where(deployed_triggers.c.id == trigger_id)).first()
        return self._trigger(row) if row else None

    def list_triggers(self, external_user_id: str, environment: Environment) -> Sequence[DeployedTrigger]:
        """Those of that user, newest first."""
        query = select(deployed_triggers).where(
            deployed_triggers.c.external_user == external_user_id, deployed_triggers.c.environment == environment
        )
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(deployed_triggers.c.number.desc())).all()
        return [self._trigger(row) for row in rows]

    def remove(self, trigger_id: str) -> bool:
        """Remove it with its events; False if there was none."""
        with self._database.write() as connection:
            connection.execute(delete(deployed_events).where(deployed_events.c.trigger == trigger_id))
            connection.execute(delete(endpoints).where(endpoints.c.source == format_trigger_source(trigger_id)))
            found = connection.execute(delete(deployed_triggers).where(deployed_triggers.c.id == trigger_id))
            return found.rowcount > 0

    def claim_due(self) -> DeployedTrigger | None:
        """One whose time has come, due again at its next: no other process gets it now. None if there is none."""
        moment = self._clock.now()
        now = moment.timestamp()
        table = deployed_triggers
        query = select(table).where(table.c.active, table.c.due <= now).order_by(table.c.due).limit(1)
        with self._database.read() as connection:
            if connection.execute(query).first() is None:
                return None  # most often; it takes no lock
        with self._database.write() as connection:
            row = connection.execute(query.with_for_update(skip_locked=True)).first()
            if row is None:
                return None
            trigger = self._trigger(row)
            due = _due(trigger, moment)
            connection.execute(update(table).where(table.c.id == trigger.id).values(due=due))
        return trigger

    def next_due(self) -> datetime | None:
        """When the next one is due, or None."""
        query = select(deployed_triggers.c.due).where(deployed_triggers.c.active, deployed_triggers.c.due.is_not(None))
        with self._database.read() as connection:
            due = connection.execute(query.order_by(deployed_triggers.c.due).limit(1)).scalar_one_or_none()
        return None if due is None else datetime.fromtimestamp(due, UTC)

    def record_delivery(self, trigger_id: str, webhook_id: str, error: str | None) -> None:
        """Keep that a webhook has taken an event, or why it has not; nothing if either is gone."""
        query = select(deployed_triggers).where(deployed_triggers.c.id == trigger_id).with_for_update()
        with self._database.write() as connection:
            row = connection.execute(query).first()
            trigger = self._trigger(row) if row else None
            hook = next((each for each in trigger.webhooks if each.id == webhook_id), None) if trigger else None
            if trigger is None or hook is None or (error is None and not hook.failures):
                return
            now = self._clock.now().timestamp()
            told = replace(
                hook,
                failures=0 if error is None else hook.failures + 1,
                failing_since=None if error is None else hook.failing_since or now,
                last_error=error,
            )
            hooks = tuple(told if each.id == webhook_id else each for each in trigger.webhooks)
            sealed = self._settings(replace(trigger, webhooks=hooks))
            change = update(deployed_triggers).where(deployed_triggers.c.id == trigger_id)
            connection.execute(change.values(sealed_settings=sealed))

    def add_events(self, trigger_id: str, events: Sequence[Mapping[str, JSON]]) -> None:
        """Keep *events*, oldest first, in the place of the oldest that are kept."""
        table = deployed_events
        with self._database.write() as connection:
            for event in events:
                sealed = self._vault.seal_json(dict(event), _events_vault_context(trigger_id))
                connection.execute(insert(table).values(trigger=trigger_id, sealed_event=sealed))
            kept = select(table.c.number).where(table.c.trigger == trigger_id).order_by(table.c.number.desc())
            oldest = connection.execute(kept.offset(MAX_EVENTS_PER_TRIGGER - 1).limit(1)).scalar_one_or_none()
            if oldest is not None:
                connection.execute(delete(table).where(table.c.trigger == trigger_id, table.c.number < oldest))

    def list_events(self, trigger_id: str, limit: int) -> Sequence[Mapping[str, Any]]:
        """Its newest events, newest first."""
        query = select(deployed_events.c.sealed_event).where(deployed_events.c.trigger == trigger_id)
        with self._database.read() as connection:
            found = connection.execute(query.order_by(deployed_events.c.number.desc()).limit(limit)).scalars().all()
        return [
            cast("dict[str, Any]", self._vault.unseal_json(sealed, _events_vault_context(trigger_id)))
            for sealed in found
        ]

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
        }
        return self._vault.seal_json(cast("JSON", settings), _settings_vault_context(trigger.id))

    def _trigger(self, row: Any) -> DeployedTrigger:
        settings = cast("dict[str, Any]", self._vault.unseal_json(row.sealed_settings, _settings_vault_context(row.id)))
        interval = settings.pop("interval_s", None)  # what earlier versions kept instead of a schedule
        return DeployedTrigger(
            id=row.id,
            external_user_id=row.external_user,
            environment=row.environment,
            active=row.active,
            created_at=datetime.fromtimestamp(row.created, UTC),
            updated_at=datetime.fromtimestamp(row.updated, UTC),
            **{
                **settings,
                "schedule": Schedule(*settings.get("schedule", [interval])),
                "workflows": tuple(settings["workflows"]),
                "webhooks": tuple(Webhook(*hook) for hook in settings["webhooks"]),
            },
        )


def _due(trigger: DeployedTrigger, moment: datetime) -> float | None:
    found = trigger.schedule.next_after(moment)
    return None if found is None else found.timestamp()


def _settings_vault_context(trigger_id: str) -> str:
    return f"deployed_triggers/{trigger_id}/settings"


def _events_vault_context(trigger_id: str) -> str:
    return f"deployed_triggers/{trigger_id}/events"

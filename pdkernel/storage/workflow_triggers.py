"""
Triggers of served workflows: which are on, and when each is due.

Their events wait in `trigger_events`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, and_, select, update

from pdkernel.common.clock import Clock
from pdkernel.common.identity import Environment
from pdkernel.errors import DamagedRecordError
from pdkernel.model import JSON, TriggerType
from pdkernel.storage.batches import Batch, BatchTable
from pdkernel.storage.database import Database
from pdkernel.storage.schedule import Schedule
from pdkernel.storage.schema import workflow_triggers
from pdkernel.storage.statements import CompiledQuery, is_moment, upsert_row
from pdkernel.storage.trigger_events import EventTarget, TriggerEventTable
from pdkernel.storage.vault import Vault, locate


@dataclass(frozen=True, slots=True)
class TriggerState:
    """
    The state of a workflow's trigger.

    Attributes:
        workflow_id: The workflow's id, `p_...`.
        key: The trigger's key in the workflow (`schedule`, `ti_...`).
        workflow_name: The workflow's name.
        source: The path of the workflow's notebook or folder.
        settings: The settings of the trigger for which *schedule* and *due* were computed.
        enabled: Whether the trigger fires.
        since: When the trigger was enabled, or its settings changed; an interval counts from here.
        schedule: When the trigger fires; empty without a timer.
        due: When the trigger fires next; None without a timer.
        ticked: The time of the timer that has fired last, or None. It does not fire again if a clock is set back.
        is_active: Whether the source's `activate` hook has run.
        fired: When the trigger fired last, or None.
        run_id: The last run that the trigger started, or None.
        result: The result of the source's last run, or None.
        type: The trigger's type; None if an earlier version stored the state.
        base_url: The base of the URL of the source's endpoint when it was activated; None without an endpoint.
    """

    workflow_id: str
    key: str
    workflow_name: str
    source: str
    settings: Mapping[str, JSON] = field(repr=False)
    enabled: bool
    since: datetime
    schedule: Schedule = field(default_factory=Schedule)
    due: datetime | None = None
    is_active: bool = False
    fired: datetime | None = None
    run_id: str | None = None
    result: str | None = None
    type: TriggerType | None = None
    base_url: str | None = None
    ticked: datetime | None = None

    @property
    def id(self) -> str:
        """The id of the trigger in the project: `<workflow id>/<key>`."""
        return f"{self.workflow_id}/{self.key}"

    @property
    def target(self) -> EventTarget:
        """The receiver of the trigger's events."""
        return EventTarget(self.workflow_id, self.key)


class WorkflowTriggerTable:
    """The triggers of workflows."""

    def __init__(self, database: Database, vault: Vault, clock: Clock) -> None:
        self._database = database
        self._vault = vault
        self._clock = clock
        self._events = TriggerEventTable(database, vault)
        self._batches = BatchTable(database)

    def save(self, states: Iterable[TriggerState]) -> None:
        """Store *states*, in one transaction."""
        with self._database.write() as connection:
            for state in states:
                upsert_row(
                    connection,
                    workflow_triggers,
                    "workflow",
                    "trigger",
                    workflow=state.workflow_id,
                    trigger=state.key,
                    name=state.workflow_name,
                    source=state.source,
                    sealed_settings=self._seal_settings(state),
                    enabled=state.enabled,
                    since=state.since.timestamp(),
                    due=_seconds(state.due),
                    ticked=_seconds(state.ticked),
                    active=state.is_active,
                    fired=_seconds(state.fired),
                    run=state.run_id,
                    result=state.result,
                )

    def list_states(self) -> Sequence[TriggerState]:
        """Return the states of all triggers that were ever enabled."""
        with self._database.read() as connection:
            rows = _ALL.fetch_all(connection)
        return [self._state(row) for row in rows]

    def find(self, trigger_id: str) -> TriggerState | None:
        """Return the state of the trigger with the id `<workflow id>/<key>`, or None."""
        workflow, _, key = trigger_id.partition("/")
        with self._database.read() as connection:
            row = connection.execute(select(workflow_triggers).where(_is(workflow, key))).first()
        return self._state(row) if row else None

    def fire(
        self,
        state: TriggerState,
        due: datetime | None,
        events: Iterable[tuple[str, Mapping[str, JSON]]] = (),
        *,
        batch: Batch | None = None,
        tick: datetime | None = None,
    ) -> bool:
        """
        Fire the trigger that is due: set its next time, and store *events*, each with its dedupe key, or *batch* in one transaction.

        Args:
            state: The state in which it is due.
            due: Its next time.
            events: Its events.
            batch: The runs that it starts.
            tick: The time for which it fires; None for that of *state*.

        Returns:
            False if another process has fired it, or the trigger was disabled or changed.
        """
        with self._database.write() as connection:
            is_due = self.move_due(connection, state, due, tick)
            if is_due:
                self._events.add(connection, state.target, events)
                if batch is not None:
                    self._batches.add(batch, connection=connection)
        return is_due

    def move_due(
        self, connection: Connection, state: TriggerState, due: datetime | None, tick: datetime | None = None
    ) -> bool:
        """Set the next time of the trigger that is due in the caller's transaction; arguments and result are as for `fire`."""
        table = workflow_triggers
        ticked = _seconds(tick or state.due)
        values = {"due": _seconds(due), "ticked": ticked, "fired": self._clock.now().timestamp()}
        return connection.execute(update(table).where(_is_due(state)).values(**values)).rowcount == 1

    def correct_due(self, state: TriggerState, since: datetime, due: datetime | None) -> None:
        """Store times for those of *state*, which come from a clock that was ahead; no effect if they were changed meanwhile."""
        self._update(state, _is_due(state), since=since.timestamp(), due=_seconds(due))

    def is_due(self, state: TriggerState) -> bool:
        """Return whether the trigger is on, and its next time is still that of *state*."""
        with self._database.read() as connection:
            return connection.execute(select(1).where(_is_due(state))).first() is not None

    def configure(self, state: TriggerState) -> None:
        """Store changed settings, times and activity of *state*, unless the trigger was enabled or disabled meanwhile."""
        self._update(
            state,
            workflow_triggers.c.enabled == state.enabled,
            sealed_settings=self._seal_settings(state),
            since=state.since.timestamp(),
            due=_seconds(state.due),
            active=state.is_active,
            result=state.result,
        )

    def record_fired(self, state: TriggerState, result: str | None) -> None:
        """Store when the trigger fired, and the result of its source."""
        self._update(state, fired=self._clock.now().timestamp(), result=result)

    def receive(
        self,
        state: TriggerState,
        dedupe_key: str,
        data: Mapping[str, JSON],
        *,
        sender: tuple[str | None, Environment] | None = None,
    ) -> None:
        """Store an event that arrived for the trigger; *sender* as for `TriggerEventTable.add`."""
        with self._database.write() as connection:
            self._events.add(connection, state.target, [(dedupe_key, data)], sender=sender)
            values = {"fired": self._clock.now().timestamp(), "result": None}
            connection.execute(update(workflow_triggers).where(_is(state.workflow_id, state.key)).values(**values))

    def _update(self, state: TriggerState, *conditions: Any, **values: Any) -> None:
        with self._database.write() as connection:
            is_trigger = and_(_is(state.workflow_id, state.key), *conditions)
            connection.execute(update(workflow_triggers).where(is_trigger).values(**values))

    def _seal_settings(self, state: TriggerState) -> bytes:
        content = {
            "settings": dict(state.settings),
            "schedule": list(astuple(state.schedule)),
            "type": state.type,
            "base_url": state.base_url,
        }
        return self._vault.seal_json(content, _settings_vault_context(state.workflow_id, state.key))

    def _state(self, row: Any) -> TriggerState:
        context = _settings_vault_context(row.workflow, row.trigger)
        try:
            sealed = self._vault.unseal_json(row.sealed_settings, context, dict[str, Any])
        except (
            DamagedRecordError
        ):  # without settings, the trigger has changed: the server stores those of the workflow again
            sealed = {"settings": {}, "schedule": ()}
        return TriggerState(
            workflow_id=row.workflow,
            key=row.trigger,
            workflow_name=row.name,
            source=row.source,
            settings=sealed["settings"],
            enabled=bool(row.enabled),
            since=datetime.fromtimestamp(row.since, UTC),
            schedule=Schedule(*sealed["schedule"]),
            due=_moment(row.due),
            is_active=bool(row.active),
            fired=_moment(row.fired),
            run_id=row.run,
            result=row.result,
            type=sealed.get("type"),
            base_url=sealed.get("base_url"),
            ticked=_moment(row.ticked),
        )


def is_workflow_named(
    name: str, folder: Path, *, workflow_name: str, workflow_id: str | None, source: Path | None
) -> bool:
    """Return whether *name* is the name or the id of a workflow, or names its *source*: a path relative to *folder*, or its file name."""
    if name in (workflow_name, workflow_id):
        return True
    return source is not None and (name in (source.name, source.stem) or os.path.realpath(folder / name) == str(source))


def _is_due(state: TriggerState) -> Any:
    assert state.due is not None, "the trigger is due"
    table = workflow_triggers.c
    return and_(_is(state.workflow_id, state.key), table.enabled, is_moment(table.due, state.due))


def _is(workflow_id: str, key: str) -> Any:
    return and_(workflow_triggers.c.workflow == workflow_id, workflow_triggers.c.trigger == key)


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _settings_vault_context(workflow_id: str, key: str) -> str:
    return locate(workflow_triggers.c.sealed_settings, workflow=workflow_id, trigger=key)


_ALL = CompiledQuery(select(workflow_triggers).order_by(workflow_triggers.c.workflow, workflow_triggers.c.trigger))

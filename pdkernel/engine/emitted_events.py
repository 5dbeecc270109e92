"""
Events that served runs emit for triggers of other workflows: by `$.send.emit`, and errors on the channel `$errors`.

The run of a listener has the external user and the environment of the run that emits: otherwise it would be a run without a user, which
may name any user for its child runs. An event is a message of the run's outbox, recorded with the end or the pause of the run. Its delivery stores it for each
trigger that listens, under a key of message and trigger, so a second delivery starts no second run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from msgspec.structs import replace

from pdkernel.common.blocking import run_blocking
from pdkernel.common.clock import IdGenerator
from pdkernel.engine.deliveries import NOT_SENT
from pdkernel.engine.run_context import derive_id
from pdkernel.engine.run_request import RunRequest
from pdkernel.errors import ProjectError
from pdkernel.execution import Delivery, Execution
from pdkernel.model import JSON
from pdkernel.storage import TriggerState, WorkflowTriggerTable, is_workflow_named
from pdkernel.workers import Effect

ERRORS_CHANNEL = "$errors"
"""The platform's name of the stream of errors; the step's name in the delivery of an error."""

_log = logging.getLogger(__name__)


def handles_errors(request: RunRequest) -> bool:
    """Return whether the run of *request* belongs to a workflow with an errors trigger, or is triggered by such a run."""
    return request.below_error_handler or any(trigger.type == "errors" for trigger in request.workflow.triggers)


class EmittedEvents:
    """
    The events that the runs of a server emit.

    Args:
        table: The triggers, and their events that wait.
        ids: For the ids of events.

    Attributes:
        on_stored: Called when events were stored, in the event loop of the run.
    """

    def __init__(self, table: WorkflowTriggerTable, ids: IdGenerator) -> None:
        self._table = table
        self._ids = ids
        self.on_stored: Callable[[], None] = lambda: None

    def has_error_listener(self, request: RunRequest, execution: Execution) -> bool:
        """
        Return whether the failed run of *request* starts a workflow.

        A run that handles errors starts none, and the log reports it.
        """
        if request.test or request.is_silent:
            return False
        try:
            listeners = self._find_listeners(ERRORS_CHANNEL, request, execution)
        except ProjectError as fault:  # the delivery finds the triggers
            _log.warning("The triggers that listen to errors could not be read: %s", fault.message)
            return not handles_errors(request)
        if listeners and handles_errors(request):
            # parity[errors-loop]: whether the platform prevents this loop is not documented
            _log.warning(
                "The failed run %s of %r starts no workflow with an errors trigger, because it handles errors itself.",
                execution.id,
                execution.workflow,
            )
        return bool(listeners) and not handles_errors(request)

    def new_error(self) -> Effect:
        """Return the message about a failed run. Its event is built from the record of the run when it is delivered."""
        return Effect("emit", {"channel": ERRORS_CHANNEL, "emit_id": self._ids.new("", 27)})

    async def deliver(self, message: Delivery, request: RunRequest, execution: Execution, key: str) -> Delivery:
        """
        Store the event of a message for each trigger that listens.

        Args:
            message: The message as the record of the run shows it: secrets in the event are placeholders.
            request: The request of the run.
            execution: The run as its record shows it.
            key: The key of the message, the same for each try.
        """
        if request.is_silent:
            return replace(message, outcome="shown", note="Not emitted: the replay does not send outbound calls.")
        try:
            listeners = await run_blocking(self._store, message, request, execution, key)
        except ProjectError as fault:
            return replace(message, outcome="failed", note=f"{NOT_SENT}{fault.message}")
        if not listeners:
            return replace(message, outcome="shown", note="Not emitted: no workflow listens.")
        self.on_stored()
        return replace(message, outcome="sent", to=", ".join(each.workflow_name for each in listeners))

    def _store(self, message: Delivery, request: RunRequest, execution: Execution, key: str) -> Sequence[TriggerState]:
        payload = message.payload if isinstance(message.payload, dict) else {}
        event: Mapping[str, JSON]
        if message.step == ERRORS_CHANNEL:
            channel, event = ERRORS_CHANNEL, build_error_event(execution, str(payload["emit_id"]))
        else:
            channel, event = str(payload.get("channel") or ""), _as_event(payload.get("event"))
        listeners = self._find_listeners(channel, request, execution)
        for each in listeners:
            sender = (request.external_user_id, request.environment)
            self._table.receive(each, f"{key}/{each.id}", event, sender=sender)
        return listeners

    def _find_listeners(self, channel: str, request: RunRequest, execution: Execution) -> Sequence[TriggerState]:
        return [
            state
            for state in self._table.list_states()
            if state.enabled and _is_on_channel(state, channel) and _listens(state, request, execution)
        ]


def _is_on_channel(state: TriggerState, channel: str) -> bool:
    if state.type == "errors":
        return channel == ERRORS_CHANNEL
    return state.type == "emit" and channel == (state.settings.get("channel") or "")


def _listens(state: TriggerState, request: RunRequest, execution: Execution) -> bool:
    names = state.settings.get("workflows")
    if not isinstance(names, list):
        return True
    return any(
        is_workflow_named(
            str(name),
            Path(state.source).parent,
            workflow_name=execution.workflow,
            workflow_id=str(execution.context.get("workflow_id")),
            source=request.source_path,
        )
        for name in names
    )


def _as_event(emitted: JSON) -> Mapping[str, JSON]:
    # parity[emit-event]: the event of a listener is the emitted object; for another value it is not documented
    return emitted if isinstance(emitted, dict) else {"value": emitted}


def build_error_event(execution: Execution, emit_id: str) -> dict[str, JSON]:
    """
    Build the event of the failed run *execution* for a workflow with an errors trigger, from the redacted record.

    The platform documents `original_event`, `original_context`, `metadata`, and of `error` the keys `code`, `cellId`, `ts`
    and `stack`. `message`, `name`, `step` and `line` of `error` are pdkernel's own.
    """
    # parity[errors-event]: the values of `code` and `cellId` are pdkernel's own, too
    error = execution.error
    assert error is not None, "the run has failed"
    workflow_id = execution.context.get("workflow_id")
    return {
        "original_event": dict(execution.event),
        "original_context": dict(execution.context),
        "error": {
            "code": error.code,
            "cellId": None if error.step is None else derive_id("c_", f"{workflow_id}/{error.step}"),
            "ts": execution.finished_at,
            "stack": error.stack or f"{error.name}: {error.message}",
            "message": error.message,
            "name": error.name,
            "step": error.step,
            "line": error.line,
        },
        "metadata": {"emitter_id": workflow_id, "emit_id": emit_id, "name": ERRORS_CHANNEL},
    }

"""The execution of a run while it grows: its fields, redacted, and passed to the watcher of the run."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pdkernel.clock import Clock, format_iso
from pdkernel.egress import OutboundPolicy
from pdkernel.engine.restored_run import RestoredRun
from pdkernel.engine.run_request import RunRequest, RunWatcher, collect_request_secrets
from pdkernel.execution import Execution, OutboundPolicyRecord, RunTrigger, StepResult
from pdkernel.lookup import Lookup
from pdkernel.model import JSON
from pdkernel.redaction import Secret, find_redacted_values, get_redactor


def _record_policy(policy: OutboundPolicy, guard: str) -> OutboundPolicyRecord | None:
    if policy.mode == "live":
        return OutboundPolicyRecord(policy.text, policy.origin) if policy.origin else None
    return OutboundPolicyRecord(policy.text, policy.origin, guard)


class GrowingExecution:
    """
    The execution of one run so far.

    Args:
        request: The run's request.
        state: The claim, ids and context of the run; for a continued run, its recorded steps too.
        watcher: The callbacks of the run.
        clock: For time stamps.
        guard: What the operating system does with outbound calls that bypass the gateway.

    Attributes:
        claim: The right to write the run.
        context: `steps.trigger.context`.
        redactor: The redactor of the run's secrets; at first of variables and the event's headers.
    """

    def __init__(
        self, request: RunRequest, state: RestoredRun, watcher: RunWatcher, *, clock: Clock, guard: str
    ) -> None:
        self.claim = claim = state.claim
        self.context = state.context
        self._request = request
        self._watcher = watcher
        self._clock = clock
        self._masked = dict(request.event.with_masked_headers().data)
        # the accounts of a continued run may have other credentials by now
        former = [] if state.event is None else find_redacted_values(self._masked, dict(state.event))
        self._secrets = (*collect_request_secrets(request), *state.secrets, *former)
        self.redactor = get_redactor(*self._secrets)
        self._steps = {
            step.name: state.steps[step.name].result if step.name in state.steps else StepResult(step.name, "not_run")
            for step in request.workflow.steps
        }
        self._started = clock.now() if state.created is None else datetime.fromtimestamp(state.created, UTC)
        self._fields: dict[str, Any] = {
            "id": claim.run_id,
            "trace_id": state.trace_id,
            "workflow": request.workflow.name,
            "version": request.workflow.version,
            "status": "executing",
            "external_user": request.external_user_id,
            "environment": request.environment,
            "started_at": format_iso(self._started),
            "finished_at": None,
            "attempt": claim.attempt,
            "replay_of": request.replay_of,
            "trigger": self._redact_trigger(),
            "response": None,
            "error": None,
            "outbound_policy": _record_policy(request.policy, guard),
            "decisions": state.decisions,
            "batch": request.batch,
        }
        self._execution: Execution | None = None

    @property
    def secrets(self) -> Sequence[Secret]:
        """The secrets of the run, as far as they are known."""
        return self._secrets

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.claim.run_id

    @property
    def execution(self) -> Execution:
        """The execution so far; built on access, because most changes are only read at the end."""
        if self._execution is None:
            self._execution = Execution(**self._fields, steps=tuple(self._steps.values()))
        return self._execution

    def add_secrets(self, secrets: Sequence[Secret]) -> None:
        """Redact *secrets*, too, from now on."""
        self._secrets = (*secrets, *self._secrets)
        redactor = get_redactor(*self._secrets)
        if redactor is not self.redactor:
            self.redactor = redactor
            self._update_fields(trigger=self._redact_trigger())

    def add_returned_secrets(self, secrets: Sequence[Secret]) -> None:
        """Redact *secrets* of a triggered run, too, from now on; the run's own secrets keep their placeholders."""
        self._secrets = tuple(dict.fromkeys((*self._secrets, *secrets)))
        self.redactor = get_redactor(*self._secrets)

    def set_lookup(self, lookup: Lookup) -> None:
        """Record the account lookup, redacted."""
        plain = lookup.to_json()
        redacted = self.redactor.redact_value(plain)
        self._update_fields(lookup=lookup if redacted is plain else Lookup.from_json(redacted))

    @property
    def has_watcher(self) -> bool:
        """Whether the watcher has an `on_change` callback."""
        return self._watcher.on_change is not None

    def notify(self, result: StepResult) -> None:
        """Update the result of a step and publish the execution."""
        self._steps[result.name] = result
        self._execution = None
        self.publish()

    def publish(self) -> None:
        """Pass the execution to the `on_change` callback."""
        if self._watcher.on_change:
            self._watcher.on_change(self.execution)

    def _redact_trigger(self) -> RunTrigger:
        return RunTrigger(require_object(self.redactor.redact_value(self._masked)), self.context)

    def _update_fields(self, **fields: Any) -> None:
        self._fields.update(fields)
        self._execution = None


def require_object(value: JSON) -> dict[str, Any]:
    """Return *value*; it must be an object."""
    assert isinstance(value, dict)
    return value

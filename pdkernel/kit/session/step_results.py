"""
The last result of each step with the rule for stale results, and the latest runs with their requests.

A result is stale if the step's code, the event or the external user has changed since, or if a step above has run or
become stale later.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from msgspec import field

from pdkernel.common.encode import JsonStruct
from pdkernel.engine.run_request import RunRequest
from pdkernel.errors import RequestError
from pdkernel.execution import Execution, StepResult
from pdkernel.model import JSON, Step, Workflow

MAX_RECENT_RUNS = 10
"""Number of runs that can be saved as tests; the recording of each stays in memory."""


class StoredResult(JsonStruct, frozen=True):
    """
    A step's last result.

    Attributes:
        result: The redacted result.
        fingerprint: The fingerprint of the step's code and settings.
        result_scope: The key of the event, environment and external user of the run.
        sequence: A number that increases with every recorded result.
    """

    result: StepResult
    fingerprint: str
    result_scope: str = field(name="scope")
    sequence: int = field(name="order")


class LastStepResults:
    """The last result of each step."""

    def __init__(self, results: Mapping[str, StoredResult] | None = None) -> None:
        self._steps: dict[str, StoredResult] = dict(results or {})
        self._order = max((known.sequence for known in self._steps.values()), default=0)

    def record(self, step: Step, result: StepResult, scope: str) -> None:
        """Record the result of *step*."""
        self._order += 1
        self._steps[step.name] = StoredResult(result, compute_fingerprint(step), scope, self._order)

    def discard(self, name: str) -> None:
        """Discard the result of step *name*, if any."""
        self._steps.pop(name, None)

    def get(self, name: str) -> StepResult | None:
        """Return the last result of step *name*, or None."""
        known = self._steps.get(name)
        return known.result if known else None

    def get_pinnable_exports(self, name: str) -> Mapping[str, JSON]:
        """
        Return the last exports of step *name*, for pinning.

        Raises:
            RequestError: The step has no exports.
        """
        last = self.get(name)
        if last is None or not last.exports:
            raise RequestError(
                f"Step {name!r} has no exports to pin yet.",
                fix=f"Run the step first, or give the exports: %pdpin {name} '{{\"$return_value\": 1}}'",
            )
        return last.exports

    def exports(self) -> dict[str, Mapping[str, JSON]]:
        """Return the exports by step, of the steps with a result."""
        return {name: known.result.exports for name, known in self._steps.items()}

    def find_stale_steps(self, workflow: Workflow, scope: str) -> set[str]:
        """Return the steps of *workflow* whose result is stale for *scope*."""
        stale: set[str] = set()
        newest_above, stale_above = 0, False
        for step in workflow.steps:
            known = self._steps.get(step.name)
            if known is None:
                continue
            pinned = known.result.status == "pinned"
            outdated = known.result_scope != scope or (
                not step.disabled and known.fingerprint != compute_fingerprint(step)
            )
            if not pinned and (outdated or stale_above or known.sequence < newest_above):
                stale.add(step.name)
                stale_above = True
            newest_above = max(newest_above, known.sequence)
        return stale

    def find_edited_steps(self, workflow: Workflow) -> set[str]:
        """Return the steps of *workflow* whose result is of other code."""
        return {
            step.name
            for step in workflow.steps
            if (known := self._steps.get(step.name)) is not None
            and known.result.status != "pinned"
            and not step.disabled
            and known.fingerprint != compute_fingerprint(step)
        }

    def stored_results(self) -> dict[str, StoredResult]:
        """Return the results by step, for the next kernel."""
        return dict(self._steps)


def compute_fingerprint(step: Step) -> str:
    """Return a hash of everything that determines the behaviour of *step*."""
    parts = [
        step.language,
        step.source,
        step.uses,
        [[a.prop, a.app, a.account] for a in step.apps],
        [[s.prop, s.store] for s in step.stores],
        dict(step.props),
        step.timeout_s,
        *([dict(step.files)] if step.files else []),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


class RecentRuns:
    """
    The latest runs.

    Attributes:
        last_execution: The last execution, or None.
    """

    def __init__(self) -> None:
        self.last_execution: Execution | None = None
        self._requests: dict[str, RunRequest] = {}
        self._detached: set[str] = set()

    def add(self, request: RunRequest, execution: Execution, *, is_detached: bool = False) -> None:
        """Add a finished run; *is_detached* if its results are not the last results of the cells."""
        if is_detached:
            self._detached.add(execution.id)
        self.last_execution = execution
        self._requests[execution.id] = request
        for old in list(self._requests)[:-MAX_RECENT_RUNS]:
            del self._requests[old]
            self._detached.discard(old)

    def is_detached(self, execution_id: str) -> bool:
        """Return whether the results of the run are not the last results of the cells."""
        return execution_id in self._detached

    def get_request(self, execution_id: str) -> RunRequest:
        """
        Return the request of a run, with its recording.

        Raises:
            RequestError: The run is not among the latest runs.
        """
        request = self.find_request(execution_id)
        if request is None:
            raise RequestError(
                "The recording of this run is gone: the run is not among the latest runs of this kernel.",
                fix="Run the workflow again; calls already sent are not repeated.",
            )
        return request

    def find_request(self, execution_id: str) -> RunRequest | None:
        """Return the request of a run, or None if the run is not among the latest runs."""
        return self._requests.get(execution_id)

    def find_edited_steps(self, execution_id: str, workflow: Workflow) -> set[str]:
        """Return the steps of the run that *workflow* has changed or removed since; empty for an unknown run."""
        request = self._requests.get(execution_id)
        if request is None:
            return set()
        now = {step.name: compute_fingerprint(step) for step in workflow.steps}
        return {step.name for step in request.workflow.steps if now.get(step.name) != compute_fingerprint(step)}

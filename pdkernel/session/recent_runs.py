"""The latest runs of this kernel with their requests, so that a run can be saved as a test."""

from __future__ import annotations

from pdkernel.engine.run_request import RunRequest
from pdkernel.errors import RequestError
from pdkernel.execution import Execution
from pdkernel.model import Workflow
from pdkernel.session.step_results import compute_fingerprint

MAX_RECENT_RUNS = 10
"""Number of runs that can be saved as tests; the recording of each stays in memory."""


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
        """Whether the results of the run are not the last results of the cells."""
        return execution_id in self._detached

    def get_request(self, execution_id: str) -> RunRequest:
        """
        The request of a run, with its recording.

        Raises:
            RequestError: The run is not among the latest runs.
        """
        request = self._requests.get(execution_id)
        if request is None:
            raise RequestError(
                "The recording of this run is gone: the run is not among the latest runs of this kernel.",
                fix="Run the workflow again; calls already sent are not repeated.",
            )
        return request

    def find_edited_steps(self, execution_id: str, workflow: Workflow) -> set[str]:
        """Steps of the run that *workflow* has changed or removed since; empty for an unknown run."""
        request = self._requests.get(execution_id)
        if request is None:
            return set()
        now = {step.name: compute_fingerprint(step) for step in workflow.steps}
        return {step.name for step in request.workflow.steps if now.get(step.name) != compute_fingerprint(step)}

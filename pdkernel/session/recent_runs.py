"""
The latest runs of this kernel, each with what was asked for: so that one can be saved as a test.

Knows how many are held. What a test needs of a run is for `trial` to know.
"""

from __future__ import annotations

from pdkernel.engine.run_request import RunRequest
from pdkernel.errors import RequestError
from pdkernel.execution import Execution
from pdkernel.model import Workflow
from pdkernel.session.step_results import compute_fingerprint

MAX_RECENT_RUNS = 10
"""Runs that can still be saved as tests; the outside calls of each are kept in memory."""


class RecentRuns:
    """
    The latest runs.

    Attributes:
        last_execution: The last execution, or None.
    """

    def __init__(self) -> None:
        self.last_execution: Execution | None = None
        self._requests: dict[str, RunRequest] = {}
        self._aside: set[str] = set()

    def add(self, request: RunRequest, execution: Execution, *, is_detached: bool = False) -> None:
        """Take a run that has ended; *is_detached* if what it did is no cell's last result."""
        if is_detached:
            self._aside.add(execution.id)
        self.last_execution = execution
        self._requests[execution.id] = request
        for old in list(self._requests)[:-MAX_RECENT_RUNS]:
            del self._requests[old]
            self._aside.discard(old)

    def is_detached(self, execution_id: str) -> bool:
        """Whether what that run did is no cell's last result."""
        return execution_id in self._aside

    def get_request(self, execution_id: str) -> RunRequest:
        """
        What was run, its outside calls on tape.

        Raises:
            RequestError: It is not among them.
        """
        request = self._requests.get(execution_id)
        if request is None:
            raise RequestError(
                "What this run sent is not known any more: it is not among the latest of this kernel.",
                fix="Run it again; nothing is sent twice.",
            )
        return request

    def find_edited_steps(self, execution_id: str, workflow: Workflow) -> set[str]:
        """Steps of that run that *workflow* has otherwise now; none if the run is not known."""
        request = self._requests.get(execution_id)
        if request is None:
            return set()
        now = {step.name: compute_fingerprint(step) for step in workflow.steps}
        return {step.name for step in request.workflow.steps if now.get(step.name) != compute_fingerprint(step)}

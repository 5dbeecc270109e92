"""
The last result of each step with the rule for stale results, and the latest runs with their requests.

A result is stale if the step's code, the event or the external user has changed since, or if a step above has run or
become stale later.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec import field

from pdkernel.common.encode import JsonStruct
from pdkernel.engine.run_request import RunRequest
from pdkernel.errors import RequestError
from pdkernel.execution import BlockChoice, Execution, StepResult, StepStatus
from pdkernel.model import JSON, Block, Entry, Step, Workflow, split_inside

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


@dataclass(slots=True)
class _Inputs:
    """What a step reads: the sequence of its newest result, and whether a result is stale."""

    newest: int = 0
    is_stale: bool = False


class LastStepResults:
    """The last result of each step."""

    def __init__(self, results: Mapping[str, StoredResult] | None = None) -> None:
        self._steps: dict[str, StoredResult] = dict(results or {})
        self._order = max((known.sequence for known in self._steps.values()), default=0)

    def record(self, step: Entry, result: StepResult, scope: str) -> None:
        """Record the result of *step*."""
        self._order += 1
        self._steps[step.name] = StoredResult(result, compute_fingerprint(step), scope, self._order)

    def record_all(
        self, workflow: Workflow, results: Sequence[StepResult], scope: str, statuses: Collection[StepStatus]
    ) -> list[str]:
        """
        Record the results of a run that have one of *statuses* and belong to steps or blocks of *workflow*, and return their names.

        A block is recorded after the steps in it, whose exports it has. Steps of branches that did not run have no result any more.
        """
        for result in results:
            if isinstance(result.choice, BlockChoice) and result.status == "success":
                self._discard_branches(workflow, result.name, result.choice)
        by_name = {result.name: result for result in results if result.status in statuses}
        ordered = [entry for entry in _inner_first(workflow) if entry.name in by_name]
        for entry in ordered:
            self.record(entry, by_name[entry.name], scope)
        return [name for name in by_name if any(entry.name == name for entry in ordered)]

    def _discard_branches(self, workflow: Workflow, block: str, choice: BlockChoice) -> None:
        """Discard the results of steps in the branches of *block* that *choice* has not taken, except pins."""
        for entry in workflow.all_entries:
            known = self._steps.get(entry.name)
            if known is None or known.result.status == "pinned":
                continue
            around = workflow.branches_around(entry.name)
            if any(each.name == block and branch not in choice.taken for each, branch in around):
                self.discard(entry.name)

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
        outdated = {entry.name for entry in workflow.all_entries if self._is_outdated(entry, scope)}
        read: dict[str | None, _Inputs] = {None: _Inputs()}  # by branch
        within: dict[str, _Inputs] = {}  # by block
        for entry in _inner_first(workflow):
            missing = [entry.inside] if entry.inside not in read else []
            missing += [block.inside for block, _ in workflow.branches_around(entry.name) if block.inside not in read]
            for inside in reversed(missing):
                block = split_inside(inside or "")[0]
                outer = read[workflow.block(block).inside]
                read[inside] = _Inputs(outer.newest, outer.is_stale or block in outdated)
            above, inner = read[entry.inside], within.get(entry.name, _Inputs())
            known = self._steps.get(entry.name)
            if known is None:
                continue
            is_older = known.sequence < max(above.newest, inner.newest)
            has_changed = entry.name in outdated or above.is_stale or inner.is_stale or is_older
            if has_changed and known.result.status != "pinned":
                stale.add(entry.name)
            around = within.setdefault(split_inside(entry.inside or "")[0], _Inputs())
            for inputs in (above, around):
                inputs.newest = max(inputs.newest, known.sequence)
                inputs.is_stale = inputs.is_stale or entry.name in stale
        return stale

    def _is_outdated(self, entry: Entry, scope: str) -> bool:
        """Return whether the code of *entry*, the event or the user has changed since its result."""
        known = self._steps.get(entry.name)
        if known is None or known.result.status == "pinned":
            return False
        is_disabled = isinstance(entry, Step) and entry.disabled
        return known.result_scope != scope or (not is_disabled and known.fingerprint != compute_fingerprint(entry))

    def find_edited_steps(self, workflow: Workflow) -> set[str]:
        """Return the steps of *workflow* whose result is of other code."""
        return {
            entry.name
            for entry in workflow.all_entries
            if (known := self._steps.get(entry.name)) is not None
            and known.result.status != "pinned"
            and not (isinstance(entry, Step) and entry.disabled)
            and known.fingerprint != compute_fingerprint(entry)
        }

    def stored_results(self) -> dict[str, StoredResult]:
        """Return the results by step, for the next kernel."""
        return dict(self._steps)


def _inner_first(workflow: Workflow) -> Iterator[Entry]:
    """Yield the steps and blocks of *workflow* in the order in which they end: a block after those in it."""
    open_blocks: list[Block] = []
    for entry in workflow.all_entries:
        block = "" if entry.inside is None else split_inside(entry.inside)[0]
        while open_blocks and open_blocks[-1].name != block:
            yield open_blocks.pop()
        if isinstance(entry, Block):
            open_blocks.append(entry)
        else:
            yield entry
    yield from reversed(open_blocks)


def compute_fingerprint(step: Entry) -> str:
    """Return a hash of everything that determines the behaviour of *step*."""
    if isinstance(step, Block):
        branches = [[branch.name, branch.condition, branch.runs] for branch in step.branches]
        return _hash([step.type, step.expression, branches])
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
    return _hash(parts)


def _hash(parts: list[Any]) -> str:
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
        now = {entry.name: compute_fingerprint(entry) for entry in workflow.all_entries}
        before = request.workflow.all_entries
        return {entry.name for entry in before if now.get(entry.name) != compute_fingerprint(entry)}

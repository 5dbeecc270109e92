"""
What each step did last, and whether that still holds.

Knows the rule for stale: a step's result is stale when its text, the event or the external user has changed since,
or when a step above it has run (or become stale) later. Knows nothing of how steps run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from pdkernel.errors import RequestError
from pdkernel.execution import StepResult
from pdkernel.model import JSON, Step, Workflow


@dataclass(frozen=True)
class StoredResult:
    """
    A step's last result.

    Attributes:
        result: What it did, redacted.
        fingerprint: Of the step's text and settings at the time.
        result_scope: Event and external user that it ran on.
        sequence: Grows with every step that runs.
    """

    result: StepResult
    fingerprint: str
    result_scope: str
    sequence: int

    def to_json(self) -> dict[str, Any]:
        """As JSON, for keeping."""
        return {
            "result": self.result.to_json(),
            "fingerprint": self.fingerprint,
            "scope": self.result_scope,
            "order": self.sequence,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The reverse of `to_json`."""
        return cls(StepResult.from_json(data["result"]), data["fingerprint"], data["scope"], data["order"])


class LastStepResults:
    """The last result of each step."""

    def __init__(self, remembered: Mapping[str, StoredResult] | None = None) -> None:
        self._steps: dict[str, StoredResult] = dict(remembered or {})
        self._order = max((known.sequence for known in self._steps.values()), default=0)

    def record(self, step: Step, result: StepResult, scope: str) -> None:
        """Remember what *step* did."""
        self._order += 1
        self._steps[step.name] = StoredResult(result, compute_fingerprint(step), scope, self._order)

    def discard(self, name: str) -> None:
        """Drop the result of step *name*, if there is one."""
        self._steps.pop(name, None)

    def get(self, name: str) -> StepResult | None:
        """What step *name* did last, or None."""
        known = self._steps.get(name)
        return known.result if known else None

    def get_pinnable_exports(self, name: str) -> Mapping[str, JSON]:
        """
        What step *name* exported last, to be pinned.

        Raises:
            RequestError: It has exported nothing.
        """
        last = self.get(name)
        if last is None or not last.exports:
            raise RequestError(
                f"Step {name!r} has exported nothing yet that could be pinned.",
                fix=f"Run it first, or give the exports: %pdpin {name} '{{\"$return_value\": 1}}'",
            )
        return last.exports

    def exports(self) -> dict[str, Mapping[str, JSON]]:
        """Exports by step, of the steps that have run."""
        return {name: known.result.exports for name, known in self._steps.items()}

    def find_stale_steps(self, workflow: Workflow, scope: str) -> set[str]:
        """Steps of *workflow* whose result no longer holds for *scope*."""
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

    def to_json(self) -> dict[str, Any]:
        """As JSON, for keeping."""
        return {name: known.to_json() for name, known in self._steps.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The reverse of `to_json`."""
        return cls({name: StoredResult.from_json(known) for name, known in data.items()})


def compute_fingerprint(step: Step) -> str:
    """A hash of what decides what *step* does."""
    parts = [
        step.language,
        step.source,
        step.uses,
        [[a.prop, a.app, a.account] for a in step.apps],
        [[s.prop, s.store] for s in step.stores],
        dict(step.props),
        step.timeout_s,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

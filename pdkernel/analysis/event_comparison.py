"""
An event beside a contract and the events before it.

Knows which earlier events count. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pdkernel.analysis.contract import Contract
from pdkernel.analysis.contract_check import ContractViolation, check_event
from pdkernel.analysis.drift import Drift, EventData, detect_drift, has_path


@dataclass(frozen=True, slots=True)
class EventComparison:
    """
    What is said of one event.

    Attributes:
        name: What the event is called.
        violations: What the steps will not find in it.
        drifts: What is not as in the earlier events.
        earlier_count: How many those are.
    """

    name: str
    violations: tuple[ContractViolation, ...] = ()
    drifts: tuple[Drift, ...] = ()
    earlier_count: int = 0

    @property
    def is_compatible(self) -> bool:
        """Whether there is nothing to say."""
        return not self.violations and not self.drifts

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "event": self.name,
            "findings": [finding.to_json() for finding in self.violations],
            "drift": [each.to_json() for each in self.drifts],
            "earlier": self.earlier_count,
        }


def compare_event(
    contract: Contract, name: str, event: EventData, earlier_events: Mapping[str, EventData]
) -> EventComparison:
    """
    What *contract* says of *event*.

    Args:
        contract: What steps read.
        name: What the event is called; of that name none is earlier.
        event: Its data.
        earlier_events: Earlier events' data by name. One that is the same is none, and neither is one of another kind: it has
            less than half of the fields that the steps count on.
    """
    before = [
        data
        for other, data in earlier_events.items()
        if other != name and dict(data) != dict(event) and _is_same_kind(contract, data)
    ]
    return EventComparison(name, check_event(contract, event), detect_drift(contract, before, event), len(before))


def _is_same_kind(contract: Contract, event: EventData) -> bool:
    required = [field.segments for field in contract.required_fields]
    return 2 * sum(has_path(event, place) for place in required) >= len(required)

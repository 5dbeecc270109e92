"""
An event beside a contract and the events before it.

Knows which earlier events count. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pdkernel.contract.checking import Finding, check
from pdkernel.contract.drift import Drift, EventData, drift, has
from pdkernel.contract.words import Contract


@dataclass(frozen=True, slots=True)
class Compared:
    """
    What is said of one event.

    Attributes:
        name: What the event is called.
        findings: What the steps will not find in it.
        drifts: What is not as in the earlier events.
        earlier: How many those are.
    """

    name: str
    findings: tuple[Finding, ...] = ()
    drifts: tuple[Drift, ...] = ()
    earlier: int = 0

    @property
    def holds(self) -> bool:
        """Whether there is nothing to say."""
        return not self.findings and not self.drifts

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "event": self.name,
            "findings": [finding.to_json() for finding in self.findings],
            "drift": [each.to_json() for each in self.drifts],
            "earlier": self.earlier,
        }


def compare(contract: Contract, name: str, event: EventData, earlier: Mapping[str, EventData]) -> Compared:
    """
    What *contract* says of *event*.

    Args:
        contract: What steps read.
        name: What the event is called; of that name none is earlier.
        event: Its data.
        earlier: Earlier events' data by name. One that is the same is none, and neither is one of another kind: it has
            less than half of the fields that the steps count on.
    """
    before = [
        data
        for other, data in earlier.items()
        if other != name and dict(data) != dict(event) and _is_alike(contract, data)
    ]
    return Compared(name, check(contract, event), drift(contract, before, event), len(before))


def _is_alike(contract: Contract, event: EventData) -> bool:
    required = [field.place for field in contract.required]
    return 2 * sum(has(event, place) for place in required) >= len(required)

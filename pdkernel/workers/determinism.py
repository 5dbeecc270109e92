"""
A clock and chance that are the same in every step, as a value.

Knows what processes are told of it. Off unless somebody asks for it: for comparing two runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Determinism:
    """
    Clock and chance of steps.

    Attributes:
        clock_start: The moment at which each step begins, in whole seconds. It leaps ahead every ten seconds, so that code which
            waits for the clock comes to an end.
        seed: What chance follows from, together with a step's name.
    """

    clock_start: datetime
    seed: str

    def to_json(self) -> dict[str, Any]:
        """`{"ms", "seed"}`, as a process is told it when a run begins."""
        return {"ms": int(self.clock_start.timestamp()) * 1000, "seed": self.seed}

    @property
    def interpreter_variables(self) -> dict[str, str]:
        """What an interpreter must know when it starts: Python orders sets of texts by chance."""
        return {"PYTHONHASHSEED": "0"}

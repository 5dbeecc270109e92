"""Settings for a fixed clock and fixed random numbers in steps, for comparing two runs. Off by default."""

from __future__ import annotations

from datetime import datetime

from pdkernel.common.encode import JsonStruct


class Determinism(JsonStruct, frozen=True):
    """
    The clock and the random seed of steps.

    Attributes:
        clock_start: The time at which each step begins, in whole seconds. The clock advances every ten seconds, so that code
            that waits for a later time ends.
        seed: The seed of the random numbers, combined with the step's name.
    """

    clock_start: datetime
    seed: str

    def json_form(self) -> object:
        """`{"ms", "seed"}`: the form that a worker receives when a run begins."""
        return {"ms": int(self.clock_start.timestamp()) * 1000, "seed": self.seed}

    @property
    def interpreter_variables(self) -> dict[str, str]:
        """Environment variables for the start of an interpreter: they fix the order of Python's sets of strings."""
        return {"PYTHONHASHSEED": "0"}

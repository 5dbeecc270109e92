"""Operations of a scenario, the runs that they have left, and what every part of a scenario implements."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pdkernel.execution import Execution
from pdkernel.model import JSON

STORY_S = 60.0
"""The virtual seconds in which operations happen."""
FAULT_S = 12.0
"""The virtual seconds for which a fault has effects after its end."""


@dataclass(frozen=True)
class Operation:
    """
    Something that happens.

    Attributes:
        at: The virtual time.
        kind: What happens.
        what: The workflow, source or host that it happens to.
        amount: How many, or for how many seconds.
        host: The number of the host that it befalls.
    """

    at: float
    kind: str
    what: str = ""
    amount: float = 1
    host: int = 0

    def __str__(self) -> str:
        return f"{self.at:7.3f} {self.kind} {self.what} {self.amount:g}" + (
            f" on host {self.host}" if self.host else ""
        )


class PromiseError(AssertionError):
    """A promise does not hold."""


@dataclass(frozen=True)
class Run:
    """
    A recorded run.

    Attributes:
        record: The record.
        parent: The id of the run that has started it, or None.
    """

    record: Execution
    parent: str | None

    @property
    def event(self) -> Mapping[str, JSON]:
        """The event of the run."""
        return self.record.event


class Part(Protocol):
    """
    A group of operations with their promises, in one world.

    Attributes:
        kinds: The kinds of its operations.
    """

    kinds: Collection[str]

    def begin(self, operation: Operation) -> None:
        """Let an operation happen; returns at once."""
        ...

    def is_settled(self, runs: Sequence[Run]) -> bool:
        """Return whether all that it has begun has ended, as far as *runs* show."""
        ...

    def check(self, runs: Sequence[Run]) -> Iterator[str]:
        """Yield the promises that do not hold."""
        ...

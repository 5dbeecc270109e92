"""
Faults at the moments at which they matter most, which a scenario of faults at any time seldom has.

Each function returns the operations of one such moment on one of so many hosts.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from tests.simulation.operations import STORY_S, Operation

_BEGINS_S = STORY_S - 20.0
"""No moment begins later, so that it ends before the last operation."""


def draw(chance: random.Random, hosts: int) -> list[Operation]:
    """Return the operations of one moment."""
    kinds = ALONE if hosts == 1 else (*ALONE, *SHARED)
    return chance.choice(kinds)(chance, chance.uniform(1, _BEGINS_S), hosts)


def _edit(chance: random.Random, at: float, hosts: int) -> list[Operation]:
    """The workflows get another text, while the server runs."""
    found = [Operation(at, "event", chance.choice(("Long", "Delayed", "Single")), 2)]
    return (
        found
        + [Operation(at + chance.uniform(0, 4), what) for what in ("edit", "edit", "check")]
        + [Operation(at + chance.uniform(0, 4), "event", "Plain", 2)]
    )


def _interrupt_calls(chance: random.Random, at: float, hosts: int) -> list[Operation]:
    """A server dies while a step of it waits for the workflows that it has called."""
    ends = [at + chance.uniform(0.15, 0.5)]
    ends.append(ends[0] + chance.uniform(1, 2))
    kills = (Operation(each, "kill", host=host) for each in ends for host in range(hosts))
    return [Operation(at, "event", "Twins", 3), *kills]


def _break_commits(chance: random.Random, at: float, hosts: int) -> list[Operation]:
    """Commits end with unexpected exceptions while runs end."""
    begins = at + chance.uniform(0.05, 0.3)
    return [
        Operation(at, "event", chance.choice(("Plain", "Single", "Caller")), 3),
        *(Operation(begins, "defect", amount=chance.uniform(0.05, 0.5), host=host) for host in range(hosts)),
    ]


def _break_steps(chance: random.Random, at: float, hosts: int) -> list[Operation]:
    """Steps end with unexpected exceptions."""
    return [
        Operation(at, "event", chance.choice(("Plain", "Single", "Long")), 3),
        *(Operation(at + chance.uniform(0, 0.1), "bug", amount=2, host=host) for host in range(hosts)),
    ]


def _start_late(chance: random.Random, at: float, hosts: int) -> list[Operation]:
    """A host loses the database while a worker starts, so that nothing but its lease holds up the step."""
    fault = chance.choice(("silence", "refusal", "outage", "crash"))
    return [
        Operation(at, "event", "Cold", 4),
        Operation(at + chance.uniform(0.3, 1.5), fault, amount=chance.uniform(9, 14), host=chance.randrange(hosts)),
    ]


def _start_late_alone(chance: random.Random, at: float, hosts: int) -> list[Operation]:
    """As `_start_late`, while the other hosts are frozen, so that the lease is not lost."""
    lucky = chance.randrange(hosts)
    frozen = [Operation(at, "freeze", amount=30, host=host) for host in range(hosts) if host != lucky]
    events = at + chance.uniform(11.5, 13)
    return [
        *frozen,
        Operation(events, "event", "Cold", 4),
        Operation(events + chance.uniform(0.3, 1.5), "silence", amount=chance.uniform(9, 14), host=lucky),
    ]


def _thaw_late(chance: random.Random, at: float, hosts: int) -> list[Operation]:
    """A host that seems to be the only one freezes while it accepts events, until others have come back and taken it for dead."""
    what, lucky = chance.choice(("Single", "Throttled")), chance.randrange(hosts)
    froze = at + 13
    return [
        *(Operation(at, "freeze", amount=14, host=host) for host in range(hosts) if host != lucky),
        *(Operation(froze - chance.uniform(0, 0.006), "event", what, 2) for _ in range(6)),
        Operation(froze, "freeze", amount=chance.uniform(16, 20), host=lucky),
    ]


Moment = Callable[[random.Random, float, int], list[Operation]]
"""Returns operations from a virtual time on, for so many hosts."""
ALONE: Sequence[Moment] = (_edit, _interrupt_calls, _break_commits, _break_steps)
SHARED: Sequence[Moment] = (_start_late, _start_late_alone, _thaw_late)
"""The moments of hosts that share a database."""

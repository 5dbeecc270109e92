"""What random attacks broke."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

FOUND = r"tok-[a-z]+-[0-9a-f]{8}|xoxb-[a-z0-9]+-0123456789"
"""Pattern of planted tokens."""
MAX_STOP_S = 5.0
"""How long the event loop of the server may not answer; the machine of the test may be busy."""


@dataclass
class Findings:
    """
    What broke.

    Attributes:
        seen: Planted tokens in records of runs that may not see them: who, and the token.
        wrong: Honest runs with other results than expected: who, and the results.
        runs: Runs that attackers started for another user or environment: who, and for whom.
        changed: Planted files that are different.
        left: Processes, files and mounts that are left.
        rounds: How many actions were tried.
        errors: Errors of attackers' steps, and how often.
        longest_stop_s: The longest time in seconds in which the event loop did not answer.
        done: How often each action of attackers succeeded.
    """

    seen: list[tuple[str, str]] = field(default_factory=list)
    wrong: list[tuple[str, Any]] = field(default_factory=list)
    runs: list[tuple[str, str]] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    rounds: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    longest_stop_s: float = 0.0
    done: Counter[str] = field(default_factory=Counter)

    @property
    def broken(self) -> dict[str, Any]:
        """What broke, by kind; empty if nothing did."""
        kinds = ("seen", "wrong", "runs", "changed", "left")
        found = {name: getattr(self, name) for name in kinds}
        found |= {"stopped": self.longest_stop_s} if self.longest_stop_s > MAX_STOP_S else {}
        return {name: value for name, value in found.items() if value}

"""Promises about each moment, checked when a step begins: recorded steps, leases, and steps that are active in two processes."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path

from tests.simulation.pool import Effect

THAW_S = 1.0
"""Virtual seconds after which a process that was frozen has noticed that its lease has ended."""
MARGIN_S = 7.0
"""Seconds without the database after which a process starts nothing new: seven tenths of a lease."""


class StepWatch:
    """
    Notes what steps do.

    Args:
        file: The file of the journal.

    Attributes:
        effects: What steps did, in order.
        problems: The promises that did not hold.
    """

    def __init__(self, file: Path) -> None:
        self.effects: list[Effect] = []
        self.problems: list[str] = []
        self._connection = sqlite3.connect(file)
        self.find_unfinished()  # the file stays open, so that no end of a server is that of its write-ahead log
        self._active: dict[tuple[str, str], list[Effect]] = {}
        self._single: dict[str, tuple[Effect, int]] = {}

    def add(self, effect: Effect) -> None:
        """Note *effect*, and check what must hold now."""
        if effect.kind == "release":
            self._release(effect)
            return
        if effect.kind == "decide":
            self._check_recorded(effect, f"the block {effect.step} was decided at {effect.at:.3f}")
            return
        self.effects.append(effect)
        key = effect.run, effect.step
        active = [each for each in self._active.pop(key, []) if not each.process.is_dead]
        if effect.kind == "start":
            self._check_start(effect, active)
            self._active[key] = [*active, effect]
        elif effect.kind in ("end", "stop"):
            self._active[key] = [each for each in active if each.process is not effect.process]
        else:
            self._active[key] = active
        if effect.workflow == "Single":
            self._check_concurrency(effect)

    def find_unfinished(self) -> Mapping[str, str]:
        """Return the names of the workflows of the runs that have not ended, by the ids of the runs."""
        return dict(
            self._connection.execute("select id, workflow from runs where status in ('ready', 'running', 'paused')")
        )

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _check_concurrency(self, effect: Effect) -> None:
        """A run of a workflow with one place is active until it ends, or its process dies or loses its lease and ends its steps."""
        others = self._single.items()
        self._single = {run: claim for run, claim in others if run != effect.run and self._holds(*claim, effect.at)}
        self._single[effect.run] = effect, effect.process.leases
        if len(self._single) > 1:
            where = {run: each.process.name for run, (each, _) in self._single.items()}
            self.problems.append(f"two runs of Single were active at {effect.at:.3f}: {where}")

    def _release(self, effect: Effect) -> None:
        """A run of a workflow with one place has ended its steps when it makes room for the next one."""
        claim = self._single.get(effect.run)
        if claim is None or claim[0].process is not effect.process:
            return
        del self._single[effect.run]
        if self._is_in_step(claim[0]):
            self.problems.append(
                f"the run {effect.run} of Single made room at {effect.at:.3f}, while its step executed"
            )

    def _holds(self, effect: Effect, lease: int, now: float) -> bool:
        process = effect.process
        if process.is_dead:
            return False
        if process.leases == lease and process.lease_ends_at >= now:
            return True
        return self._is_in_step(effect) and now > process.thawed_at + THAW_S

    def _is_in_step(self, effect: Effect) -> bool:
        """Whether the process of *effect* executes a step of its run."""
        return any(
            each.process is effect.process
            for key, some in self._active.items()
            if key[0] == effect.run
            for each in some
        )

    def _check_start(self, effect: Effect, active: list[Effect]) -> None:
        what = f"the step {effect.step} of {effect.workflow} began at {effect.at:.3f} in {effect.process.name}"
        self._check_recorded(effect, what)
        for other in active:
            if effect.at > other.process.thawed_at + THAW_S and (other.process.has_others or not self._is_cut(other)):
                self.problems.append(f"{what}, while it was active in {other.process.name} since {other.at:.3f}")
        process = effect.process
        if process.link is None or effect.at <= process.thawed_at + THAW_S:
            return  # nothing can stop a process that was frozen before it looks at its lease
        if effect.at > process.lease_ends_at:
            self.problems.append(f"{what}, whose lease had ended at {process.lease_ends_at:.3f}")
        if effect.at > process.link.down_since + MARGIN_S:
            self.problems.append(f"{what}, which was without its database since {process.link.down_since:.3f}")

    def _check_recorded(self, effect: Effect, what: str) -> None:
        query = "select 1 from steps where run_id = ? and name = ?"
        if self._connection.execute(query, (effect.run, effect.step)).fetchone():
            self.problems.append(f"{what}, and was recorded before")

    @staticmethod
    def _is_cut(effect: Effect) -> bool:
        """Whether the process of *effect* cannot know that another one has joined since."""
        link = effect.process.link
        return link is not None and link.down_since <= effect.process.lease_ends_at

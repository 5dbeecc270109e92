"""Servers under load, with faults that a seed chooses: `make crash MINUTES=30 SEED=7` runs them for longer."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.cli.fork_server import ForkServer
from tests.durability.server_process import Began
from tests.durability.stress import PERIOD_S, STARTS, find_beyond_limits, find_repeated, stress_of

MINUTES = os.environ.get("PDKERNEL_CRASH_MINUTES")
SECONDS = 30 * float(MINUTES or 0.3)
"""Half of the minutes, for each of the databases."""
SEED = int(os.environ.get("PDKERNEL_CRASH_SEED") or (time.time() if MINUTES else 1))


@pytest.mark.timeout(SECONDS + 900)
@pytest.mark.parametrize("on_postgres", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["sqlite", "postgres"])
def test_no_fault_breaks_a_promise(fork_server: ForkServer, tmp_path: Path, on_postgres: bool) -> None:
    """Accepted events are finished, once, and limits hold, while servers, disks, clocks, connections and databases fail."""
    with stress_of(fork_server, tmp_path, SEED, on_postgres=on_postgres) as stress:
        stress.run(SECONDS)


@pytest.mark.parametrize(
    ("steps", "repeated"),
    [
        ([("one", 1), ("slow", 1), ("slow", 2), ("nap", 2)], 0),
        ([("one", 1), ("slow", 1), ("one", 2)], 1),  # after a later step
        ([("one", 1), ("one", 1)], 1),  # the same attempt
    ],
)
def test_a_repeated_step_is_found(steps: list[tuple[str, int]], repeated: int) -> None:
    """A step that begins again as a later attempt is correct, unless a later step has begun, or the attempt has."""
    begun = [Began("run", step, attempt, at) for at, (step, attempt) in enumerate(steps)]

    assert len(find_repeated(begun)) == repeated


@pytest.mark.parametrize("gap_s", [PERIOD_S, 0.1])
def test_steps_beyond_a_limit_are_found(gap_s: float) -> None:
    """Two steps of a workflow with one run at a time that overlap are found, and so are too many starts in a period."""
    begun = [Began(f"start{number}", "start", 1, number * gap_s) for number in range(STARTS + 1)]
    for number in range(2):
        at = number * gap_s
        begun += [Began(f"span{number}", step, 1, at + after) for step, after in (("span", 0.0), ("ended", 0.2))]

    assert len(find_beyond_limits(begun)) == (0 if gap_s == PERIOD_S else 2)

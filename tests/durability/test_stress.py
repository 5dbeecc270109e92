"""Servers under load, with faults that a seed chooses: `make crash MINUTES=30 SEED=7` runs them for longer."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.cli.fork_server import ForkServer
from tests.durability.stress import stress_of

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

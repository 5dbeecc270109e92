"""The clock of an executor's lease. `test_postgres` has the lease itself."""

from __future__ import annotations

from pdkernel.clock import ManualClock
from pdkernel.engine.journal.lease import DatabaseClock


def test_corrections_of_the_clock_add_up() -> None:
    """Each correction adds to the earlier ones; a difference that the measurement explains corrects nothing."""
    clock = DatabaseClock(ManualClock())
    start = clock.now()

    for ahead_s, uncertainty_s in ((10, 0.1), (-4, 0.1), (0.14, 0.1), (-0.04, 0)):
        clock.adjust(ahead_s, uncertainty_s)

    assert (clock.now() - start).total_seconds() == 6

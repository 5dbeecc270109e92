"""
Runs in temporary projects, and runs saved as tests.

    saver              saves a run as a test, and builds its Python text
    run_inputs         accounts and variables of a run, with fake values
    stable_values      values that stay the same from run to run
    temporary_project  a project for one test, its clock, and what the runs of many tests share

The pytest plugin is in `testing`.
"""

from pdkernel.annex.snapshot_tests.saver import SavedTest, save_test
from pdkernel.annex.snapshot_tests.stable_values import differs
from pdkernel.annex.snapshot_tests.temporary_project import RuntimeFactory, SettableClock, TemporaryProject

__all__ = ["RuntimeFactory", "SavedTest", "SettableClock", "TemporaryProject", "differs", "save_test"]

"""
Runs in temporary projects, and runs saved as tests.

    saver              saves a run as a test
    run_inputs         accounts and variables of a run, with fake values
    stable_values      values that stay the same from run to run
    code_generation    the Python text of a saved test
    temporary_project  a project for one test: users, accounts, variables, runs
    runtime_factory    worker processes and gateway, shared by the runs of many tests
    clock              a clock that a test sets

The pytest plugin is in `testing`.
"""

from pdkernel.annex.snapshot_tests.clock import SettableClock
from pdkernel.annex.snapshot_tests.runtime_factory import RuntimeFactory
from pdkernel.annex.snapshot_tests.saver import SavedTest, save_test
from pdkernel.annex.snapshot_tests.stable_values import differs
from pdkernel.annex.snapshot_tests.temporary_project import TemporaryProject

__all__ = ["RuntimeFactory", "SavedTest", "SettableClock", "TemporaryProject", "differs", "save_test"]

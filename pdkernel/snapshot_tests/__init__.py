"""
Runs in a project that is made for them, and runs saved as tests.

    clock     a clock that a test sets
    bench     the processes that the runs share
    project   a project for one test: users, accounts, variables, runs
    made_up   credentials and variables that stand for the real ones
    stable    what stays the same from run to run
    source    a saved test's text
    files     where it is written, and what is never overwritten
    save      a run that was made, saved as a test

Knows the engine and sessions' thread. Knows nothing of pytest, IPython or the command line: those are its faces.
"""

from pdkernel.snapshot_tests.clock import SettableClock
from pdkernel.snapshot_tests.runtime_factory import RuntimeFactory
from pdkernel.snapshot_tests.saver import SavedTest, save_test
from pdkernel.snapshot_tests.stable_values import differs
from pdkernel.snapshot_tests.temporary_project import TemporaryProject

__all__ = ["RuntimeFactory", "SavedTest", "SettableClock", "TemporaryProject", "differs", "save_test"]

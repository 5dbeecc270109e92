"""
Tests for workflows: a pytest plugin.

The plugin does not load by itself. Write `pytest_plugins = ["pdkernel.testing"]` in a test module or in the topmost
`conftest.py`, or run `pytest -p pdkernel.testing`. PYTEST_DONT_REWRITE: the package has no test assertions.

    pd_project   a new local project for the test: `connect("ada", "slack", oauth_access_token="...")`
    pd_run       runs a notebook or a workflow's folder on an event and returns the execution
    pd_event     an event by its name, or from parts
    pd_clock     the settable clock of runs
    pd_records   compares a workflow with its recorded runs at Pipedream: `assert not pd_records("greet.ipynb").differs`
    pd_crash_test  kills a workflow at each point: `assert not pd_crash_test("greet.ipynb", "hello").findings`
    differs      equals any value of a type, for values that change from run to run

Outbound calls are refused unless `pd_run` sets a policy: `egress="replay=FILE"`, `"stand-in=slack"`. The report of a
failed test shows the timeline of each of its runs. Runs are made by `pdkernel.annex.snapshot_tests`.
"""

from __future__ import annotations

from pdkernel.annex.snapshot_tests import SettableClock, TemporaryProject, differs
from pdkernel.testing.fixtures import (
    CompareRecords,
    MakeEvent,
    RunCrashTest,
    RunWorkflow,
    pd_clock,
    pd_crash_test,
    pd_event,
    pd_project,
    pd_records,
    pd_run,
    pd_runtime_factory,
    pytest_runtest_makereport,
)

__all__ = [
    "CompareRecords",
    "MakeEvent",
    "RunCrashTest",
    "RunWorkflow",
    "SettableClock",
    "TemporaryProject",
    "differs",
    "pd_clock",
    "pd_crash_test",
    "pd_event",
    "pd_project",
    "pd_records",
    "pd_run",
    "pd_runtime_factory",
    "pytest_runtest_makereport",
]

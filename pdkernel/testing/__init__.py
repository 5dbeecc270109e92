"""
Tests for workflows: a pytest plugin.

Nothing loads by itself. Write `pytest_plugins = ["pdkernel.testing"]` in a test module or in the topmost `conftest.py`, or
run `pytest -p pdkernel.testing`. PYTEST_DONT_REWRITE: there is no assertion of a test in here.

    pd_project   a local project of the test's own: `connect("ada", "slack", oauth_access_token="...")`
    pd_run       runs a notebook or a workflow's folder on an event and returns the execution
    pd_event     an event by its name, or from parts
    pd_clock     the time of runs, to be set
    differs      equals any value of a type, for what differs from run to run

Outside calls are refused unless `pd_run` is told who answers: `egress="replay=FILE"`, `"stand-in=slack"`. When a test
fails, the timeline of each of its runs is in the report. Knows pytest; how runs are made is `trial`'s.
"""

from __future__ import annotations

from pdkernel.snapshot_tests import SettableClock, TemporaryProject, differs
from pdkernel.testing.failure_report import pytest_runtest_makereport
from pdkernel.testing.fixtures import MakeEvent, RunWorkflow, pd_clock, pd_event, pd_project, pd_run, pd_runtime_factory

__all__ = [
    "MakeEvent",
    "RunWorkflow",
    "SettableClock",
    "TemporaryProject",
    "differs",
    "pd_clock",
    "pd_event",
    "pd_project",
    "pd_run",
    "pd_runtime_factory",
    "pytest_runtest_makereport",
]

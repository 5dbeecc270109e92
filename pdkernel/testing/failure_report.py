"""The timelines of runs in the report of a failed test. A timeline shows only redacted records."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from pdkernel.execution import Execution
from pdkernel.model import Workflow
from pdkernel.render import timeline

TITLE = "pdkernel timeline"
_DENIED_CALL_HINT = 'To answer a refused call: pd_run(..., egress="replay=FILE"), "stand-in=URL" or "stand-in=slack".'
_RUNS = pytest.StashKey[list[tuple[Execution, Workflow]]]()


def record_run(item: pytest.Item, execution: Execution, workflow: Workflow) -> None:
    """Record a run of *item* for its report."""
    item.stash.setdefault(_RUNS, []).append((execution, workflow))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the timeline of each run to the report of a failed test."""
    report = yield
    if report.when == "call" and report.failed:
        for execution, workflow in item.stash.get(_RUNS, []):
            responds = workflow.trigger.type == "http"
            denied = any(call.outcome == "denied" for call in execution.requests)
            text = timeline.render_text(
                execution,
                timeline.TimelineContext(
                    workflow=workflow, has_response=responds, note=_DENIED_CALL_HINT if denied else None
                ),
            )
            report.sections.append((TITLE, text))
    return report

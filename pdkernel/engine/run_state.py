"""
What the steps of one run share, as one value that is handed from step to step.

Knows which parts there are. What they do is for their own modules to know.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field

from pdkernel.engine.account_resolution import AccountResolution
from pdkernel.engine.limits import PayloadCounter
from pdkernel.engine.prepared_packages import PreparedPackages
from pdkernel.engine.run_record import RunRecord
from pdkernel.engine.run_request import RunRequest
from pdkernel.engine.step_actions import StepActions
from pdkernel.errors import InternalError, OutboundCallRefusedError
from pdkernel.model import JSON
from pdkernel.workers import Effect, RunSetup, RunWorkers


@dataclass
class RunState:
    """
    A run under way.

    Attributes:
        request: What was asked for.
        workers: The processes that run its steps.
        record: What is known of it.
        resolution: The accounts.
        actions: The components of its action steps.
        payload: Counts what it carries along.
        worker_setup: What its processes were given.
        packages: The packages that were made ready.
        exports: Of the steps so far, raw.
        first_refusals: The first outside call of each step that was refused.
        failed_calls: What is to be said of each step's outside calls that got no answer, each once.
        queued_sends: What steps have queued, by the step's name, in order.
        running_step: The step that its process runs now.
    """

    request: RunRequest
    workers: RunWorkers
    record: RunRecord
    resolution: AccountResolution
    actions: StepActions
    payload: PayloadCounter
    worker_setup: RunSetup
    packages: PreparedPackages
    exports: dict[str, Mapping[str, JSON]]
    first_refusals: dict[str, OutboundCallRefusedError] = field(default_factory=dict)
    failed_calls: dict[str, list[str]] = field(default_factory=dict)
    queued_sends: list[tuple[str, Effect]] = field(default_factory=list)
    running_step: str | None = None


def scratch_write_error(fault: OSError) -> InternalError:
    """The error for files of a run that cannot be written."""
    return InternalError(
        f"The files of the run cannot be written: {fault.strerror or fault}.",
        fix=f"Make room in {tempfile.gettempdir()}, or name another folder in TMPDIR.",
    )

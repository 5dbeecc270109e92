"""
What the steps of one run share, as one value that is handed from step to step.

Knows which parts there are. What they do is for their own modules to know.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field

from pdkernel.engine.actions import StepActions
from pdkernel.engine.end_users import Resolution
from pdkernel.engine.limits import Payload
from pdkernel.engine.ready import Ready
from pdkernel.engine.record import RunRecord
from pdkernel.engine.request import RunRequest
from pdkernel.errors import EgressRefusedError, HostError
from pdkernel.hosts import Effect, RunGuests, RunSetup
from pdkernel.model import JSON


@dataclass
class RunState:
    """
    A run under way.

    Attributes:
        request: What was asked for.
        guests: The processes that run its steps.
        record: What is known of it.
        resolution: The accounts.
        actions: The components of its action steps.
        payload: Counts what it carries along.
        setup: What its processes were given.
        ready: The packages that were made ready.
        exports: Of the steps so far, raw.
        refusals: The first outside call of each step that was refused.
        failed_calls: What is to be said of each step's outside calls that got no answer, each once.
        sends: What steps have queued, by the step's name, in order.
        running: The step that its process runs now.
    """

    request: RunRequest
    guests: RunGuests
    record: RunRecord
    resolution: Resolution
    actions: StepActions
    payload: Payload
    setup: RunSetup
    ready: Ready
    exports: dict[str, Mapping[str, JSON]]
    refusals: dict[str, EgressRefusedError] = field(default_factory=dict)
    failed_calls: dict[str, list[str]] = field(default_factory=dict)
    sends: list[tuple[str, Effect]] = field(default_factory=list)
    running: str | None = None


def unwritable(fault: OSError) -> HostError:
    """The error for files of a run that cannot be written."""
    return HostError(
        f"The files of the run cannot be written: {fault.strerror or fault}.",
        fix=f"Make room in {tempfile.gettempdir()}, or name another folder in TMPDIR.",
    )

"""The state that the steps of one run share."""

from __future__ import annotations

import asyncio
import errno
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from pdkernel.engine.account_resolution import AccountResolution
from pdkernel.engine.limits import PayloadCounter
from pdkernel.engine.prepared_workflow import PreparedWorkflow
from pdkernel.engine.queue_turns import QueueTurn
from pdkernel.engine.run_packages import PreparedPackages
from pdkernel.engine.run_record import RunRecord
from pdkernel.engine.run_request import RunRequest, RunWatcher
from pdkernel.engine.step_actions import StepActions
from pdkernel.errors import InternalError, OutboundCallRefusedError, describe_fault
from pdkernel.execution import Status
from pdkernel.model import JSON
from pdkernel.workers import PooledRun, RunSetup


@dataclass
class RunEnd:
    """
    The end of a run, which all its branches share.

    Attributes:
        status: `error` or `exited` as soon as a step ends the run: nothing starts then; else None.
    """

    status: Status | None = None

    def add(self, status: Status) -> None:
        """
        Note that a step ends the run.

        # parity[parallel-end]: a failure in another branch counts more than an exit
        """
        self.status = status if self.status is None or status == "error" else self.status


@dataclass
class RunState:
    """
    The state of a run.

    Attributes:
        request: The run's request.
        workers: The workers that run the steps.
        record: The run's record.
        resolution: The accounts.
        actions: The components of action steps.
        payload: Counts the bytes of event, exports and logs.
        worker_setup: The set-up of the workers.
        packages: The installed packages.
        exports: Exports by step so far, not redacted.
        first_refusals: The error of the first refused outbound call, by step.
        failed_calls: Messages about outbound calls without an answer, by step, without duplicates.
        watcher: Who watches the run.
        turn: The turn of a run of a limited workflow, or None.
        attempt: The attempt at the next step: 2 or more if the step was interrupted before.
        running_step: The step that a worker runs now, or None.
        end: The end of the run.
    """

    request: RunRequest
    workers: PooledRun
    record: RunRecord
    resolution: AccountResolution
    actions: StepActions
    payload: PayloadCounter
    worker_setup: RunSetup
    packages: PreparedPackages
    exports: dict[str, Mapping[str, JSON]]
    first_refusals: dict[str, OutboundCallRefusedError] = field(default_factory=dict)
    failed_calls: dict[str, list[str]] = field(default_factory=dict)
    watcher: RunWatcher = field(default_factory=RunWatcher)
    turn: QueueTurn | None = None
    attempt: int = 1
    running_step: str | None = None
    end: RunEnd = field(default_factory=RunEnd)
    _starting: asyncio.Lock = field(default_factory=asyncio.Lock)
    _confirmations: list[asyncio.Future[None]] = field(default_factory=list)

    @cached_property
    def prepared(self) -> PreparedWorkflow:
        """What the run needs of its workflow, and shares with the other runs."""
        return self.request.prepared

    def visible_exports(self, name: str) -> Mapping[str, Mapping[str, JSON]]:
        """Return the exports that the step or block *name* may read, by name, without those of sibling branches."""
        workflow = self.request.workflow
        if not workflow.blocks:
            return self.exports
        return {each: self.exports[each] for each in workflow.visible_names(name) if each in self.exports}

    async def allow_step(self) -> None:
        """Wait until all that must be on disk before the code of the next step starts is there. Raises as `RunRecord.flush`."""
        async with self._starting:  # branches start steps at the same time
            if self.turn is not None:
                await self.record.write_again(self.turn.record_start)
            await self.record.flush()
            # a run that is not recorded may have a turn in the journal, which others get after the end of the lease
            await self.record.wait_until_startable(self.turn.journal if self.turn is not None else None)

    def in_branch(self, workers: PooledRun) -> RunState:
        """Return the state of a branch that runs beside others, in *workers* of its own."""
        return replace(self, workers=workers, running_step=None)

    @property
    def on_step_begun(self) -> Callable[[], None] | None:
        """Called when the code of the next step has begun; None if no start of the run is counted."""
        turn = self.turn
        if turn is None or not turn.awaits_begin:
            return None
        return lambda: self._confirmations.append(asyncio.ensure_future(turn.confirm_start()))


def build_unexpected_error(fault: Exception) -> InternalError:
    """Return the error for a fault of pdkernel itself, such as a bug, or too little memory; the log has its details."""
    return InternalError(
        f"An unexpected error of pdkernel ended the run: {describe_fault(fault)} ({type(fault).__name__}).",
        fix="Read the server's log. When the cause is gone, replay the run.",
    )


_NOT_WRITTEN = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOENT})


def build_system_error(fault: OSError) -> InternalError:
    """Return the error for an error of the operating system outside of a step's code, mostly of the files of the run."""
    if fault.errno in _NOT_WRITTEN:
        return InternalError(
            f"The files of the run cannot be written: {fault.strerror}.",
            fix=f"Free space in {tempfile.gettempdir()}, or set TMPDIR to another folder.",
        )
    return InternalError(
        f"The operating system refused an operation of the run: {fault}.",
        fix="If the machine has too few files or processes, raise its limits (ulimit -n, ulimit -u), and run the event again.",
    )

"""
Steps with `--debug`: the engine's thread hands them to the kernel's main thread, where the debugger is.

Knows the two threads and how a value crosses between them. What a step finds around itself is known by `hosts.here`.
"""

from __future__ import annotations

import asyncio
import json
import queue
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pdkernel.errors import PdkernelError, StepError
from pdkernel.execution import Execution
from pdkernel.guests.python_pd import RefusedError
from pdkernel.hosts import WORKING, RunSetup, StepCall, StepListener, StepOutcome
from pdkernel.hosts.here import HereSteps, Voice
from pdkernel.hosts.recorder import StepRecorder
from pdkernel.hosts.replies import step_reply
from pdkernel.hosts.run import step_values
from pdkernel.model import Step
from pdkernel.notebook import Cell, placed
from pdkernel.packages import PythonEnvironment
from pdkernel.redaction import Redactor
from pdkernel.session.loop import Task

UNGUARDED = "With --debug the step's outside calls were made by the kernel itself: they are not listed, and each run makes them again."
_POLL_S = 0.5  # an interrupt of a wait without end is not seen on every platform


@dataclass(frozen=True)
class _Job:
    call: StepCall
    setup: RunSetup
    recorder: StepRecorder
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[StepError | None]


class KernelDebugger:
    """A `StepDebugger` for one notebook. Make it, and call `serve`, in the kernel's main thread."""

    def __init__(self) -> None:
        self._files: Mapping[str, str] = {}
        self._redactor = Redactor()
        self._jobs: queue.Queue[_Job | None] = queue.Queue()
        self._here = HereSteps()

    def prepare(
        self, steps: Iterable[Step], cells: Sequence[Cell], *, code_name: Callable[[str], str], redactor: Redactor
    ) -> None:
        """
        Get ready for a run.

        Args:
            steps: Those that it is to debug.
            cells: The notebook's.
            code_name: What the debugger calls a cell, by its text.
            redactor: Hides secrets in what `breakpoint()` shows.
        """
        sources = {place: cell.source for place, cell in placed(cells)}
        self._files = {step.name: code_name(sources[step.cell]) for step in steps if step.cell is not None}
        self._redactor = redactor

    async def run(self, call: StepCall, setup: RunSetup, listener: StepListener) -> StepOutcome:
        """Run *call* in the thread that serves, and wait."""
        loop = asyncio.get_running_loop()
        recorder = StepRecorder(listener)
        recorder.warn(UNGUARDED)
        job = _Job(call, setup, recorder, loop, loop.create_future())
        self._jobs.put(job)
        return recorder.outcome(await job.done)

    def serve(self, task: Task[Execution]) -> Execution:
        """Wait for *task*, and run here what it hands over; an interrupt cancels it."""
        task.on_end(lambda: self._jobs.put(None))
        try:
            while not task.done:
                try:
                    job = self._jobs.get(timeout=_POLL_S)
                except queue.Empty:
                    continue
                if job is not None:
                    self._work(job)
        except KeyboardInterrupt:
            task.cancel()
        return task.result()

    def _work(self, job: _Job) -> None:
        try:
            error = self._run(job)
        except KeyboardInterrupt:
            job.loop.call_soon_threadsafe(job.done.cancel)
            raise
        except BaseException as failure:  # noqa: BLE001 - ours: it goes to the run that waits
            job.loop.call_soon_threadsafe(_settle, job.done, failure)
        else:
            job.loop.call_soon_threadsafe(_settle, job.done, error)

    def _run(self, job: _Job) -> StepError | None:
        call, setup, tell = job.call, job.setup, job.loop.call_soon_threadsafe
        exports = {"trigger": setup.trigger, **call.steps}
        folder = setup.make_scratch() / WORKING
        folder.mkdir(mode=0o700, exist_ok=True)
        file = self._files.get(call.step.name, call.step.filename)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        return self._here.run(
            call.step,
            {"step": call.step.name, "file": file, **step_values(call, setup)},
            {name: json.dumps(value).encode() for name, value in exports.items()},
            variables=setup.variables,
            folder=folder,
            site=PythonEnvironment(setup.python, setup.python.parents[1]).site if setup.python else None,
            voice=Voice(
                send=lambda line: tell(job.recorder.hear, step_reply(line)),
                ask=lambda name, args: _answer(job, name, args),
                output=lambda stream, data: tell(job.recorder.output, stream, data),
                shown=self._redactor.text,
            ),
        )


def _settle(done: asyncio.Future[StepError | None], outcome: BaseException | None) -> None:
    if done.done():
        return
    if outcome is None or isinstance(outcome, StepError):
        done.set_result(outcome)
    else:
        done.set_exception(outcome)


def _answer(job: _Job, name: str, args: dict[str, Any]) -> Any:
    services = job.call.services
    if services is None:
        raise RefusedError({"message": f"{name} cannot be asked for here."})
    try:
        # through JSON, as from a process: what a service keeps is not what the step goes on changing
        return asyncio.run_coroutine_threadsafe(services.answer(name, json.loads(json.dumps(args))), job.loop).result()
    except PdkernelError as error:
        told = {"name": getattr(error, "name", type(error).__name__), "message": error.message}
        raise RefusedError({**told, "code": error.code, "fix": error.fix}) from None

"""
Steps with `--debug`: the engine's thread hands them to the kernel's main thread, where the debugger works.

The step's surroundings are set up by `workers.in_kernel`.
"""

from __future__ import annotations

import asyncio
import json
import queue
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pdkernel.common.loop_thread import ThreadTask
from pdkernel.common.redaction import Redactor
from pdkernel.errors import PdkernelError, StepError
from pdkernel.execution import Execution
from pdkernel.files.notebook import NotebookCell, enumerate_cells
from pdkernel.model import Step
from pdkernel.packages import PythonEnvironment
from pdkernel.runtimes.python.step_api import RefusedError
from pdkernel.workers import RunSetup, StepCall, StepOutcome, StepRecorder
from pdkernel.workers.calls import build_step_input
from pdkernel.workers.in_kernel import InKernelRunner, StepChannel
from pdkernel.workers.replies import decode_step_reply

UNGUARDED_CALLS_WARNING = "With --debug the kernel made the step's outbound calls itself: pdkernel does not list them, and each run repeats them."
_POLL_S = 0.5  # an endless wait cannot be interrupted on every platform


@dataclass(frozen=True)
class _Job:
    call: StepCall
    setup: RunSetup
    folder: str
    recorder: StepRecorder
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[StepError | None]


class KernelDebugger:
    """A `run_request.StepDebugger` for one notebook. Construct it and call `run_in_main_thread` in the kernel's main thread."""

    def __init__(self) -> None:
        self._files: Mapping[str, str] = {}
        self._jobs: queue.Queue[_Job | None] = queue.Queue()
        self._kernel_steps = InKernelRunner()

    def prepare(
        self,
        steps: Iterable[Step],
        cells: Sequence[NotebookCell],
        *,
        debug_filename: Callable[[str], str],
    ) -> None:
        """
        Prepare the debugger for a run.

        Args:
            steps: The steps to debug.
            cells: The notebook's cells.
            debug_filename: Returns the debugger's file name for a cell's text.
        """
        sources = {index: cell.source for index, cell in enumerate_cells(cells)}
        self._files = {
            step.name: debug_filename(sources[step.cell_index]) for step in steps if step.cell_index is not None
        }

    async def run_step(self, call: StepCall, setup: RunSetup, folder: str, recorder: StepRecorder) -> StepOutcome:
        """Run *call* in the kernel's main thread, with the working *folder*, and wait for the outcome."""
        loop = asyncio.get_running_loop()
        recorder.warn(UNGUARDED_CALLS_WARNING)
        job = _Job(call, setup, folder, recorder, loop, loop.create_future())
        self._jobs.put(job)
        return recorder.outcome(await job.done)

    def run_in_main_thread(self, task: ThreadTask[Execution]) -> Execution:
        """Wait for *task* and run its debugged steps in this thread; an interrupt cancels *task*."""
        task.add_done_callback(lambda: self._jobs.put(None))
        try:
            while not task.done:
                try:
                    job = self._jobs.get(timeout=_POLL_S)
                except queue.Empty:
                    continue
                if job is not None:
                    self._execute_job(job)
        except KeyboardInterrupt:
            task.cancel()
        return task.result()

    def _execute_job(self, job: _Job) -> None:
        try:
            error = self._run(job)
        except KeyboardInterrupt:
            job.loop.call_soon_threadsafe(job.done.cancel)
            raise
        except BaseException as failure:  # noqa: BLE001 - passed on to the waiting run
            job.loop.call_soon_threadsafe(_resolve_future, job.done, failure)
        else:
            job.loop.call_soon_threadsafe(_resolve_future, job.done, error)

    def _run(self, job: _Job) -> StepError | None:
        call, setup, call_soon = job.call, job.setup, job.loop.call_soon_threadsafe
        exports = {"trigger": setup.trigger, **call.steps}
        file = self._files.get(call.step.name, call.step.filename)
        files = {"files": dict(call.step.files)} if call.step.files else {}

        def redact(text: str) -> str:
            redactor: Redactor = call.call_context.redactor  # another one when the step has got other secrets
            return redactor.redact_text(text)

        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        return self._kernel_steps.run_step(
            call.step,
            {"step": call.step.name, "file": file, **files, **build_step_input(call, setup)},
            {name: json.dumps(value).encode() for name, value in exports.items()},
            variables=setup.variables,
            folder=job.folder,
            site_packages=PythonEnvironment(setup.python, setup.python.parents[1]).site if setup.python else None,
            channel=StepChannel(
                send_line=lambda line: call_soon(job.recorder.add_reply, decode_step_reply(line)),
                call_services=lambda name, args: _call_service(job, name, args),
                on_output=lambda stream, data: call_soon(job.recorder.output, stream, data),
                redact=redact,
            ),
        )


def _resolve_future(done: asyncio.Future[StepError | None], outcome: BaseException | None) -> None:
    if done.done():
        return
    if outcome is None or isinstance(outcome, StepError):
        done.set_result(outcome)
    else:
        done.set_exception(outcome)


def _call_service(job: _Job, name: str, args: dict[str, Any]) -> Any:
    services = job.call.services
    if services is None:
        raise RefusedError({"message": f"{name} is not available to this step."})
    try:
        # Copied through JSON, as from a worker: the step may go on changing its arguments.
        return asyncio.run_coroutine_threadsafe(services.call(name, json.loads(json.dumps(args))), job.loop).result()
    except PdkernelError as error:
        details = {"name": getattr(error, "name", type(error).__name__), "message": error.message}
        raise RefusedError({**details, "code": error.code, "fix": error.fix}) from None

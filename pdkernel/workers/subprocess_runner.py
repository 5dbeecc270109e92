"""
Runs the Bash and Go steps of one run, each in its own process, with its data in files.

A step is compiled (Go), its files are written, the process runs, and its exports are read from the files.
"""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

from pdkernel.errors import StepError, StepProcessExitedError
from pdkernel.model import Step
from pdkernel.workers.calls import RunSetup, StepCall
from pdkernel.workers.child_process import ChildProcess, ProcessRequest
from pdkernel.workers.environment import step_environment
from pdkernel.workers.go_build import GoBuildCache
from pdkernel.workers.go_errors import parse_panic
from pdkernel.workers.interpreters import find_bash
from pdkernel.workers.isolation import IsolationPlan, change_owner
from pdkernel.workers.memory_watch import MemoryWatch
from pdkernel.workers.process_memory import BYTES_PER_MB
from pdkernel.workers.protocols import OutboundGateway
from pdkernel.workers.recorder import StepRecorder
from pdkernel.workers.slot import WorkerSlot
from pdkernel.workers.step_errors import ProcessLostError, build_process_not_started_error, build_timeout_error
from pdkernel.workers.subprocess_io import SubprocessIO
from pdkernel.workers.subprocess_step import SubprocessStep, ignore_exit_status
from pdkernel.workers.zygote import Zygotes

SUBPROCESS_LANGUAGES = frozenset({"bash", "go"})


class SubprocessRunner:
    """Runs the steps of one run, one at a time; `end_leftovers` then ends the processes that they left behind."""

    def __init__(
        self,
        setup: RunSetup,
        gateway: OutboundGateway | None,
        go_cache: GoBuildCache | None,
        zygotes: Zygotes | None = None,
    ) -> None:
        """
        Create a runner; it starts no process.

        Args:
            setup: The setup of the run.
            gateway: The gateway for outbound calls; with None, steps use the network directly.
            go_cache: Compiled Go steps; with None, this run compiles its own.
            zygotes: Start the processes; with None, this process starts them.
        """
        self._zygotes = zygotes
        self._setup = setup
        self._gateway = gateway
        self._go = go_cache
        self._running: SubprocessStep | None = None
        self._compiling: asyncio.Task[Path] | None = None
        self._finished_steps: list[SubprocessStep] = []
        self._leftovers: list[ChildProcess] = []

    async def run_step(
        self,
        call: StepCall,
        steps: bytes,
        folder: Path,
        recorder: StepRecorder,
        *,
        slot: WorkerSlot,
    ) -> StepError | None:
        """
        Run the step of *call* to its end, and return its error or None.

        Args:
            call: The step with its input.
            steps: The JSON text of `steps`.
            folder: The working folder.
            recorder: Receives what the step does.
            slot: The slot of the run, whose private `/tmp` is the working folder if there is one.

        Raises:
            InterpreterMissingError: The interpreter of the step's language is not installed.
            ProjectError: A Go step could not be compiled in the project's folder.
        """
        program = None
        if call.step.language == "go":
            try:
                program = await self._compiled(call, recorder, slot.folder)
            except StepError as fault:
                return fault
        files = SubprocessIO(slot.folder, steps, call.account_fields)
        try:
            if program is not None:
                create_step, command = partial(SubprocessStep, recorder, parse_panic), [str(program)]
            else:
                command, script = _prepare_bash_command(call.step, files.folder)
                create_step = partial(SubprocessStep, recorder, ignore_exit_status, script=script)
            change_owner(slot.plan, [files.folder, *files.folder.iterdir()])
            error = await self._run(create_step(), command, call, files, folder, recorder, plan=slot.plan)
            if isinstance(error, ProcessLostError):
                error = await self._run(create_step(), command, call, files, folder, recorder, plan=slot.plan)
            not_json = files.collect(recorder)
            return error or not_json
        finally:
            files.remove()

    def fail_step(self, error: StepError) -> None:
        """Make the active `run_step` return with *error*."""
        if self._running is not None:
            self._running.fail(error)

    def kill(self) -> None:
        """End the processes of the running step at once, including the compiler, and what earlier steps left behind."""
        if self._compiling is not None:
            self._compiling.cancel()
        if self._running is not None:
            self._running.kill()
        for step in self._finished_steps:
            if step is not self._running and step.child is not None:
                step.child.kill()

    def close_finished_steps(self) -> bool:
        """Forget the steps whose processes have all ended; return whether others left processes behind."""
        self._leftovers = []
        for step in self._finished_steps:
            if step.child is not None and step.child.has_leftovers:
                self._leftovers.append(step.child)
            elif step.child is not None:
                step.child.kill()
        self._finished_steps = []
        return bool(self._leftovers)

    async def end_leftovers(self) -> None:
        """End the processes that `close_finished_steps` found."""
        for child in self._leftovers:
            await child.end_leftovers()
        self._leftovers = []

    async def _compiled(self, call: StepCall, recorder: StepRecorder, folder: Path) -> Path:
        self._go = self._go or GoBuildCache(folder / "go", lock=folder / "go.mod")
        self._compiling = asyncio.ensure_future(
            self._go.build_program(
                call.step,
                install=self._setup.install,
                report_progress=recorder.report_progress,
                lock=self._setup.go_lock,
            )
        )
        try:
            await asyncio.wait([self._compiling])
            if self._compiling.cancelled():  # by `kill`; if this task were cancelled, `wait` would raise
                raise StepProcessExitedError("The step was stopped.", name="Stopped")
            return self._compiling.result()
        except asyncio.CancelledError:
            self._compiling.cancel()
            await asyncio.wait([self._compiling])
            raise
        finally:
            self._compiling = None

    async def _run(
        self,
        step: SubprocessStep,
        command: list[str],
        call: StepCall,
        files: SubprocessIO,
        folder: Path,
        recorder: StepRecorder,
        *,
        plan: IsolationPlan,
    ) -> StepError | None:
        gateway = self._gateway
        token = gateway.issue_token(public_only=self._setup.public_only) if gateway else None
        loop = asyncio.get_running_loop()
        timer = loop.call_later(call.timeout_s, lambda: step.fail(build_timeout_error(call.timeout_s)))
        watch, began = None, loop.time()
        self._running = step
        self._finished_steps.append(step)
        try:
            gateway_variables = {}
            if gateway and token:
                gateway_variables = gateway.build_environment(token, call.step.language)
                if call.call_context is not None:
                    gateway.bind(token, call.call_context)
            environment = step_environment(
                folder, step.process_tag, variables=self._setup.variables, gateway_variables=gateway_variables
            )
            request = ProcessRequest(
                command,
                environment | files.environment,
                step.process_tag,
                folder=str(folder),
                plan=plan,
                sandboxed_by=gateway if self._setup.is_sandboxed else None,
                caller_token=token or "",
            )
            try:
                child = step.start(request, self._zygotes.get() if self._zygotes else None)
            except OSError as refusal:
                return build_process_not_started_error(f"{type(refusal).__name__}: {refusal}")
            watch = MemoryWatch(child, call.memory_limit_mb, step.fail)
            error = await step.finished
            if error is not None:
                step.kill()
        finally:
            timer.cancel()
            if watch is not None:
                watch.close()
                recorder.set_usage(seconds=loop.time() - began, memory_mb=watch.peak_bytes / BYTES_PER_MB)
            self._running = None
            step.close()
            if gateway and token:
                gateway.unbind(token)
                gateway.revoke_token(token)
        return error or watch.error


def _prepare_bash_command(step: Step, folder: Path) -> tuple[list[str], Path]:
    """
    Write the script of *step* into *folder*; return the command that runs it, and the path of the script.

    Raises:
        InterpreterMissingError: Bash is not installed.
    """
    script = folder / f"{step.name}.sh"
    # blank lines above the source: Bash then reports the line numbers of the cell
    script.write_text("\n" * step.line_offset + step.source, encoding="utf-8", errors="replace")
    return [str(find_bash()), "--noprofile", "--norc", str(script)], script

"""
Runs the Bash and Go steps of one run, each in its own process, with its data in files.

A step is compiled (Go), its files are written, the process runs, all processes that it started end, and its exports are read from the
files.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from pdkernel.errors import StepError, StepProcessExitedError
from pdkernel.model import Step
from pdkernel.workers.calls import RunSetup, StepCall
from pdkernel.workers.child_process import ProcessRequest
from pdkernel.workers.environment import step_environment
from pdkernel.workers.go_build import GoBuildCache
from pdkernel.workers.go_errors import parse_panic
from pdkernel.workers.interpreters import find_bash
from pdkernel.workers.memory_watch import MemoryWatch
from pdkernel.workers.process_memory import BYTES_PER_MB
from pdkernel.workers.protocols import OutboundGateway
from pdkernel.workers.recorder import StepRecorder
from pdkernel.workers.slot_folder import SlotFolder, StepFiles
from pdkernel.workers.step_errors import (
    STARTED_AGAIN_NOTE,
    ProcessLostError,
    build_process_not_started_error,
    build_still_running_error,
    build_timeout_error,
)
from pdkernel.workers.step_timer import StepTimer
from pdkernel.workers.subprocess_io import SubprocessIO
from pdkernel.workers.subprocess_step import SubprocessStep, ignore_exit_status
from pdkernel.workers.zygote import Zygotes

SUBPROCESS_LANGUAGES = frozenset({"bash", "go"})


class SubprocessRunner:
    """Runs the steps of one run, one at a time. No process of a step outlives the step."""

    def __init__(
        self,
        setup: RunSetup,
        gateway: OutboundGateway | None,
        go_cache: GoBuildCache,
        zygotes: Zygotes | None = None,
    ) -> None:
        """
        Create a runner; it starts no process.

        Args:
            setup: The setup of the run.
            gateway: The gateway for outbound calls; with None, steps use the network directly.
            go_cache: Compiled Go steps.
            zygotes: Start the processes; with None, this process starts them.
        """
        self._zygotes = zygotes
        self._setup = setup
        self._gateway = gateway
        self._go = go_cache
        self._running: SubprocessStep | None = None
        self._compiling: asyncio.Task[Path] | None = None

    async def run_step(
        self, call: StepCall, steps: bytes, working_folder: str, recorder: StepRecorder, *, slot_folder: SlotFolder
    ) -> StepError | None:
        """
        Run the step of *call* to its end, and return its error or None.

        Args:
            call: The step with its input.
            steps: The JSON text of `steps`.
            working_folder: The path of the working folder, as the step sees it.
            recorder: Receives what the step does.
            slot_folder: The folder of the slot of the run.

        Raises:
            InterpreterMissingError: The interpreter of the step's language is not installed.
            ProjectError: A Go step could not be compiled in the project's folder.
        """
        program = None
        if call.step.language == "go":
            try:
                program = await self._compiled(call, recorder)
            except StepError as fault:
                return fault
        with contextlib.ExitStack() as opened:
            try:
                files = slot_folder.create_step_files()
                opened.callback(files.remove)
                results = SubprocessIO(files, steps, call.account_fields)
                if program is not None:
                    create_step, command = partial(SubprocessStep, recorder, parse_panic), [str(program)]
                else:
                    command = _prepare_bash_command(call.step, files)
                    create_step = partial(SubprocessStep, recorder, ignore_exit_status, script_folder=files.path)
                files.give_to_step()
            except OSError as refusal:  # such as a full disk, or a process of an earlier step that nothing has ended
                return build_process_not_started_error(f"its files could not be created ({refusal.strerror})")
            environment = results.environment
            error = await self._run(create_step(), command, call, files, environment, working_folder, recorder)
            if isinstance(error, ProcessLostError):
                recorder.add_note(f"{error.message} {STARTED_AGAIN_NOTE}")
                error = await self._run(create_step(), command, call, files, environment, working_folder, recorder)
            not_valid = results.collect(recorder)
            return error or not_valid

    def fail_step(self, error: StepError) -> None:
        """Make the active `run_step` return with *error*."""
        if self._running is not None:
            self._running.fail(error)

    def kill(self) -> None:
        """End the processes of the running step at once, including the compiler."""
        if self._compiling is not None:
            self._compiling.cancel()
        if self._running is not None:
            self._running.kill()

    async def _compiled(self, call: StepCall, recorder: StepRecorder) -> Path:
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
        files: StepFiles,
        variables: Mapping[str, str],
        working_folder: str,
        recorder: StepRecorder,
    ) -> StepError | None:
        gateway = self._gateway
        token = gateway.issue_token(public_only=self._setup.public_only) if gateway else None
        loop = asyncio.get_running_loop()
        timer = StepTimer(call.timeout_s, lambda: step.fail(build_timeout_error(call.timeout_s)))
        watch, began = None, loop.time()
        self._running = step
        try:
            gateway_variables = {}
            if gateway and token:
                gateway_variables = gateway.build_environment(token, call.step.language)
                if call.call_context is not None:
                    gateway.bind(token, call.call_context)
            environment = step_environment(
                working_folder, step.process_tag, variables=self._setup.variables, gateway_variables=gateway_variables
            )
            request = ProcessRequest(
                command,
                environment | dict(variables),
                step.process_tag,
                folder=working_folder,
                plan=files.plan,
                sandboxed_by=gateway if self._setup.is_sandboxed else None,
                caller_token=token or "",
            )
            try:
                child = step.start(request, self._zygotes.get() if self._zygotes else None)
            except OSError as refusal:
                return build_process_not_started_error(f"{type(refusal).__name__}: {refusal}")
            watch = MemoryWatch(child, call.memory_limit_mb, step.fail)
            error = await step.finished
            if not await child.end_processes():
                error = build_still_running_error()
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


def _prepare_bash_command(step: Step, files: StepFiles) -> list[str]:
    """
    Write the script of *step* into *files*; return the command that runs it.

    Raises:
        InterpreterMissingError: Bash is not installed.
    """
    # blank lines above the source: Bash then reports the line numbers of the cell
    text = "\n" * step.line_offset + step.source
    script = files.write(f"{step.name}.sh", text.encode("utf-8", "replace"))
    return [str(find_bash()), "--noprofile", "--norc", script]

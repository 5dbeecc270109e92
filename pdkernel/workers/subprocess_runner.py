"""
The Bash and Go steps of one run: each its own process, with its data in files.

Knows the order of things in such a step's life: compile, lay out the files, start, wait, collect, remove.
"""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

from pdkernel.errors import StepError, StepProcessExitedError
from pdkernel.runtimes import process_tree
from pdkernel.workers.bash import prepare_bash_command
from pdkernel.workers.calls import RunSetup, StepCall
from pdkernel.workers.environment import step_environment
from pdkernel.workers.go_build import GoBuildCache
from pdkernel.workers.go_errors import parse_panic
from pdkernel.workers.memory_watch import BYTES_PER_MB, MemoryWatch
from pdkernel.workers.private_tmp import PrivateTmp
from pdkernel.workers.protocols import OutboundGateway
from pdkernel.workers.recorder import StepRecorder
from pdkernel.workers.step_errors import build_timeout_error
from pdkernel.workers.subprocess_io import SubprocessIO
from pdkernel.workers.subprocess_step import SubprocessStep, ignore_exit_status

SUBPROCESS_LANGUAGES = frozenset({"bash", "go"})


class SubprocessRunner:
    """Runs the steps of one run, one at a time; afterwards, `end_leftovers` ends what they have left behind."""

    def __init__(self, setup: RunSetup, gateway: OutboundGateway | None, go_cache: GoBuildCache | None) -> None:
        """
        Nothing is started.

        Args:
            setup: The run's.
            gateway: The way out for steps; None leaves them their own.
            go_cache: Compiled steps; None compiles those of this run alone.
        """
        self._setup = setup
        self._gateway = gateway
        self._go = go_cache or GoBuildCache(setup.scratch_folder / "go", lock=setup.scratch_folder / "go.mod")
        self._running: SubprocessStep | None = None
        self._compiling: asyncio.Task[Path] | None = None
        self._finished_steps: list[SubprocessStep] = []

    async def run_step(
        self,
        call: StepCall,
        steps: bytes,
        folder: Path,
        recorder: StepRecorder,
        *,
        private_tmp: PrivateTmp | None = None,
    ) -> StepError | None:
        """
        Run the step of *call* to its end; returns why it failed.

        Args:
            call: What to run.
            steps: The JSON text of `steps`.
            folder: The working folder.
            recorder: Is told what the step does.
            private_tmp: The run's own `/tmp`, which is then the working folder.

        Raises:
            InterpreterMissingError: The step's language is not on this machine.
            ProjectError: A Go step cannot be compiled in the project's folder.
        """
        program = None
        if call.step.language == "go":
            try:
                program = await self._compiled(call, recorder)
            except StepError as fault:
                return fault
        files = SubprocessIO(self._setup.ensure_scratch_folder(), steps, call.account_fields)
        try:
            if program is not None:
                step, command = SubprocessStep(recorder, parse_panic), [str(program)]
            else:
                command, script = prepare_bash_command(call.step, files.folder)
                step = SubprocessStep(recorder, ignore_exit_status, script=script)
            error = await self._run(
                step, private_tmp.wrap_command(command) if private_tmp else command, call, files, folder, recorder
            )
            not_json = files.collect(recorder)
            return error or not_json
        finally:
            files.remove()

    def fail_step(self, error: StepError) -> None:
        """Make the running `run` return with *error*."""
        if self._running is not None:
            self._running.fail(error)

    def kill(self) -> None:
        """End the running step's processes at once, the compiler's too."""
        if self._compiling is not None:
            self._compiling.cancel()
        if self._running is not None:
            self._running.kill()

    @property
    def has_leftovers(self) -> bool:
        """Whether steps may have left something behind."""
        return bool(self._finished_steps)

    async def end_leftovers(self) -> None:
        """End what steps have left behind."""
        await asyncio.to_thread(process_tree.kill_processes, [], [step.process_tag for step in self._finished_steps])
        for step in self._finished_steps:
            step.unregister_leftovers()
        self._finished_steps = []

    async def _compiled(self, call: StepCall, recorder: StepRecorder) -> Path:
        self._compiling = asyncio.ensure_future(
            self._go.build_program(call.step, install=self._setup.install, report_progress=recorder.report_progress)
        )
        try:
            await asyncio.wait([self._compiling])
            if self._compiling.cancelled():  # by `kill`; had our task been cancelled, `wait` would have raised
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
    ) -> StepError | None:
        gateway = self._gateway
        ticket = gateway.issue_token(public_only=self._setup.public_only) if gateway else None
        loop = asyncio.get_running_loop()
        timer = loop.call_later(call.timeout_s, lambda: step.fail(build_timeout_error(call.timeout_s)))
        watch, began = None, loop.time()
        self._running = step
        self._finished_steps.append(step)
        try:
            outside = {}
            if gateway and ticket:
                outside = gateway.build_environment(ticket, call.step.language)
                if call.call_context is not None:
                    gateway.bind(ticket, call.call_context)
            environment = step_environment(
                folder, step.process_tag, variables=self._setup.variables, gateway_variables=outside
            )
            launch = (
                partial(gateway.start_sandboxed, ticket) if self._setup.is_sandboxed and gateway and ticket else None
            )
            step.start(command, folder, environment | files.environment, launch)
            watch = MemoryWatch(step.pid, call.memory_limit_mb, step.fail)
            error = await step.finished
            if error is not None:
                step.kill()
            return error
        finally:
            timer.cancel()
            if watch is not None:
                watch.close()
                recorder.set_usage(seconds=loop.time() - began, memory_mb=watch.peak_bytes / BYTES_PER_MB)
            self._running = None
            step.close()
            if gateway and ticket:
                gateway.unbind(ticket)
                gateway.revoke_token(ticket)

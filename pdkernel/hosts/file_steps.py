"""
The Bash and Go steps of one run: each its own process, with its data in files.

Knows the order of things in such a step's life: compile, lay out the files, start, wait, collect, remove.
"""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

from pdkernel.errors import StepDiedError, StepError
from pdkernel.guests import process_tree
from pdkernel.hosts.bash import bash_command
from pdkernel.hosts.calls import RunSetup, StepCall
from pdkernel.hosts.environment import step_environment
from pdkernel.hosts.faults import timed_out
from pdkernel.hosts.file_step import FileStep, no_error
from pdkernel.hosts.go import GoPrograms
from pdkernel.hosts.go_faults import panic
from pdkernel.hosts.private_tmp import PrivateTmp
from pdkernel.hosts.protocols import OutsideCalls
from pdkernel.hosts.recorder import StepRecorder
from pdkernel.hosts.step_files import StepFiles
from pdkernel.hosts.usage import MB, MemoryWatch

FILE_LANGUAGES = frozenset({"bash", "go"})


class FileSteps:
    """Runs the steps of one run, one at a time; afterwards, `release` ends what they have left behind."""

    def __init__(self, setup: RunSetup, gateway: OutsideCalls | None, go: GoPrograms | None) -> None:
        """
        Nothing is started.

        Args:
            setup: The run's.
            gateway: The way out for steps; None leaves them their own.
            go: Compiled steps; None compiles those of this run alone.
        """
        self._setup = setup
        self._gateway = gateway
        self._go = go or GoPrograms(setup.scratch / "go", lock=setup.scratch / "go.mod")
        self._running: FileStep | None = None
        self._compiling: asyncio.Task[Path] | None = None
        self._left: list[FileStep] = []

    async def run(
        self, call: StepCall, steps: bytes, folder: Path, recorder: StepRecorder, *, tmp: PrivateTmp | None = None
    ) -> StepError | None:
        """
        Run the step of *call* to its end; returns why it failed.

        Args:
            call: What to run.
            steps: The JSON text of `steps`.
            folder: The working folder.
            recorder: Is told what the step does.
            tmp: The run's own `/tmp`, which is then the working folder.

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
        files = StepFiles(self._setup.make_scratch(), steps, call.auth)
        try:
            if program is not None:
                step, command = FileStep(recorder, panic), [str(program)]
            else:
                command, script = bash_command(call.step, files.folder)
                step = FileStep(recorder, no_error, script=script)
            error = await self._run(step, tmp.command(command) if tmp else command, call, files, folder, recorder)
            not_json = files.collect(recorder)
            return error or not_json
        finally:
            files.remove()

    def end(self, error: StepError) -> None:
        """Make the running `run` return with *error*."""
        if self._running is not None:
            self._running.end(error)

    def kill(self) -> None:
        """End the running step's processes at once, the compiler's too."""
        if self._compiling is not None:
            self._compiling.cancel()
        if self._running is not None:
            self._running.kill()

    @property
    def has_left(self) -> bool:
        """Whether steps may have left something behind."""
        return bool(self._left)

    async def release(self) -> None:
        """End what steps have left behind."""
        await asyncio.to_thread(process_tree.end, [], [step.mark for step in self._left])
        for step in self._left:
            step.forget()
        self._left = []

    async def _compiled(self, call: StepCall, recorder: StepRecorder) -> Path:
        self._compiling = asyncio.ensure_future(
            self._go.program(call.step, install=self._setup.install, say=recorder.say)
        )
        try:
            await asyncio.wait([self._compiling])
            if self._compiling.cancelled():  # by `kill`; had our task been cancelled, `wait` would have raised
                raise StepDiedError("The step was stopped.", name="Stopped")
            return self._compiling.result()
        except asyncio.CancelledError:
            self._compiling.cancel()
            await asyncio.wait([self._compiling])
            raise
        finally:
            self._compiling = None

    async def _run(
        self,
        step: FileStep,
        command: list[str],
        call: StepCall,
        files: StepFiles,
        folder: Path,
        recorder: StepRecorder,
    ) -> StepError | None:
        gateway = self._gateway
        ticket = gateway.open_ticket(public_only=self._setup.public_only) if gateway else None
        loop = asyncio.get_running_loop()
        timer = loop.call_later(call.timeout_s, lambda: step.end(timed_out(call.timeout_s)))
        watch, began = None, loop.time()
        self._running = step
        self._left.append(step)
        try:
            outside = {}
            if gateway and ticket:
                outside = gateway.environment(ticket, call.step.language)
                if call.binding is not None:
                    gateway.bind(ticket, call.binding)
            environment = step_environment(folder, step.mark, variables=self._setup.variables, outside=outside)
            launch = partial(gateway.guarded, ticket) if self._setup.guarded and gateway and ticket else None
            step.start(command, folder, environment | files.environment, launch)
            watch = MemoryWatch(step.pid, call.memory_mb, step.end)
            error = await step.ended
            if error is not None:
                step.kill()
            return error
        finally:
            timer.cancel()
            if watch is not None:
                watch.close()
                recorder.used(seconds=loop.time() - began, memory_mb=watch.peak / MB)
            self._running = None
            step.close()
            if gateway and ticket:
                gateway.unbind(ticket)
                gateway.close_ticket(ticket)

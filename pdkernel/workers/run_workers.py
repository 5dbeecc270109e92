"""
Runs the steps of one run, each in the worker of its language.

It binds outbound calls to the step, sends the request, enforces limits, and replaces workers that the step left dirty.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, cast

from msgspec.structs import replace

from pdkernel.common.blocking import run_blocking
from pdkernel.common.encode import encode_json
from pdkernel.errors import StepError, StepProcessExitedError, UnsupportedError
from pdkernel.language.expression import Evaluation, evaluate_plain_paths
from pdkernel.model import JSON, Step
from pdkernel.workers.calls import (
    Determinism,
    RunSetup,
    SourceCall,
    SourceOutcome,
    StepCall,
    StepOutcome,
    build_step_input,
)
from pdkernel.workers.component_client import ComponentClient, find_error
from pdkernel.workers.declarations import ComponentDescription, ComponentFile, PropDeclaration, PropOptionsPage
from pdkernel.workers.go_build import GoBuildCache
from pdkernel.workers.interpreters import WorkerLanguage
from pdkernel.workers.isolation import TMP_FOLDER
from pdkernel.workers.process_memory import BYTES_PER_MB, MemoryWatch
from pdkernel.workers.protocols import OutboundGateway
from pdkernel.workers.recorder import StepRecorder
from pdkernel.workers.replies import Done, parse_evaluations
from pdkernel.workers.run_places import StepSequence
from pdkernel.workers.slot_cache import WorkerSlot
from pdkernel.workers.step_errors import STARTED_AGAIN_NOTE, ProcessLostError
from pdkernel.workers.step_exchange import StepExchange, WorkerGone, WorkerRequest, diagnose_exit
from pdkernel.workers.subprocess_runner import SUBPROCESS_LANGUAGES, SubprocessRunner
from pdkernel.workers.worker import Worker
from pdkernel.workers.zygote import Zygotes

CODE_STILL_RUNNING_WARNING = "Code of the step was still running when the step ended, and was stopped. Await every promise and join every thread."


class WorkerProvider(Protocol):
    """The methods of a worker pool that the workers of one run call."""

    @property
    def gateway(self) -> OutboundGateway | None:
        """The gateway for outbound calls, or None."""
        ...

    @property
    def go_cache(self) -> GoBuildCache:
        """Compiled Go steps."""
        ...

    @property
    def determinism(self) -> Determinism | None:
        """A fixed clock and fixed random numbers, or None."""
        ...

    @property
    def zygotes(self) -> Zygotes | None:
        """Start the processes, or None."""
        ...

    @property
    def active_runs(self) -> int:
        """The number of runs that execute."""
        ...

    def acquire_slot(self, setup: RunSetup) -> WorkerSlot:
        """Return a slot for a run of *setup*: a warm slot, else a new slot."""
        ...

    def acquire_warm_slot(self, setup: RunSetup) -> WorkerSlot | None:
        """Return a slot that is kept warm for the key of *setup*, or None."""
        ...

    def get_worker(self, slot: WorkerSlot, language: WorkerLanguage, *, variables: Collection[str] = ()) -> Worker:
        """Return the worker of *language* in *slot*: the warm worker, else a new worker."""
        ...

    def find_warm_worker(
        self, slot: WorkerSlot, language: WorkerLanguage, *, variables: Collection[str] = ()
    ) -> Worker | None:
        """Return the warm worker of *language* in *slot*, or None."""
        ...

    def release_slot(self, slot: WorkerSlot, *, is_clean: bool) -> None:
        """Keep *slot* for the next run of its key, or close it if it is not clean."""
        ...

    def discard_slot(self, slot: WorkerSlot) -> None:
        """Close *slot*, whose run has ended."""
        ...

    async def describe_component(
        self, component: ComponentFile, setup: RunSetup, *, timeout_s: float
    ) -> ComponentDescription:
        """Return what *component* declares, for a run of *setup* and all others; see `WorkerPool.describe_component`."""
        ...

    def open_branch(self, run: RunWorkers) -> None:
        """Add *run*, the workers of a branch."""
        ...

    def finish_run(self, run: RunWorkers) -> None:
        """Remove *run* from the runs that execute."""
        ...


class RunWorkers:
    """
    The workers of one run, started on demand. Runs one step at a time.

    Attributes:
        sequence: The steps that the workers run, with the run's place among those that execute.
    """

    def __init__(self, setup: RunSetup, pool: WorkerProvider, sequence: StepSequence) -> None:
        self.sequence = sequence
        self._setup = setup
        self._pool = pool
        self._slot: WorkerSlot | None = None
        self._texts: dict[str, tuple[object, bytes]] = {}
        self._active: StepExchange | SubprocessRunner | None = None
        self._subprocesses = SubprocessRunner(setup, pool.gateway, pool.go_cache, pool.zygotes)
        self._components = ComponentClient(
            self._exchange,
            setup,
            of_steps=lambda: self._acquired_slot.descriptions,
            describe_alone=lambda component, timeout_s: pool.describe_component(component, setup, timeout_s=timeout_s),
        )

    async def run_step(self, call: StepCall, recorder: StepRecorder) -> StepOutcome:
        """
        Run a step to its end, and return its outcome. *recorder* records the step while it runs.

        The outcome includes what the step did before a failure. If the task is cancelled, the step's processes end first.

        Raises:
            InterpreterMissingError: The interpreter of the step's language is not installed.
            ProjectError: A Go step could not be compiled in the project's folder.
            UnsupportedError: The step is a pre-built action, and *call* has no component.
        """
        step = call.step
        if step.uses and call.component is None:
            raise UnsupportedError(
                f"The pre-built action {step.uses} (step {step.name!r}) cannot run without its component.",
                step=step.name,
            )
        recorder.service_db = dict(call.service_db)
        if step.language in SUBPROCESS_LANGUAGES:
            if call.before_start:
                await call.before_start()
            error = await self._run_subprocess(call, recorder)
            if call.on_begun is not None:
                call.on_begun()
            return recorder.outcome(error)
        request = WorkerRequest(
            cast("WorkerLanguage", step.language),
            {"op": "run", **build_step_input(call, self._setup)},
            recorder,
            call.timeout_s,
            call.component or step,
            step.name,
            call.steps,
            call.call_context,
            call.memory_limit_mb,
            call.services,
            call.before_start,
            call.on_begun,
        )
        done = await self._exchange(request)
        return recorder.outcome(find_error(done))

    def prepare_steps(self, steps: Sequence[Step]) -> None:
        """
        Let warm workers prepare *steps* in parallel with other work.

        No code of the steps runs, and no process starts. While other runs execute, the workers prepare nothing, because
        preparing early does not shorten the runs.
        """
        if self._pool.active_runs > 1:
            return
        self._slot = self._slot or self._pool.acquire_warm_slot(self._setup)
        if self._slot is None:
            return
        languages: tuple[WorkerLanguage, ...] = ("python", "node")
        for language in languages:
            matching = [step for step in steps if step.language == language and not step.uses]
            worker = (
                self._pool.find_warm_worker(self._slot, language, variables=self._setup.variables) if matching else None
            )
            if worker is not None:
                request = {"op": "prepare", "texts": [], **self._begin(worker)}
                request["codes"] = [worker.build_code(step) for step in matching]
                worker.process.send(encode_json(request) + b"\n")

    async def describe(self, target: Step | ComponentFile, *, timeout_s: float = 30.0) -> ComponentDescription:
        """
        Return what a Node.js step or a component declares, without running it.

        Raises:
            StepError: The module cannot be evaluated, or has no default export.
            InterpreterMissingError: Node.js is not installed.
        """
        return await self._components.describe(target, timeout_s=timeout_s)

    async def describe_here(self, component: ComponentFile, *, timeout_s: float) -> ComponentDescription:
        """Return what *component* declares, as the process of this run finds it. Raises the errors of `describe`."""
        return await self._components.describe_here(component, timeout_s=timeout_s)

    async def options(self, target: Step | ComponentFile, prop: str, **choices: Any) -> PropOptionsPage:
        """Return a page of the options of *prop*; for the arguments see `ComponentClient.options`."""
        return await self._components.options(target, prop, **choices)

    async def additional_props(self, target: Step | ComponentFile, **choices: Any) -> tuple[PropDeclaration, ...]:
        """Return the props that values add or change; for the arguments see `ComponentClient.additional_props`."""
        return await self._components.additional_props(target, **choices)

    async def run_source(self, call: SourceCall, recorder: StepRecorder) -> SourceOutcome:
        """
        Run an event source, or one of its hooks, to its end.

        Raises:
            InterpreterMissingError: Node.js is not installed.
        """
        return await self._components.run_source(call, recorder)

    async def evaluate(
        self,
        expressions: Sequence[str],
        steps: Mapping[str, Mapping[str, JSON]],
        *,
        timeout_s: float = 30.0,
    ) -> list[Evaluation]:
        """
        Return the values of JavaScript *expressions*, in order. If an expression fails, the others are still evaluated.

        Their scope: `steps`, `event` (`steps.trigger.event`), `process.env` (the workflow's variables), and
        JavaScript's own globals. If all are plain paths, no Node.js worker is needed.

        Raises:
            StepError: The expressions took longer than *timeout_s*, or ended the process.
            InterpreterMissingError: Node.js is not installed.
        """
        values: dict[str, object] = {"trigger": self._setup.trigger, **steps}
        plain = evaluate_plain_paths(expressions, values, self._setup.variables)
        if plain is not None:
            return plain
        body = {"op": "evaluate", "expressions": list(expressions)}
        read = partial(parse_evaluations, count=len(expressions))
        done = await self._exchange(WorkerRequest("node", body, StepRecorder(), timeout_s, steps=steps, read=read))
        error = find_error(done)
        if error is not None:
            raise error
        assert isinstance(done, Done)
        return cast("list[Evaluation]", done.value)

    def open_branch(self, sequence: StepSequence) -> RunWorkers:
        """Return workers for a branch of the run that runs beside others, in the place of the run; `release` finishes them."""
        branch = RunWorkers(self._setup, self._pool, sequence)
        self._pool.open_branch(branch)
        return branch

    def prepare_tmp_outside(self) -> str:
        """
        Return the path of the working folder for code of the user that runs in this process, in a debugger.

        Raises:
            OSError: The folder cannot be created.
        """
        self._acquired_slot.folder.ensure_tmp()
        return self._acquired_slot.folder.working_folder_outside

    def fail_step(self, error: StepError) -> None:
        """Make the active `run_step` return with *error*; its worker is not reused."""
        if self._active is not None:
            self._active.fail_step(error)

    def kill(self) -> None:
        """End every process of the run at once; an active `run_step` returns with `StepProcessExitedError`."""
        if self._active is not None:
            self._active.fail_step(StepProcessExitedError("The step was stopped.", name="Stopped"))
        for worker in self._slot.workers.values() if self._slot is not None else ():
            worker.kill()
        self._subprocesses.kill()

    def discard(self) -> None:
        """Finish the run, and end its processes: no other run uses them."""
        self.kill()
        slot, self._slot = self._slot, None
        if slot is not None:
            self._pool.discard_slot(slot)
        self._pool.finish_run(self)

    async def release(self) -> None:
        """
        Finish the run, even if the caller is cancelled: end what is not clean, and remove the files of the run.

        Clean workers are kept for the next run.
        """
        if self._active is not None:
            self.kill()
        if self._slot is not None:
            self._slot.end_run()
        if self._slot is None or self._slot.folder.is_empty():
            self._finish(is_clean=True)
        else:
            await asyncio.shield(self._clean_up(self._slot))

    async def _clean_up(self, slot: WorkerSlot) -> None:
        # in a thread: a disk under load takes milliseconds to remove files
        self._finish(is_clean=await run_blocking(slot.folder.clear))

    def _finish(self, *, is_clean: bool) -> None:
        slot, self._slot = self._slot, None
        if slot is not None:
            self._pool.release_slot(slot, is_clean=is_clean)
        self._pool.finish_run(self)

    async def _exchange(self, request: WorkerRequest) -> Done | StepError:
        """Exchange *request* with its worker; with another one if the first is killed before it begins."""
        done = await self._exchange_once(request)
        if isinstance(done, ProcessLostError):
            request.recorder.add_note(f"{done.message} {STARTED_AGAIN_NOTE}")
            done = await self._exchange_once(replace(request, before_start=None))
        return done

    async def _exchange_once(self, request: WorkerRequest) -> Done | StepError:
        """Return the worker's `done`, or the error of the step; `ProcessLostError` if no code of the step has run."""
        language, recorder, target = request.language, request.recorder, request.target
        worker = self._pool.get_worker(self._acquired_slot, language, variables=self._setup.variables)
        values: dict[str, object] = {"trigger": self._setup.trigger, **request.steps}
        body = {**request.body, **self._begin(worker)}
        exports = worker.build_exports(values)
        texts = [self._encode_value(name, values[name]) for name in exports["texts"]]
        if isinstance(target, ComponentFile):
            body |= worker.build_component(target, request.name)
        elif target is not None:
            body |= worker.build_code(target)
        body |= exports
        if request.before_start is not None:
            try:
                await request.before_start()
            except BaseException:  # the worker did not receive the values that are marked as sent
                self._acquired_slot.end_worker(language)
                raise
        exchange = self._active = StepExchange(worker, recorder, request.services, name=request.name, read=request.read)
        worker.bind(request.call_context)
        watch = MemoryWatch(worker.process.child, request.memory_limit_mb, exchange.fail_step)
        done: Done | None = None
        try:
            exchange.send(body, texts, timeout_s=request.timeout_s)
            if request.on_begun is not None:
                exchange.report_begin(request.on_begun)
            done = await exchange.reply
        except StepError as error:
            return error
        except WorkerGone:
            return await diagnose_exit(worker, recorder, has_begun=exchange.has_begun)
        finally:
            watch.close()
            worker.note_run_time(exchange.elapsed_s, is_limited=request.memory_limit_mb is not None)
            recorder.set_usage(seconds=exchange.elapsed_s, memory_mb=watch.peak_bytes / BYTES_PER_MB)
            exchange.close()
            self._active = None
            if done is None:  # with a `done`, its output was read before it
                worker.process.drain()
            worker.rest()
            worker.unbind()
            if not worker.is_healthy:
                self._acquired_slot.end_worker(language)
        if exchange.broken is not None:
            return exchange.broken
        if done.busy or worker.process.child.has_children():
            recorder.warn(CODE_STILL_RUNNING_WARNING)
            self._acquired_slot.end_worker(language)
        return watch.error or done

    def _begin(self, worker: Worker) -> dict[str, Any]:
        folder = self._folder()
        if worker.has_begun(self):
            return {}
        return worker.build_begin(
            self,
            **self._setup.build_worker_settings(),
            cwd=folder,
            fixed=self._pool.determinism.to_json() if self._pool.determinism else None,
            kept=[f"{TMP_FOLDER}/{name}/" for name in self._acquired_slot.plan.tmp_names],
        )

    async def _run_subprocess(self, call: StepCall, recorder: StepRecorder) -> StepError | None:
        values = {"trigger": self._setup.trigger, **call.steps}
        text = b",".join(encode_json(name) + b":" + self._encode_value(name, value) for name, value in values.items())
        self._active = self._subprocesses
        try:
            return await self._subprocesses.run_step(
                call, b"{" + text + b"}", self._folder(), recorder, slot_folder=self._acquired_slot.folder
            )
        finally:
            self._active = None

    @property
    def _acquired_slot(self) -> WorkerSlot:
        if self._slot is None:
            self._slot = self._pool.acquire_slot(self._setup)
        return self._slot

    def _encode_value(self, name: str, value: object) -> bytes:
        known = self._texts.get(name)
        if known is not None and known[0] is value:
            return known[1]
        text = encode_json(cast("JSON", value))
        self._texts[name] = (value, text)
        return text

    def _folder(self) -> str:
        """Return the path of the working folder as steps see it."""
        folder = self._acquired_slot.folder
        if not folder.plan.namespaces:  # otherwise, processes have it as /tmp, which they cannot remove
            # parity[temporary-folder]: without a private /tmp, a path /tmp/... is the system's folder, which no run empties
            folder.ensure_tmp()
        return folder.working_folder

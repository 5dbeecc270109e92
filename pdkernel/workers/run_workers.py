"""
Runs the steps of one run, each in the guest of its language.

Knows the order of things in a step's life: bind, ask, listen, time out, unbind, replace what is dirty.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from pdkernel.encode import encode_json
from pdkernel.errors import StepError, StepProcessExitedError, UnsupportedError
from pdkernel.model import JSON, Step
from pdkernel.workers.calls import WORKING_FOLDER_NAME, RunSetup, SourceCall, SourceOutcome, StepCall, StepOutcome
from pdkernel.workers.component_client import ComponentClient, NullListener, find_error
from pdkernel.workers.declarations import ComponentDescription, ComponentFile, PropDeclaration, PropOptionsPage
from pdkernel.workers.memory_watch import BYTES_PER_MB, MemoryWatch
from pdkernel.workers.private_tmp import TMP_FOLDER
from pdkernel.workers.protocols import StepListener, StepServices
from pdkernel.workers.recorder import StepRecorder
from pdkernel.workers.replies import Done, Evaluation, evaluations
from pdkernel.workers.slot import WorkerSlot
from pdkernel.workers.subprocess_runner import SUBPROCESS_LANGUAGES, SubprocessRunner
from pdkernel.workers.worker import StepExchange, Worker, WorkerGone, diagnose_exit
from pdkernel.workers.worker_command import WorkerLanguage

if TYPE_CHECKING:
    from pdkernel.workers.pool import WorkerPool

CODE_STILL_RUNNING_WARNING = (
    "Code was still running when the step ended. It was stopped: await every promise and join every thread."
)


class RunWorkers:
    """The processes of one run, started as they are needed. One step at a time."""

    def __init__(self, setup: RunSetup, pool: WorkerPool, *, holds_slot: bool = True) -> None:
        self.holds_slot = holds_slot
        self._setup = setup
        self._hosts = pool
        self._slot: WorkerSlot | None = None
        self._texts: dict[str, tuple[object, bytes]] = {}
        self._exchange: StepExchange | SubprocessRunner | None = None
        self._subprocesses = SubprocessRunner(setup, pool.gateway, pool.go_cache)
        self._components = ComponentClient(self._exchange_request, setup, description_cache=pool.descriptions)

    async def run_step(self, call: StepCall, listener: StepListener) -> StepOutcome:
        """
        Run a step to its end.

        What the step did before a failure is in the outcome. If the task is cancelled, the step's processes are ended
        first.

        Raises:
            InterpreterMissingError: The step's language is not on this machine.
            ProjectError: A Go step cannot be compiled in the project's folder.
            UnsupportedError: The step is a pre-built action.
        """
        step = call.step
        if step.uses and call.component is None:
            raise UnsupportedError(
                f"The pre-built action {step.uses} (step {step.name!r}) is run with its component only.", step=step.name
            )
        recorder = StepRecorder(listener, call.service_db)
        if step.language in SUBPROCESS_LANGUAGES:
            if call.before_start:
                await call.before_start()
            return recorder.outcome(await self._run_subprocess(call, recorder))
        request = {"op": "run", **build_step_input(call, self._setup)}
        done = await self._exchange_request(
            cast("WorkerLanguage", step.language),
            request,
            recorder,
            target=call.component or step,
            name=step.name,
            steps=call.steps,
            timeout_s=call.timeout_s,
            memory_mb=call.memory_limit_mb,
            binding=call.call_context,
            services=call.services,
            cleared=call.before_start,
        )
        return recorder.outcome(find_error(done))

    def prepare_steps(self, steps: Sequence[Step]) -> None:
        """
        Let warm processes make ready for *steps*, beside whatever else is done until their turn.

        Nothing of the steps' own code runs, and no process is started. Where other runs execute, each has enough to do
        meanwhile: it would be more work and nobody would have an answer sooner.
        """
        if self._hosts.active_runs > 1:
            return
        self._slot = self._slot or self._hosts.acquire_warm_slot(self._setup)
        if self._slot is None:
            return
        languages: tuple[WorkerLanguage, ...] = ("python", "node")
        for language in languages:
            mine = [step for step in steps if step.language == language and not step.uses]
            guest = self._hosts.find_warm_worker(self._slot, language, python=self._setup.python) if mine else None
            if guest is not None:
                request = {"op": "prepare", "texts": [], **self._begin(guest)}
                request["codes"] = [guest.build_code(step) for step in mine]
                guest.process.send(encode_json(request) + b"\n")

    async def describe(self, target: Step | ComponentFile, *, timeout_s: float = 30.0) -> ComponentDescription:
        """
        What the code of a Node.js step or a component declares, without running it.

        Raises:
            StepError: The module cannot be evaluated, or has no default export.
            InterpreterMissingError: There is no Node.js.
        """
        return await self._components.describe(target, timeout_s=timeout_s)

    async def options(self, target: Step | ComponentFile, prop: str, **choices: Any) -> PropOptionsPage:
        """A page of the options of *prop*; arguments as of `Components.options`."""
        return await self._components.options(target, prop, **choices)

    async def additional_props(self, target: Step | ComponentFile, **choices: Any) -> tuple[PropDeclaration, ...]:
        """The props that are added or changed by values; arguments as of `Components.additional_props`."""
        return await self._components.additional_props(target, **choices)

    async def run_source(self, call: SourceCall, listener: StepListener) -> SourceOutcome:
        """
        Run an event source, or a hook of it, to its end.

        Raises:
            InterpreterMissingError: There is no Node.js.
        """
        return await self._components.run_source(call, listener)

    async def evaluate(
        self,
        expressions: Sequence[str],
        steps: Mapping[str, Mapping[str, JSON]],
        *,
        timeout_s: float = 30.0,
    ) -> list[Evaluation]:
        """
        The values of JavaScript *expressions*, in order; one that fails does not stop the others.

        Their scope: `steps`, `event` (`steps.trigger.event`), `process.env` (the workflow's variables), and
        JavaScript's own globals.

        Raises:
            StepError: They took longer than *timeout_s*, or ended the process.
            InterpreterMissingError: There is no Node.js.
        """
        if not expressions:
            return []
        request = {"op": "evaluate", "expressions": list(expressions)}
        read = partial(evaluations, count=len(expressions))
        done = await self._exchange_request(
            "node", request, StepRecorder(NullListener()), steps=steps, timeout_s=timeout_s, read=read
        )
        error = find_error(done)
        if error is not None:
            raise error
        assert isinstance(done, Done)
        return cast("list[Evaluation]", done.value)

    def fail_step(self, error: StepError) -> None:
        """Make the running `run` return with *error*; its guest is not used again."""
        if self._exchange is not None:
            self._exchange.fail_step(error)

    def kill(self) -> None:
        """End every process of the run at once; a running `run` returns with `StepDiedError`."""
        if self._exchange is not None:
            self._exchange.fail_step(StepProcessExitedError("The step was stopped.", name="Stopped"))
        for guest in self._acquired_slot.workers.values() if self._slot is not None else ():
            guest.kill()
        self._subprocesses.kill()

    async def release(self) -> None:
        """The run is over: keep what is clean for the next one, end the rest, also if the caller is cancelled meanwhile."""
        if self._exchange is not None:
            self.kill()
        if self._subprocesses.has_leftovers:
            await asyncio.shield(self._release_files())
        else:
            self._release_slot()

    async def _release_files(self) -> None:
        await self._subprocesses.end_leftovers()
        self._release_slot()

    def _release_slot(self) -> None:
        if self._slot is not None:
            self._hosts.release_slot(self._slot)
            self._slot = None
        self._hosts.finish_run(self)

    async def _exchange_request(
        self,
        language: WorkerLanguage,
        request: dict[str, Any],
        recorder: StepRecorder,
        *,
        target: Step | ComponentFile | None = None,
        name: str = "",
        steps: Mapping[str, Mapping[str, JSON]] = MappingProxyType({}),
        timeout_s: float,
        binding: Any = None,
        memory_mb: int | None = None,
        services: StepServices | None = None,
        cleared: Callable[[], Awaitable[None]] | None = None,
        read: Callable[[JSON], Any] = lambda value: value,
    ) -> Done | StepError:
        guest = self._get_worker(language)
        values: dict[str, object] = {"trigger": self._setup.trigger, **steps}
        texts = {name: self._encode_value(name, value) for name, value in values.items()}
        request |= self._begin(guest)
        news = guest.take_unsent(values, texts)
        if isinstance(target, ComponentFile):
            request |= guest.build_component(target, name)
        elif target is not None:
            request |= guest.build_code(target)
        request["steps"] = list(texts)
        request["texts"] = news
        if cleared is not None:
            await self._await_before_start(cleared, guest)
        talk = self._exchange = StepExchange(guest, recorder, services, name=name, read=read)
        guest.bind(binding)
        watch = MemoryWatch(guest.process.pid, memory_mb, talk.fail_step)
        done: Done | None = None
        try:
            talk.send(request, [texts[name] for name in news], timeout_s=timeout_s)
            done = await talk.reply
        except StepError as error:
            return error
        except WorkerGone:
            return await diagnose_exit(guest, recorder)
        finally:
            watch.close()
            recorder.set_usage(seconds=talk.elapsed_s, memory_mb=watch.peak_bytes / BYTES_PER_MB)
            talk.close()
            self._exchange = None
            if done is None:  # else what it printed was read before it said so
                guest.process.drain()
            guest.rest()
            guest.unbind()
            if not guest.is_healthy:
                self._end_worker(guest)
        if talk.broken is not None:
            return talk.broken
        if done.busy or guest.process.has_children():
            recorder.warn(CODE_STILL_RUNNING_WARNING)
            self._end_worker(guest)
        return watch.error or done

    async def _await_before_start(self, cleared: Callable[[], Awaitable[None]], guest: Worker) -> None:
        try:
            await cleared()
        except BaseException:  # the guest was not told what it is taken to know by now
            self._end_worker(guest)
            raise

    def _begin(self, guest: Worker) -> dict[str, Any]:
        folder = self._folder()
        if guest.has_begun(self):
            return {}
        setup, tmp = self._setup, self._acquired_slot.private_tmp
        return guest.build_begin(
            self,
            variables=dict(setup.variables),
            folder=str(setup.import_folder),
            files=str(setup.file_store_folder) if setup.file_store_folder else None,
            cwd=folder,
            fixed=self._hosts.determinism.to_json() if self._hosts.determinism else None,
            kept=[f"{TMP_FOLDER}/{name}/" for name in tmp.visible_names] if tmp else [],
            packages={
                name: {"folder": str(tree.folder), "aliases": dict(tree.aliases)}
                for name, tree in setup.node_packages.items()
            },
        )

    async def _run_subprocess(self, call: StepCall, recorder: StepRecorder) -> StepError | None:
        values = {"trigger": self._setup.trigger, **call.steps}
        text = b",".join(encode_json(name) + b":" + self._encode_value(name, value) for name, value in values.items())
        self._exchange = self._subprocesses
        try:
            return await self._subprocesses.run_step(
                call, b"{" + text + b"}", self._folder(), recorder, private_tmp=self._acquired_slot.private_tmp
            )
        finally:
            self._exchange = None

    def _end_worker(self, guest: Worker) -> None:
        self._acquired_slot.end_worker(guest.language)

    def _get_worker(self, language: WorkerLanguage) -> Worker:
        return self._hosts.get_worker(self._acquired_slot, language, python=self._setup.python)

    @property
    def _acquired_slot(self) -> WorkerSlot:
        if self._slot is None:
            self._slot = self._hosts.acquire_slot(self._setup)
        return self._slot

    def _encode_value(self, name: str, value: object) -> bytes:
        known = self._texts.get(name)
        if known is not None and known[0] is value:
            return known[1]
        text = encode_json(cast("JSON", value))
        self._texts[name] = (value, text)
        return text

    def _folder(self) -> Path:
        """The working folder, as steps see it."""
        if self._acquired_slot.private_tmp is not None:
            return TMP_FOLDER
        # parity[temporary-folder]: a path that is written as /tmp/... is this machine's own here, which no run empties
        working = self._setup.scratch_folder / WORKING_FOLDER_NAME
        if not os.path.isdir(working):  # noqa: PTH112 - each time: a step may have removed it
            self._setup.ensure_scratch_folder()
            working.mkdir(mode=0o700, exist_ok=True)
        return working


def build_step_input(call: StepCall, setup: RunSetup) -> dict[str, Any]:
    """What a step's code is given, besides the exports of the steps above."""
    return {
        "props": dict(call.props),
        "auth": {prop: dict(fields) for prop, fields in call.account_fields.items()},
        "stores": dict(call.store_names),
        "context": {**cast("Mapping[str, JSON]", setup.trigger.get("context") or {}), **call.context},
        "flow": dict(call.flow_urls),
        "configured": [*call.step.props, *call.props],
        "db": dict(call.service_db),
    }

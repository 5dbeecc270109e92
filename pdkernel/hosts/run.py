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

from pdkernel.encode import json_bytes
from pdkernel.errors import StepDiedError, StepError, UnsupportedError
from pdkernel.hosts.calls import WORKING, RunSetup, SourceCall, SourceOutcome, StepCall, StepOutcome
from pdkernel.hosts.components import Components, Nobody, error_of
from pdkernel.hosts.declarations import ComponentFile, Description, OptionsPage, PropDeclaration
from pdkernel.hosts.file_steps import FILE_LANGUAGES, FileSteps
from pdkernel.hosts.guest import Guest, GuestGone, GuestTalk, autopsy
from pdkernel.hosts.languages import GuestLanguage
from pdkernel.hosts.place import Place
from pdkernel.hosts.private_tmp import TMP
from pdkernel.hosts.protocols import StepListener, StepServices
from pdkernel.hosts.recorder import StepRecorder
from pdkernel.hosts.replies import Done, Evaluation, evaluations
from pdkernel.hosts.usage import MB, MemoryWatch
from pdkernel.model import JSON, Step

if TYPE_CHECKING:
    from pdkernel.hosts.pool import Hosts

STILL_RUNNING = "Code was still running when the step ended. It was stopped: await every promise and join every thread."


class RunGuests:
    """The processes of one run, started as they are needed. One step at a time."""

    def __init__(self, setup: RunSetup, hosts: Hosts, *, counted: bool = True) -> None:
        self.counted = counted
        self._setup = setup
        self._hosts = hosts
        self._at: Place | None = None
        self._texts: dict[str, tuple[object, bytes]] = {}
        self._talk: GuestTalk | FileSteps | None = None
        self._files = FileSteps(setup, hosts.gateway, hosts.go)
        self._components = Components(self._ask, setup, known=hosts.descriptions)

    async def run(self, call: StepCall, listener: StepListener) -> StepOutcome:
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
        recorder = StepRecorder(listener, call.db)
        if step.language in FILE_LANGUAGES:
            if call.cleared:
                await call.cleared()
            return recorder.outcome(await self._run_on_files(call, recorder))
        request = {"op": "run", **step_values(call, self._setup)}
        done = await self._ask(
            cast("GuestLanguage", step.language),
            request,
            recorder,
            target=call.component or step,
            name=step.name,
            steps=call.steps,
            timeout_s=call.timeout_s,
            memory_mb=call.memory_mb,
            binding=call.binding,
            services=call.services,
            cleared=call.cleared,
        )
        return recorder.outcome(error_of(done))

    def prepare(self, steps: Sequence[Step]) -> None:
        """
        Let warm processes make ready for *steps*, beside whatever else is done until their turn.

        Nothing of the steps' own code runs, and no process is started. Where other runs execute, each has enough to do
        meanwhile: it would be more work and nobody would have an answer sooner.
        """
        if self._hosts.executing > 1:
            return
        self._at = self._at or self._hosts.enter_warm(self._setup)
        if self._at is None:
            return
        languages: tuple[GuestLanguage, ...] = ("python", "node")
        for language in languages:
            mine = [step for step in steps if step.language == language and not step.uses]
            guest = self._hosts.warm_guest(self._at, language, python=self._setup.python) if mine else None
            if guest is not None:
                request = {"op": "prepare", "texts": [], **self._begin(guest)}
                request["codes"] = [guest.code(step) for step in mine]
                guest.process.send(json_bytes(request) + b"\n")

    async def describe(self, target: Step | ComponentFile, *, timeout_s: float = 30.0) -> Description:
        """
        What the code of a Node.js step or a component declares, without running it.

        Raises:
            StepError: The module cannot be evaluated, or has no default export.
            InterpreterMissingError: There is no Node.js.
        """
        return await self._components.describe(target, timeout_s=timeout_s)

    async def options(self, target: Step | ComponentFile, prop: str, **choices: Any) -> OptionsPage:
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
        done = await self._ask("node", request, StepRecorder(Nobody()), steps=steps, timeout_s=timeout_s, read=read)
        error = error_of(done)
        if error is not None:
            raise error
        assert isinstance(done, Done)
        return cast("list[Evaluation]", done.value)

    def end_step(self, error: StepError) -> None:
        """Make the running `run` return with *error*; its guest is not used again."""
        if self._talk is not None:
            self._talk.end(error)

    def kill(self) -> None:
        """End every process of the run at once; a running `run` returns with `StepDiedError`."""
        if self._talk is not None:
            self._talk.end(StepDiedError("The step was stopped.", name="Stopped"))
        for guest in self._place.guests.values() if self._at is not None else ():
            guest.kill()
        self._files.kill()

    async def release(self) -> None:
        """The run is over: keep what is clean for the next one, end the rest, also if the caller is cancelled meanwhile."""
        if self._talk is not None:
            self.kill()
        if self._files.has_left:
            await asyncio.shield(self._release_files())
        else:
            self._leave()

    async def _release_files(self) -> None:
        await self._files.release()
        self._leave()

    def _leave(self) -> None:
        if self._at is not None:
            self._hosts.give_back(self._at)
            self._at = None
        self._hosts.leave(self)

    async def _ask(
        self,
        language: GuestLanguage,
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
        guest = self._guest(language)
        values: dict[str, object] = {"trigger": self._setup.trigger, **steps}
        texts = {name: self._text(name, value) for name, value in values.items()}
        request |= self._begin(guest)
        news = guest.news(values, texts)
        if isinstance(target, ComponentFile):
            request |= guest.component(target, name)
        elif target is not None:
            request |= guest.code(target)
        request["steps"] = list(texts)
        request["texts"] = news
        if cleared is not None:
            await self._wait_for(cleared, guest)
        talk = self._talk = GuestTalk(guest, recorder, services, name=name, read=read)
        guest.bind(binding)
        watch = MemoryWatch(guest.process.pid, memory_mb, talk.end)
        done: Done | None = None
        try:
            talk.ask(request, [texts[name] for name in news], timeout_s=timeout_s)
            done = await talk.reply
        except StepError as error:
            return error
        except GuestGone:
            return await autopsy(guest, recorder)
        finally:
            watch.close()
            recorder.used(seconds=talk.seconds, memory_mb=watch.peak / MB)
            talk.close()
            self._talk = None
            if done is None:  # else what it printed was read before it said so
                guest.process.drain()
            guest.rest()
            guest.unbind()
            if not guest.usable:
                self._end(guest)
        if talk.broken is not None:
            return talk.broken
        if done.busy or guest.process.has_children():
            recorder.warn(STILL_RUNNING)
            self._end(guest)
        return watch.error or done

    async def _wait_for(self, cleared: Callable[[], Awaitable[None]], guest: Guest) -> None:
        try:
            await cleared()
        except BaseException:  # the guest was not told what it is taken to know by now
            self._end(guest)
            raise

    def _begin(self, guest: Guest) -> dict[str, Any]:
        folder = self._folder()
        if guest.knows(self):
            return {}
        setup, tmp = self._setup, self._place.tmp
        return guest.begin(
            self,
            variables=dict(setup.variables),
            folder=str(setup.folder),
            files=str(setup.files) if setup.files else None,
            cwd=folder,
            fixed=self._hosts.fixed.to_json() if self._hosts.fixed else None,
            kept=[f"{TMP}/{name}/" for name in tmp.kept] if tmp else [],
            packages={
                name: {"folder": str(tree.folder), "aliases": dict(tree.aliases)}
                for name, tree in setup.node_packages.items()
            },
        )

    async def _run_on_files(self, call: StepCall, recorder: StepRecorder) -> StepError | None:
        values = {"trigger": self._setup.trigger, **call.steps}
        text = b",".join(json_bytes(name) + b":" + self._text(name, value) for name, value in values.items())
        self._talk = self._files
        try:
            return await self._files.run(call, b"{" + text + b"}", self._folder(), recorder, tmp=self._place.tmp)
        finally:
            self._talk = None

    def _end(self, guest: Guest) -> None:
        self._place.end(guest.language)

    def _guest(self, language: GuestLanguage) -> Guest:
        return self._hosts.guest(self._place, language, python=self._setup.python)

    @property
    def _place(self) -> Place:
        if self._at is None:
            self._at = self._hosts.enter(self._setup)
        return self._at

    def _text(self, name: str, value: object) -> bytes:
        known = self._texts.get(name)
        if known is not None and known[0] is value:
            return known[1]
        text = json_bytes(cast("JSON", value))
        self._texts[name] = (value, text)
        return text

    def _folder(self) -> Path:
        """The working folder, as steps see it."""
        if self._place.tmp is not None:
            return TMP
        # parity[temporary-folder]: a path that is written as /tmp/... is this machine's own here, which no run empties
        working = self._setup.scratch / WORKING
        if not os.path.isdir(working):  # noqa: PTH112 - each time: a step may have removed it
            self._setup.make_scratch()
            working.mkdir(mode=0o700, exist_ok=True)
        return working


def step_values(call: StepCall, setup: RunSetup) -> dict[str, Any]:
    """What a step's code is given, besides the exports of the steps above."""
    return {
        "props": dict(call.props),
        "auth": {prop: dict(fields) for prop, fields in call.auth.items()},
        "stores": dict(call.stores),
        "context": {**cast("Mapping[str, JSON]", setup.trigger.get("context") or {}), **call.context},
        "flow": dict(call.flow),
        "configured": [*call.step.props, *call.props],
        "db": dict(call.db),
    }

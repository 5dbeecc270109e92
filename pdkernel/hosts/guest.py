"""
A guest that can be asked: one request at a time, with the texts that it has not got.

Knows the protocol: a JSON line out (and one for each new export), lines back until `done`, each after the number of the
request. Knows what the guest was told already, so that a step's source and exports are sent once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import msgspec

from pdkernel.encode import json_bytes
from pdkernel.errors import ExportNotJSONError, InterpreterMissingError, PdkernelError, StepError
from pdkernel.execution import Stream
from pdkernel.hosts.declarations import ComponentFile
from pdkernel.hosts.environment import base_environment
from pdkernel.hosts.faults import died, timed_out
from pdkernel.hosts.languages import GuestLanguage
from pdkernel.hosts.process import GuestProcess
from pdkernel.hosts.protocols import OutsideCalls, StepServices
from pdkernel.hosts.recorder import StepRecorder
from pdkernel.hosts.replies import Ask, Done, Late, ReplyError, decode_reply, reason, refused
from pdkernel.model import JSON, Step

START_S = 30.0
"""How long a guest may take to come up on a busy machine; not the step's time."""

_READY = b'0 {"t":"ready"}'
_MOST_SOURCES = 500  # edits of cells; each leaves a few kilobytes in the guest


class Guest:
    """
    A process of one language and what it knows.

    Attributes:
        usable: It can be asked again; a step that failed badly makes it false.
        stale: The next run may not have it.
        ready: It has come up.
        request: The number of its last request; each of its replies begins with that.
        intruded: Something wrote to its private descriptor when no reply was due, and it was ended.
        outside: Variables that lead it through the gateway.
        guarded: The operating system keeps it from going around the gateway.
        public_only: It reaches public addresses only.
    """

    def __init__(
        self,
        language: GuestLanguage,
        argv: list[str],
        environment: Mapping[str, str],
        gateway: OutsideCalls | None,
        *,
        guarded: bool = False,
        public_only: bool = False,
    ) -> None:
        self.language = language
        self.guarded = guarded
        self.public_only = public_only
        self.ticket = gateway.open_ticket(public_only=public_only) if gateway else None
        self.outside = gateway.environment(self.ticket, language) if gateway and self.ticket else {}
        self._gateway = gateway
        try:
            launch = partial(gateway.guarded, self.ticket) if guarded and gateway and self.ticket else None
            self.process = GuestProcess(argv, {**environment, **self.outside}, launch=launch)
        except OSError as error:
            if gateway and self.ticket:
                gateway.close_ticket(self.ticket)
            raise InterpreterMissingError(f"{argv[0]} cannot be started: {error.strerror}.") from None
        self.usable = True
        self.stale = False
        self.ready = False
        self.request = 0
        self.intruded = False
        self._run: object = None
        self._codes: dict[str, int] = {}
        self._known: dict[str, object] = {}
        self.rest()

    def rest(self) -> None:
        """It has no request: it may come up, or say what code failed too late, and nothing else."""
        if self.process.alive:
            self.process.conversation = self

    def line(self, line: bytes) -> None:
        """It said something unasked."""
        if line == _READY and not self.ready:
            self.ready = True
        elif not _is_late(line):
            self.intruded = True
            self.kill()

    def output(self, stream: Stream, data: bytes) -> None:
        """It printed something unasked."""

    def flooded(self) -> None:
        """It said too much, unasked."""
        self.intruded = True
        self.kill()

    def gone(self) -> None:
        """It has closed its side."""
        self.kill()

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self.process.alive

    def knows(self, run: object) -> bool:
        """Whether *run* has begun in it."""
        return self._run is run

    def begin(self, run: object, **setup: Any) -> dict[str, Any]:
        """The `begin` of *run*, to be sent with its first request."""
        self._run = run
        self._known = {}
        environment = base_environment(setup["cwd"], self.process.mark)
        return {"begin": {**setup, "cwd": str(setup["cwd"]), "env": environment, "outside": self.outside}}

    def code(self, step: Step) -> dict[str, Any]:
        """The part of a request that says which code; with its source if the guest has not seen it."""
        told: dict[str, Any] = {"step": step.name, "file": step.filename, "offset": step.line_offset}
        number = self._codes.get(step.source)
        if number is None:
            number = self._codes[step.source] = len(self._codes)
            told["source"] = step.source
            self.stale = self.stale or number >= _MOST_SOURCES
        told["code"] = number
        return told

    def component(self, component: ComponentFile, name: str) -> dict[str, Any]:
        """The part of a request that says which component."""
        return {"step": name, "component": {"path": str(component.path), "fresh": component.origin == "folder"}}

    def forget(self) -> None:
        """The run is over: hold on to nothing of it."""
        self._run = None
        self._known = {}

    def news(self, steps: Mapping[str, object], texts: Mapping[str, bytes]) -> list[str]:
        """The names in *steps* whose value the guest has not got, which it now has."""
        names = [name for name in texts if self._known.get(name) is not steps[name]]
        for name in names:
            self._known[name] = steps[name]
        return names

    def bind(self, binding: Any) -> None:
        """Outside calls are from now on treated as *binding* says."""
        if self._gateway and self.ticket and binding is not None:
            self._gateway.bind(self.ticket, binding)

    def unbind(self) -> None:
        """Outside calls belong to no step."""
        if self._gateway and self.ticket:
            self._gateway.unbind(self.ticket)

    def kill(self) -> None:
        """End it and everything that it started."""
        if self.process.alive:
            self.process.kill()
        if self._gateway and self.ticket:
            self._gateway.close_ticket(self.ticket)
            self.ticket = None


class GuestTalk:
    """
    One request to a guest, until its `done` (a `Conversation`).

    Attributes:
        reply: The `done`, its value as *read* returns it.
        broken: Why the step has failed although it said that it is done.
    """

    def __init__(
        self,
        guest: Guest,
        recorder: StepRecorder,
        services: StepServices | None = None,
        *,
        name: str = "",
        read: Callable[[JSON], Any] = lambda value: value,
    ) -> None:
        self.reply: asyncio.Future[Done] = asyncio.get_running_loop().create_future()
        self.broken: StepError | None = None
        self._name = name
        self._read = read
        self._number = b""
        self._guest = guest
        self._recorder = recorder
        self._services = services
        self._answers: set[asyncio.Task[None]] = set()
        self._timeout_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._began: float | None = None

    @property
    def seconds(self) -> float:
        """How long the guest has had the request, once it was up."""
        return asyncio.get_running_loop().time() - self._began if self._began is not None else 0.0

    def ask(self, request: Mapping[str, Any], texts: list[bytes], *, timeout_s: float) -> None:
        """Send the request; *timeout_s* counts from when the guest is up."""
        self._timeout_s = timeout_s
        self._arm(0.0 if self._guest.ready else START_S)
        guest = self._guest
        if guest.intruded:
            self.end(refused(self._name, "it came when no step ran"))
        elif not guest.alive:
            self.gone()
        guest.request += 1
        self._number = str(guest.request).encode()
        guest.process.conversation = self
        guest.process.send(b"\n".join([json_bytes({**request, "request": guest.request}), *texts, b""]))

    def close(self) -> None:
        """Nothing more is waited for."""
        if self._timer:
            self._timer.cancel()
        for answer in self._answers:
            answer.cancel()
        if not self.reply.done():
            self.reply.cancel()
        if self.reply.cancelled():
            self._guest.usable = False

    def end(self, error: StepError) -> None:
        """The step has failed, whatever it does from now on; the guest is not to be used again."""
        self._guest.usable = False
        if not self.reply.done():
            self.reply.set_exception(error)

    def line(self, line: bytes) -> None:
        """The guest said something."""
        if line == _READY and not self._guest.ready:
            self._ready()
            return
        try:
            act = self._act(line)
        except ReplyError as wrong:
            self._refuse(str(wrong))
        except RecursionError:
            self.end(ExportNotJSONError("An export is nested too deeply for JSON."))
        else:
            self._pass_on(act)

    def flooded(self) -> None:
        """The guest said a line without an end."""
        self._refuse("it is too long")

    def output(self, stream: Stream, data: bytes) -> None:
        """User code printed."""
        self._pass_on(partial(self._recorder.output, stream, data))

    def gone(self) -> None:
        """The guest is dead: how, is found out by whoever waits."""
        self._guest.usable = False
        if not self.reply.done():
            self.reply.set_exception(GuestGone())

    def _pass_on(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # noqa: BLE001 - the listener's own: it goes to whoever passed the listener
            self._guest.usable = False
            if not self.reply.done():
                self.reply.set_exception(error)

    def _arm(self, allowance_s: float = 0.0) -> None:
        if self._timer:
            self._timer.cancel()
        loop, limit = asyncio.get_running_loop(), self._timeout_s
        self._began = None if allowance_s else loop.time()
        self._timer = loop.call_later(limit + allowance_s, lambda: self.end(timed_out(limit)))

    def _act(self, line: bytes) -> Callable[[], None]:
        """What to do about a message. Raises `ReplyError` for what is none of this request's."""
        number, _, text = line.partition(b" ")
        reply = decode_reply(text)
        if number != self._number or self.reply.done():
            if not isinstance(reply, Late):
                raise ReplyError(
                    "it belongs to another step" if number != self._number else "it came after the last one"
                )
            return lambda: None
        if isinstance(reply, Done):
            return partial(self._done, self._with_value(reply))
        if isinstance(reply, Ask):
            return partial(self._asked, reply)
        return partial(self._recorder.hear, reply)

    def _with_value(self, done: Done) -> Done:
        if done.error is not None:
            return done
        try:
            return msgspec.structs.replace(done, value=self._read(done.value))
        except msgspec.ValidationError as wrong:
            raise ReplyError(reason(wrong)) from None

    def _refuse(self, why: str) -> None:
        if self.reply.done() and not self.reply.cancelled() and self.reply.exception() is None:
            self.broken = refused(self._name, why)
        self.end(refused(self._name, why))

    def _asked(self, ask: Ask) -> None:
        task = asyncio.get_running_loop().create_task(self._answer(ask.id, ask.call, ask.args))
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    async def _answer(self, number: int, call: str, args: dict[str, JSON]) -> None:
        told: dict[str, Any] = {"answer": number}
        try:
            if self._services is None:
                raise StepError(f"{call} can be asked for by a running step only.", name="NotRunHere")
            value = await self._services.answer(call, args)
            if value is not None:
                told["value"] = value
        except PdkernelError as error:
            name = error.name if isinstance(error, StepError) else type(error).__name__
            told["fault"] = {"name": name, "message": error.message, "fix": error.fix, "code": error.code}
        except Exception as error:  # noqa: BLE001 - ours: it goes to whoever waits for the step, and the step ends
            if not self.reply.done():
                self.reply.set_exception(error)
            return
        if not self.reply.done():
            self._guest.process.send(json_bytes(told) + b"\n")

    def _ready(self) -> None:
        self._guest.ready = True
        self._arm()

    def _done(self, done: Done) -> None:
        if done.spoiled:
            self._guest.usable = False
        if done.dirty or done.busy:
            self._guest.stale = True
        self.reply.set_result(done)


def _is_late(line: bytes) -> bool:
    try:
        return isinstance(decode_reply(line.partition(b" ")[2]), Late)
    except (ReplyError, RecursionError):
        return False


class GuestGone(Exception):  # noqa: N818 - not an error of ours until we know how it went
    """The guest closed its side."""


async def autopsy(guest: Guest, recorder: StepRecorder) -> StepError:
    """How the guest died."""
    code = await guest.process.exit_code()
    guest.process.drain()
    return died(code, recorder.last_words())

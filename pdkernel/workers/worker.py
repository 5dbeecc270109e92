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

from pdkernel.encode import encode_json
from pdkernel.errors import ExportNotJSONError, InterpreterMissingError, PdkernelError, StepError
from pdkernel.execution import Stream
from pdkernel.model import JSON, Step
from pdkernel.workers.declarations import ComponentFile
from pdkernel.workers.environment import base_environment
from pdkernel.workers.protocols import OutboundGateway, StepServices
from pdkernel.workers.recorder import StepRecorder
from pdkernel.workers.replies import Ask, Done, Late, ReplyError, decode_reply, reason, refused
from pdkernel.workers.step_errors import build_process_died_error, build_timeout_error
from pdkernel.workers.worker_command import WorkerLanguage
from pdkernel.workers.worker_process import WorkerProcess

STARTUP_TIMEOUT_S = 30.0
"""How long a guest may take to come up on a busy machine; not the step's time."""

_READY = b'0 {"t":"ready"}'
_MAX_SOURCES = 500  # edits of cells; each leaves a few kilobytes in the guest


class Worker:
    """
    A process of one language and what it knows.

    Attributes:
        is_healthy: It can be asked again; a step that failed badly makes it false.
        is_stale: The next run may not have it.
        is_ready: It has come up.
        request: The number of its last request; each of its replies begins with that.
        intruded: Something wrote to its private descriptor when no reply was due, and it was ended.
        gateway_variables: Variables that lead it through the gateway.
        is_sandboxed: The operating system keeps it from going around the gateway.
        public_only: It reaches public addresses only.
    """

    def __init__(
        self,
        language: WorkerLanguage,
        argv: list[str],
        environment: Mapping[str, str],
        gateway: OutboundGateway | None,
        *,
        is_sandboxed: bool = False,
        public_only: bool = False,
    ) -> None:
        self.language = language
        self.is_sandboxed = is_sandboxed
        self.public_only = public_only
        self.caller_token = gateway.issue_token(public_only=public_only) if gateway else None
        self.gateway_variables = (
            gateway.build_environment(self.caller_token, language) if gateway and self.caller_token else {}
        )
        self._gateway = gateway
        try:
            launch = (
                partial(gateway.start_sandboxed, self.caller_token)
                if is_sandboxed and gateway and self.caller_token
                else None
            )
            self.process = WorkerProcess(argv, {**environment, **self.gateway_variables}, launch=launch)
        except OSError as error:
            if gateway and self.caller_token:
                gateway.revoke_token(self.caller_token)
            raise InterpreterMissingError(f"{argv[0]} cannot be started: {error.strerror}.") from None
        self.is_healthy = True
        self.is_stale = False
        self.is_ready = False
        self.request = 0
        self.intruded = False
        self._run: object = None
        self._code_numbers: dict[str, int] = {}
        self._sent_values: dict[str, object] = {}
        self.rest()

    def rest(self) -> None:
        """It has no request: it may come up, or say what code failed too late, and nothing else."""
        if self.process.is_alive:
            self.process.listener = self

    def on_line(self, line: bytes) -> None:
        """It said something unasked."""
        if line == _READY and not self.is_ready:
            self.is_ready = True
        elif not _is_late(line):
            self.intruded = True
            self.kill()

    def on_output(self, stream: Stream, data: bytes) -> None:
        """It printed something unasked."""

    def flooded(self) -> None:
        """It said too much, unasked."""
        self.intruded = True
        self.kill()

    def on_closed(self) -> None:
        """It has closed its side."""
        self.kill()

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked."""
        return self.process.is_alive

    def has_begun(self, run: object) -> bool:
        """Whether *run* has begun in it."""
        return self._run is run

    def build_begin(self, run: object, **setup: Any) -> dict[str, Any]:
        """The `begin` of *run*, to be sent with its first request."""
        self._run = run
        self._sent_values = {}
        environment = base_environment(setup["cwd"], self.process.process_tag)
        return {"begin": {**setup, "cwd": str(setup["cwd"]), "env": environment, "outside": self.gateway_variables}}

    def build_code(self, step: Step) -> dict[str, Any]:
        """The part of a request that says which code; with its source if the guest has not seen it."""
        told: dict[str, Any] = {"step": step.name, "file": step.filename, "offset": step.line_offset}
        number = self._code_numbers.get(step.source)
        if number is None:
            number = self._code_numbers[step.source] = len(self._code_numbers)
            told["source"] = step.source
            self.is_stale = self.is_stale or number >= _MAX_SOURCES
        told["code"] = number
        return told

    def build_component(self, component: ComponentFile, name: str) -> dict[str, Any]:
        """The part of a request that says which component."""
        return {"step": name, "component": {"path": str(component.path), "fresh": component.origin == "folder"}}

    def end_run(self) -> None:
        """The run is over: hold on to nothing of it."""
        self._run = None
        self._sent_values = {}

    def take_unsent(self, values: Mapping[str, object], texts: Mapping[str, bytes]) -> list[str]:
        """The names in *values* whose value the guest has not got, which it now has."""
        names = [name for name in texts if self._sent_values.get(name) is not values[name]]
        for name in names:
            self._sent_values[name] = values[name]
        return names

    def bind(self, call_context: Any) -> None:
        """Outside calls are from now on treated as *call_context* says."""
        if self._gateway and self.caller_token and call_context is not None:
            self._gateway.bind(self.caller_token, call_context)

    def unbind(self) -> None:
        """Outside calls belong to no step."""
        if self._gateway and self.caller_token:
            self._gateway.unbind(self.caller_token)

    def kill(self) -> None:
        """End it and everything that it started."""
        if self.process.is_alive:
            self.process.kill()
        if self._gateway and self.caller_token:
            self._gateway.revoke_token(self.caller_token)
            self.caller_token = None


class StepExchange:
    """
    One request to a guest, until its `done` (a `Conversation`).

    Attributes:
        reply: The `done`, its value as *read* returns it.
        broken: Why the step has failed although it said that it is done.
    """

    def __init__(
        self,
        worker: Worker,
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
        self._guest = worker
        self._recorder = recorder
        self._services = services
        self._answers: set[asyncio.Task[None]] = set()
        self._timeout_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._began: float | None = None

    @property
    def elapsed_s(self) -> float:
        """How long the guest has had the request, once it was up."""
        return asyncio.get_running_loop().time() - self._began if self._began is not None else 0.0

    def send(self, request: Mapping[str, Any], texts: list[bytes], *, timeout_s: float) -> None:
        """Send the request; *timeout_s* counts from when the guest is up."""
        self._timeout_s = timeout_s
        self._start_timer(0.0 if self._guest.is_ready else STARTUP_TIMEOUT_S)
        guest = self._guest
        if guest.intruded:
            self.fail_step(refused(self._name, "it came when no step ran"))
        elif not guest.is_alive:
            self.on_closed()
        guest.request += 1
        self._number = str(guest.request).encode()
        guest.process.listener = self
        guest.process.send(b"\n".join([encode_json({**request, "request": guest.request}), *texts, b""]))

    def close(self) -> None:
        """Nothing more is waited for."""
        if self._timer:
            self._timer.cancel()
        for answer in self._answers:
            answer.cancel()
        if not self.reply.done():
            self.reply.cancel()
        if self.reply.cancelled():
            self._guest.is_healthy = False

    def fail_step(self, error: StepError) -> None:
        """The step has failed, whatever it does from now on; the guest is not to be used again."""
        self._guest.is_healthy = False
        if not self.reply.done():
            self.reply.set_exception(error)

    def on_line(self, line: bytes) -> None:
        """The guest said something."""
        if line == _READY and not self._guest.is_ready:
            self._ready()
            return
        try:
            act = self._parse_message(line)
        except ReplyError as wrong:
            self._refuse(str(wrong))
        except RecursionError:
            self.fail_step(ExportNotJSONError("An export is nested too deeply for JSON."))
        else:
            self._dispatch(act)

    def flooded(self) -> None:
        """The guest said a line without an end."""
        self._refuse("it is too long")

    def on_output(self, stream: Stream, data: bytes) -> None:
        """User code printed."""
        self._dispatch(partial(self._recorder.output, stream, data))

    def on_closed(self) -> None:
        """The guest is dead: how, is found out by whoever waits."""
        self._guest.is_healthy = False
        if not self.reply.done():
            self.reply.set_exception(WorkerGone())

    def _dispatch(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # noqa: BLE001 - the listener's own: it goes to whoever passed the listener
            self._guest.is_healthy = False
            if not self.reply.done():
                self.reply.set_exception(error)

    def _start_timer(self, allowance_s: float = 0.0) -> None:
        if self._timer:
            self._timer.cancel()
        loop, limit = asyncio.get_running_loop(), self._timeout_s
        self._began = None if allowance_s else loop.time()
        self._timer = loop.call_later(limit + allowance_s, lambda: self.fail_step(build_timeout_error(limit)))

    def _parse_message(self, line: bytes) -> Callable[[], None]:
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
            return partial(self._start_answer, reply)
        return partial(self._recorder.parse_message, reply)

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
        self.fail_step(refused(self._name, why))

    def _start_answer(self, ask: Ask) -> None:
        task = asyncio.get_running_loop().create_task(self._answer(ask.id, ask.call, ask.args))
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    async def _answer(self, number: int, call: str, args: dict[str, JSON]) -> None:
        told: dict[str, Any] = {"answer": number}
        try:
            if self._services is None:
                raise StepError(f"{call} can be asked for by a running step only.", name="NotRunHere")
            value = await self._services.call(call, args)
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
            self._guest.process.send(encode_json(told) + b"\n")

    def _ready(self) -> None:
        self._guest.is_ready = True
        self._start_timer()

    def _done(self, done: Done) -> None:
        if done.spoiled:
            self._guest.is_healthy = False
        if done.dirty or done.busy:
            self._guest.is_stale = True
        self.reply.set_result(done)


def _is_late(line: bytes) -> bool:
    try:
        return isinstance(decode_reply(line.partition(b" ")[2]), Late)
    except (ReplyError, RecursionError):
        return False


class WorkerGone(Exception):  # noqa: N818 - not an error of ours until we know how it went
    """The guest closed its side."""


async def diagnose_exit(worker: Worker, recorder: StepRecorder) -> StepError:
    """How the guest died."""
    code = await worker.process.wait_exit_code()
    worker.process.drain()
    return build_process_died_error(code, recorder.stderr_tail())

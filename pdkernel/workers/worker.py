"""
A worker and the protocol with it: one request at a time.

A request is a JSON line, followed by one line for each export that the worker does not have yet. Each reply begins with
the number of the request; the last one is `done`. The source and the exports of a step are sent once.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from pdkernel.encode import encode_json
from pdkernel.errors import ExportNotJSONError, InterpreterMissingError, PdkernelError, StepError
from pdkernel.execution import Stream
from pdkernel.model import JSON, MAX_PAYLOAD_BYTES, Step
from pdkernel.workers.child_process import PLAIN_PLAN, ProcessRequest
from pdkernel.workers.declarations import ComponentFile
from pdkernel.workers.environment import base_environment
from pdkernel.workers.private_tmp import PrivateTmp
from pdkernel.workers.protocols import OutboundGateway, StepServices
from pdkernel.workers.recorder import StepRecorder
from pdkernel.workers.replies import (
    Done,
    Late,
    ReplyError,
    ServiceCall,
    build_protocol_error,
    decode_reply,
    describe_mismatch,
)
from pdkernel.workers.step_errors import (
    PayloadLimitError,
    build_payload_error,
    build_process_died_error,
    build_process_not_started_error,
    build_timeout_error,
)
from pdkernel.workers.worker_command import WorkerCommand, WorkerLanguage
from pdkernel.workers.worker_process import MAX_LINE_BYTES, WorkerProcess
from pdkernel.workers.zygote import Zygotes

STARTUP_TIMEOUT_S = 30.0
"""The time limit for the start of a worker in seconds. It does not count as the step's time."""

MAX_EXPORT_LINE_BYTES = 3 * MAX_PAYLOAD_BYTES
"""The longest line of an export in bytes: the escapes of a worker triple the bytes of an export at most."""

_READY = b'0 {"t":"ready"}'
_EXPORT = re.compile(rb'\d+ \{"t":"export"')
_MAX_SOURCES = 500  # each version of a cell keeps a few kilobytes in the worker


class Worker:
    """
    A worker process of one language, with a record of what the worker has received.

    Attributes:
        is_healthy: Whether it accepts more requests; false after a failure that may have damaged it.
        is_stale: Whether the next run must use another worker.
        is_ready: Whether it has started.
        request: The number of its last request; each reply begins with it.
        intruded: Whether code wrote to the private descriptor when no reply was expected; the worker was ended.
        process_tag: Identifies its processes.
        gateway_variables: The environment variables that route it through the gateway.
        is_sandboxed: Whether the operating system stops the worker from bypassing the gateway.
        public_only: Whether the worker reaches public addresses only.
    """

    def __init__(
        self,
        language: WorkerLanguage,
        command: WorkerCommand,
        environment: Mapping[str, str],
        gateway: OutboundGateway | None,
        *,
        zygotes: Zygotes | None = None,
        private_tmp: PrivateTmp | None = None,
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
        self.process_tag = secrets.token_hex(16)
        try:
            zygote = zygotes.get(Path(command.argv[0]) if command.is_forked else None) if zygotes else None
            request = ProcessRequest(
                command.argv,
                {**environment, **self.gateway_variables},
                self.process_tag,
                is_forked=command.is_forked and zygote is not None,
                plan=private_tmp.plan if private_tmp else PLAIN_PLAN,
                sandboxed_by=gateway if is_sandboxed else None,
                caller_token=self.caller_token or "",
            )
            self.process = WorkerProcess(request, zygote=zygote)
        except OSError as error:
            if gateway and self.caller_token:
                gateway.revoke_token(self.caller_token)
            raise InterpreterMissingError(f"{command.argv[0]} cannot be started: {error.strerror}.") from None
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
        """Expect no reply: only the ready line and reports of late failures are valid until the next request."""
        if self.process.is_alive:
            self.process.listener = self

    def on_line(self, line: bytes) -> None:
        """Handle a line without a request; an invalid line ends the worker."""
        if line == _READY and not self.is_ready:
            self.is_ready = True
        elif not _is_late(line):
            self.intruded = True
            self.kill()

    def on_output(self, stream: Stream, data: bytes) -> None:
        """Ignore output that comes without a request."""

    def on_line_too_long(self) -> None:
        """End the worker, whose line without a request is too long."""
        self.intruded = True
        self.kill()

    def on_closed(self) -> None:
        """End the worker, which closed its pipe."""
        self.kill()

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self.process.is_alive

    def has_begun(self, run: object) -> bool:
        """Whether the `begin` of *run* was built for this worker."""
        return self._run is run

    def build_begin(self, run: object, **setup: Any) -> dict[str, Any]:
        """Build the `begin` of *run*, which is sent with its first request."""
        self._run = run
        self._sent_values = {}
        environment = base_environment(setup["cwd"], self.process_tag)
        return {"begin": {**setup, "cwd": str(setup["cwd"]), "env": environment, "gateway": self.gateway_variables}}

    def build_code(self, step: Step) -> dict[str, Any]:
        """Build the part of a request that names the code, with its source if the worker does not have it."""
        code: dict[str, Any] = {"step": step.name, "file": step.filename, "offset": step.line_offset}
        number = self._code_numbers.get(step.source)
        if number is None:
            number = self._code_numbers[step.source] = len(self._code_numbers)
            code["source"] = step.source
            self.is_stale = self.is_stale or number >= _MAX_SOURCES
        code["code"] = number
        return code

    def build_component(self, component: ComponentFile, name: str) -> dict[str, Any]:
        """Build the part of a request that names the component."""
        return {"step": name, "component": {"path": str(component.path), "fresh": component.origin == "folder"}}

    def end_run(self) -> None:
        """Forget the run, which is over."""
        self._run = None
        self._sent_values = {}

    def take_unsent(self, values: Mapping[str, object], texts: Mapping[str, bytes]) -> list[str]:
        """Return the names whose values the worker does not have yet, and mark these values as sent."""
        names = [name for name in texts if self._sent_values.get(name) is not values[name]]
        for name in names:
            self._sent_values[name] = values[name]
        return names

    def bind(self, call_context: Any) -> None:
        """Apply *call_context* to later outbound calls."""
        if self._gateway and self.caller_token and call_context is not None:
            self._gateway.bind(self.caller_token, call_context)

    def unbind(self) -> None:
        """Detach later outbound calls from the step."""
        if self._gateway and self.caller_token:
            self._gateway.unbind(self.caller_token)

    def kill(self) -> None:
        """End the worker and every process that it started."""
        if self.process.is_alive:
            self.process.kill()
        if self._gateway and self.caller_token:
            self._gateway.revoke_token(self.caller_token)
            self.caller_token = None


class StepExchange:
    """
    One request to a worker, until its `done` (a `WorkerListener`).

    Attributes:
        reply: Resolves to the `done`, its value converted by *read*.
        broken: The error of a step that sent an invalid line after its `done`.
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
        self._worker = worker
        self._recorder = recorder
        self._services = services
        self._answers: set[asyncio.Task[None]] = set()
        self._timeout_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._began: float | None = None

    @property
    def elapsed_s(self) -> float:
        """Seconds since the ready worker received the request."""
        return asyncio.get_running_loop().time() - self._began if self._began is not None else 0.0

    def send(self, request: Mapping[str, Any], texts: list[bytes], *, timeout_s: float) -> None:
        """Send the request; *timeout_s* counts from the time at which the worker is ready."""
        self._timeout_s = timeout_s
        self._start_timer(0.0 if self._worker.is_ready else STARTUP_TIMEOUT_S)
        worker = self._worker
        if worker.intruded:
            self.fail_step(build_protocol_error(self._name, "it came when no step ran"))
        elif not worker.is_alive:
            self.on_closed()
        worker.request += 1
        self._number = str(worker.request).encode()
        worker.process.listener = self
        worker.process.send(b"\n".join([encode_json({**request, "request": worker.request}), *texts, b""]))

    def close(self) -> None:
        """Stop waiting for replies."""
        if self._timer:
            self._timer.cancel()
        for answer in self._answers:
            answer.cancel()
        if not self.reply.done():
            self.reply.cancel()
        if self.reply.cancelled():
            self._worker.is_healthy = False

    def fail_step(self, error: StepError) -> None:
        """Finish the request with *error*; later replies are ignored, and the worker is not reused."""
        self._worker.is_healthy = False
        if not self.reply.done():
            self.reply.set_exception(error)

    def on_line(self, line: bytes) -> None:
        """Handle a line of the worker."""
        if line == _READY and not self._worker.is_ready:
            self._ready()
            return
        try:
            act = self._parse_message(line)
        except PayloadLimitError as error:
            self.fail_step(error)
        except ReplyError as wrong:
            self._refuse(str(wrong))
        except RecursionError:
            self.fail_step(ExportNotJSONError("An export is nested too deeply for JSON."))
        else:
            self._dispatch(act)

    def on_line_too_long(self) -> None:
        """Fail the step, whose export or response is larger than any limit."""
        if self.reply.done():
            self._refuse("it is too long")
            return
        what = f"a message of {f'step `{self._name}`' if self._name else 'a worker'}"
        self.fail_step(build_payload_error(f"{what} has more than {MAX_LINE_BYTES >> 20} MB"))

    def on_output(self, stream: Stream, data: bytes) -> None:
        """Record output of the step's code."""
        self._dispatch(partial(self._recorder.output, stream, data))

    def on_closed(self) -> None:
        """Finish the request with `WorkerGone`; the caller then diagnoses the exit."""
        self._worker.is_healthy = False
        if not self.reply.done():
            self.reply.set_exception(WorkerGone())

    def _dispatch(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # noqa: BLE001 - an error of the recorder's callbacks reaches the caller of the step
            self._worker.is_healthy = False
            if not self.reply.done():
                self.reply.set_exception(error)

    def _start_timer(self, allowance_s: float = 0.0) -> None:
        if self._timer:
            self._timer.cancel()
        loop, limit = asyncio.get_running_loop(), self._timeout_s
        self._began = None if allowance_s else loop.time()
        self._timer = loop.call_later(limit + allowance_s, lambda: self.fail_step(build_timeout_error(limit)))

    def _parse_message(self, line: bytes) -> Callable[[], None]:
        """
        Return the function that handles a line.

        Raises:
            PayloadLimitError: The line is an export above the limit; the line is not parsed.
            ReplyError: The line does not belong to this request.
        """
        if len(line) > MAX_EXPORT_LINE_BYTES and _EXPORT.match(line):
            raise build_payload_error(f"an export of step `{self._name}` has {len(line) / (1 << 20):.1f} MB")
        number, _, text = line.partition(b" ")
        reply = decode_reply(text)
        if number != self._number or self.reply.done():
            if not isinstance(reply, Late):
                raise ReplyError(
                    "it belongs to another step" if number != self._number else "it came after the last reply"
                )
            return lambda: None
        if isinstance(reply, Done):
            return partial(self._done, self._with_value(reply))
        if isinstance(reply, ServiceCall):
            return partial(self._start_service_call, reply)
        return partial(self._recorder.add_reply, reply)

    def _with_value(self, done: Done) -> Done:
        if done.error is not None:
            return done
        try:
            return msgspec.structs.replace(done, value=self._read(done.value))
        except msgspec.ValidationError as wrong:
            raise ReplyError(describe_mismatch(wrong)) from None

    def _refuse(self, why: str) -> None:
        if self.reply.done() and not self.reply.cancelled() and self.reply.exception() is None:
            self.broken = build_protocol_error(self._name, why)
        self.fail_step(build_protocol_error(self._name, why))

    def _start_service_call(self, call: ServiceCall) -> None:
        task = asyncio.get_running_loop().create_task(self._answer(call.id, call.call, call.args))
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    async def _answer(self, number: int, call: str, args: dict[str, JSON]) -> None:
        answer: dict[str, Any] = {"answer": number}
        try:
            if self._services is None:
                raise StepError(f"Only a running step can call {call}.", name="StepNotRunningError")
            value = await self._services.call(call, args)
            if value is not None:
                answer["value"] = value
        except PdkernelError as error:
            name = error.name if isinstance(error, StepError) else type(error).__name__
            answer["fault"] = {"name": name, "message": error.message, "fix": error.fix, "code": error.code}
        except Exception as error:  # noqa: BLE001 - an internal error ends the step and reaches its caller
            if not self.reply.done():
                self.reply.set_exception(error)
            return
        if not self.reply.done():
            self._worker.process.send(encode_json(answer) + b"\n")

    def _ready(self) -> None:
        self._worker.is_ready = True
        self._start_timer()

    def _done(self, done: Done) -> None:
        if done.spoiled:
            self._worker.is_healthy = False
        if done.dirty or done.busy:
            self._worker.is_stale = True
        self.reply.set_result(done)


def _is_late(line: bytes) -> bool:
    try:
        return isinstance(decode_reply(line.partition(b" ")[2]), Late)
    except (ReplyError, RecursionError):
        return False


class WorkerGone(Exception):  # noqa: N818 - becomes an error after `diagnose_exit`
    """The worker closed its pipe."""


async def diagnose_exit(worker: Worker, recorder: StepRecorder) -> StepError:
    """Return the error that describes how the worker ended."""
    code = await worker.process.wait_exit_code()
    worker.process.drain()
    if (reason := worker.process.child.start_error) is not None:
        return build_process_not_started_error(reason)
    return build_process_died_error(code, recorder.stderr_tail())

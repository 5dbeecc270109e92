"""
One request to a worker, until its last reply, and the time limit of a step.

A process that is stopped (SIGSTOP, a suspended machine) and continues finds that its timers are overdue before it reads what a step has
replied meanwhile. So the time in which this process did not run does not count.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import msgspec

from pdkernel.common.encode import encode_json
from pdkernel.errors import ExportNotJSONError, PdkernelError, StepError
from pdkernel.execution import Stream
from pdkernel.model import JSON, Step
from pdkernel.workers.declarations import ComponentFile
from pdkernel.workers.interpreters import WorkerLanguage
from pdkernel.workers.protocols import StepServices
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
    MAX_EXPORT_LINE_BYTES,
    PayloadLimitError,
    ProcessLostError,
    build_payload_error,
    build_process_died_error,
    build_process_not_started_error,
    build_timeout_error,
)
from pdkernel.workers.worker import MAX_LINE_BYTES, READY_LINE, Worker

TICK_S = 0.5
"""Seconds between two looks at the clock."""
_FROZEN_S = 1.0
"""A look that is later than this finds that the process was stopped."""


class StepTimer:
    """
    Calls *on_timeout* once a step has run for *timeout_s* seconds, unless it is cancelled before.

    A step that was running when the process was stopped has one more tick after that, in which its reply is read.
    """

    def __init__(self, timeout_s: float, on_timeout: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._left_s = timeout_s
        self._on_timeout = on_timeout
        self._has_grace = True
        self._schedule()

    def cancel(self) -> None:
        """Do not call `on_timeout` any more. A second call does nothing."""
        self._handle.cancel()

    def _schedule(self) -> None:
        self._tick_s = min(self._left_s, TICK_S)
        self._looked_at = self._loop.time()
        self._handle = self._loop.call_later(self._tick_s, self._look)

    def _look(self) -> None:
        late_s = self._loop.time() - self._looked_at - self._tick_s
        was_frozen = late_s > _FROZEN_S
        self._left_s -= self._tick_s if was_frozen else self._tick_s + late_s
        if self._left_s > 0:
            self._schedule()
        elif was_frozen and self._has_grace:
            self._has_grace = False
            self._left_s = TICK_S
            self._schedule()
        else:
            self._on_timeout()


class WorkerRequest(msgspec.Struct, frozen=True):
    """
    A request of a run to its worker of a language.

    Attributes:
        language: The language of the worker.
        body: The operation `op` and its arguments, as JSON.
        recorder: Records what happens until the reply.
        timeout_s: The time limit in seconds.
        target: The code or the component that it concerns, or None.
        name: The name of the step or the key of the component, for messages.
        steps: The exports of the steps before, by name.
        call_context: The rules for outbound calls.
        memory_limit_mb: The memory limit in megabytes, or None.
        services: Answer calls of the step, or None.
        before_start: Awaited before the request is sent; it may raise an error that prevents it.
        on_begun: Called when the step has begun, so that it is not started again.
        read: Converts the value of the reply. Raises `msgspec.ValidationError` if the value is invalid.
    """

    language: WorkerLanguage
    body: Mapping[str, Any]
    recorder: StepRecorder
    timeout_s: float
    target: Step | ComponentFile | None = None
    name: str = ""
    steps: Mapping[str, Mapping[str, JSON]] = {}
    call_context: Any = None
    memory_limit_mb: int | None = None
    services: StepServices | None = None
    before_start: Callable[[], Awaitable[None]] | None = None
    on_begun: Callable[[], None] | None = None
    read: Callable[[JSON], Any] = lambda value: value


STARTUP_TIMEOUT_S = 60.0
"""The time limit for the start of a worker in seconds. It does not count as the step's time."""

BEGIN_CHECK_S = 0.01
"""Seconds from the request to the check whether a worker has read it; by then, it runs the first line of the step."""
_EXPORT = re.compile(rb'\d+ \{"t":"export"')


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
        self._has_heard = False
        self._worker = worker
        self._recorder = recorder
        self._services = services
        self._answers: set[asyncio.Task[None]] = set()
        self._timeout_s = 0.0
        self._timer: asyncio.TimerHandle | StepTimer | None = None
        self._began: float | None = None
        self._begin_check: asyncio.TimerHandle | None = None
        self._on_begun: Callable[[], None] | None = None

    @property
    def has_begun(self) -> bool:
        """Whether the worker may have begun with the request: it has read the request, or has replied or printed since."""
        return self._worker.is_ready and (self._has_heard or not self._worker.process.has_unread)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the ready worker received the request."""
        return asyncio.get_running_loop().time() - self._began if self._began is not None else 0.0

    def send(
        self,
        request: Mapping[str, Any],
        texts: list[bytes],
        *,
        timeout_s: float,
        startup_timeout_s: float = STARTUP_TIMEOUT_S,
    ) -> None:
        """Send the request; *timeout_s* counts from the time at which the worker is ready."""
        self._timeout_s = timeout_s
        worker = self._worker
        if worker.is_ready:
            self._start_timer()
        else:
            error = build_process_not_started_error(f"it was not ready after {startup_timeout_s:g} s")
            self._timer = asyncio.get_running_loop().call_later(startup_timeout_s, self.fail_step, error)
        if worker.intruded:
            self.fail_step(build_protocol_error(self._name, "it came when no step ran"))
        elif not worker.is_alive:
            self.on_closed()
        worker.request += 1
        self._number = str(worker.request).encode()
        worker.process.listener = self
        worker.process.send(b"\n".join([encode_json({**request, "request": worker.request}), *texts, b""]))

    def report_begin(self, on_begun: Callable[[], None]) -> None:
        """Call *on_begun* some milliseconds after the worker has read the request, or when it has ended. Polls a pipe meanwhile."""
        self._on_begun = on_begun
        self._begin_check = asyncio.get_running_loop().call_later(BEGIN_CHECK_S, self._check_begin)

    def _check_begin(self) -> None:
        if (on_begun := self._on_begun) is None:
            return
        if self.has_begun or self.reply.done():
            self._on_begun = None
            on_begun()
        else:
            self.report_begin(on_begun)

    def close(self) -> None:
        """Stop waiting for replies."""
        if self._begin_check is not None:
            self._begin_check.cancel()
            self._check_begin()
            self._begin_check.cancel()
        if self._timer:
            self._timer.cancel()
        for answer in self._answers:
            answer.cancel()
        if not self.reply.done():
            self.reply.cancel()
        if self.reply.cancelled():
            self._worker.is_healthy = False

    def fail_step(self, error: Exception) -> None:
        """Finish the request with *error*; later replies are ignored, and the worker is not reused."""
        self._worker.is_healthy = False
        if not self.reply.done():
            self.reply.set_exception(error)

    def on_line(self, line: bytes) -> None:
        """Handle a line of the worker."""
        if line == READY_LINE and not self._worker.is_ready:
            self._ready()
            return
        self._has_heard = True
        try:
            act = self._parse_message(line)
        except (PayloadLimitError, ExportNotJSONError) as error:
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
        self._has_heard = True
        self._dispatch(partial(self._recorder.output, stream, data))

    def on_closed(self) -> None:
        """Finish the request with `WorkerGone`; the caller then diagnoses the exit."""
        self.fail_step(WorkerGone())

    def _dispatch(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # noqa: BLE001 - an error of the recorder's callbacks reaches the caller of the step
            self.fail_step(error)

    def _start_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._began = asyncio.get_running_loop().time()
        self._timer = StepTimer(self._timeout_s, self._time_out)

    def _time_out(self) -> None:
        self.fail_step(build_timeout_error(self._timeout_s))

    def _parse_message(self, line: bytes) -> Callable[[], None]:
        """
        Return the function that handles a line.

        Raises:
            PayloadLimitError: The line is an export above the limit; the line is not parsed.
            ExportNotJSONError: The line has too many long integers.
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
            self.fail_step(error)
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


class WorkerGone(Exception):  # noqa: N818 - becomes an error after `diagnose_exit`
    """The worker closed its pipe."""


async def diagnose_exit(worker: Worker, recorder: StepRecorder, *, has_begun: bool) -> StepError:
    """Return the error that describes how the worker ended; *has_begun* is whether it may have run code of the step."""
    code = await worker.process.wait_exit_code()
    worker.process.drain()
    if (reason := worker.process.child.start_error) is not None:
        return build_process_not_started_error(reason)
    if not has_begun:
        return ProcessLostError(code, recorder.stderr_tail())
    return build_process_died_error(code, recorder.stderr_tail())

"""The process of one Bash or Go step: its start, its output, its end, and the processes that it leaves behind."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable
from functools import partial

from pdkernel.errors import StepError
from pdkernel.execution import Stream
from pdkernel.workers.child_process import ChildProcess, ProcessRequest, open_pipes
from pdkernel.workers.recorder import StepRecorder
from pdkernel.workers.step_errors import ProcessLostError, build_process_died_error, build_process_not_started_error
from pdkernel.workers.zygote import Zygote, start_process

_CHUNK = 1 << 16
_DRAIN_LIMIT = 4 << 20
_STDERR_TAIL_BYTES = 1 << 16

ExitJudge = Callable[[int, str], StepError | None]
"""Turns an exit status other than 0 and the last 64 KiB of stderr into an error, or None."""


def ignore_exit_status(_exit_code: int, _stderr_tail: str) -> None:
    """Return no error: on the platform, the exit status of a Bash step is not an error."""


class SubprocessStep:
    """
    A running step.

    Attributes:
        process_tag: Identifies the processes that the step starts.
        child: The process, or None if it was not started.
        finished: Resolves when the step has ended, to its error or None.
    """

    def __init__(
        self, recorder: StepRecorder, judge_exit: ExitJudge = ignore_exit_status, *, script_folder: str = ""
    ) -> None:
        """
        Create the step; `start` starts its process.

        Args:
            recorder: Receives what the step prints.
            judge_exit: Turns an exit status other than 0 into an error or None.
            script_folder: The path of the script's folder, which is removed from messages of the interpreter.
        """
        self.process_tag = secrets.token_hex(16)
        self._loop = asyncio.get_running_loop()
        self._recorder = recorder
        self._judge = judge_exit
        self._stderr_tail = b""
        self._folder = f"{script_folder}/".encode() if script_folder else b""
        self._held_back = b""
        self._pipes: dict[Stream, int] = {}
        self._is_running = False
        self.child: ChildProcess | None = None
        self.finished: asyncio.Future[StepError | None] = self._loop.create_future()

    def start(self, request: ProcessRequest, zygote: Zygote | None) -> ChildProcess:
        """Start and return the process. Raises `OSError` if the program cannot be started."""
        own_ends, child_ends = open_pipes("from", "from")
        try:
            self.child = start_process(request, child_ends, zygote)
        except BaseException:
            for fd in own_ends:
                os.close(fd)
            raise
        finally:
            for fd in child_ends:
                os.close(fd)
        self._is_running = True
        self._pipes = {"stdout": own_ends[0], "stderr": own_ends[1]}
        for stream, fd in self._pipes.items():
            self._loop.add_reader(fd, self._read, stream)
        self.child.watch_exit(partial(self._on_exit, self.child))
        return self.child

    def kill(self) -> None:
        """End the whole process tree at once. Blocks for a few milliseconds."""
        if self._is_running and self.child is not None:
            self._is_running = False
            self.child.kill()

    def close(self) -> None:
        """End the process if it still runs, and close its pipes."""
        self.kill()
        for stream in list(self._pipes):
            self._drain(stream)
            self._close(stream)

    def fail(self, error: StepError) -> None:
        """Finish the step with *error*; later results are ignored."""
        if not self.finished.done():
            self.finished.set_result(error)

    def _on_exit(self, child: ChildProcess) -> None:
        self._is_running = False
        for stream in list(self._pipes):
            self._drain(stream)
        if not self.finished.done():
            self.finished.set_result(self._exit_error(child))

    def _exit_error(self, child: ChildProcess) -> StepError | None:
        if (reason := child.start_error) is not None:
            return build_process_not_started_error(reason)
        if child.exit_code is None:
            if child.pid is None:
                return ProcessLostError()
            return build_process_died_error(None, self._recorder.stderr_tail())
        return self._error(child.exit_code)

    def _error(self, code: int) -> StepError | None:
        if code == 0:
            return None
        if code < 0:
            return build_process_died_error(code, self._recorder.stderr_tail())
        if error := self._judge(code, self._stderr_tail.decode("utf-8", "replace")):
            return error
        self._recorder.warn(f"exit status {code}")
        return None

    def _drain(self, stream: Stream) -> None:
        left = _DRAIN_LIMIT
        while left > 0 and (read := self._read(stream)):
            left -= read

    def _read(self, stream: Stream) -> int:
        fd = self._pipes.get(stream)
        if fd is None:
            return 0
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return 0
        if data:
            self._handle_output(stream, data)
        else:
            self._close(stream)
        return len(data)

    def _handle_output(self, stream: Stream, data: bytes) -> None:
        if stream == "stderr":
            self._stderr_tail = (self._stderr_tail + data)[-_STDERR_TAIL_BYTES:]
            data = self._without_folder(data)
        self._recorder.output(stream, data)

    def _without_folder(self, data: bytes) -> bytes:
        """Return held-back output and *data* without the script's folder; hold back a partial path at the end."""
        folder = self._folder
        if not folder:
            return data
        data = (self._held_back + data).replace(folder, b"")
        begun = next((n for n in range(min(len(folder) - 1, len(data)), 0, -1) if data.endswith(folder[:n])), 0)
        self._held_back = data[len(data) - begun :]
        return data[: len(data) - begun]

    def _close(self, stream: Stream) -> None:
        if stream == "stderr" and self._held_back:
            self._recorder.output(stream, self._held_back)
            self._held_back = b""
        fd = self._pipes.pop(stream, None)
        if fd is not None:
            self._loop.remove_reader(fd)
            os.close(fd)

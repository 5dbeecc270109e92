"""The process of one Bash or Go step: its start, its output, its end, and the processes that it leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pdkernel.errors import StepError
from pdkernel.execution import Stream
from pdkernel.runtimes import process_tree
from pdkernel.workers.recorder import StepRecorder
from pdkernel.workers.step_errors import build_process_died_error
from pdkernel.workers.warden_client import WARDEN

_CHUNK = 1 << 16
_DRAIN_LIMIT = 4 << 20
_STDERR_TAIL_BYTES = 1 << 16

Launcher = Callable[[Callable[[], "subprocess.Popen[bytes]"]], "subprocess.Popen[bytes]"]
"""Calls the function that starts a process, for example inside a sandbox, and returns its result."""

ExitJudge = Callable[[int, str], StepError | None]
"""Turns an exit status other than 0 and the last 64 KiB of stderr into an error, or None."""


def ignore_exit_status(_exit_code: int, _stderr_tail: str) -> None:
    """Return no error: on the platform, the exit status of a Bash step is not an error."""


class SubprocessStep:
    """
    A running step.

    Attributes:
        process_tag: Identifies the processes that the step starts.
        finished: Resolves when the step has ended, to its error or None.
    """

    def __init__(
        self, recorder: StepRecorder, judge_exit: ExitJudge = ignore_exit_status, *, script: Path | None = None
    ) -> None:
        """
        Create the step; `start` starts its process.

        Args:
            recorder: Receives what the step prints.
            judge_exit: Turns an exit status other than 0 into an error or None.
            script: The script file; its folder is removed from messages of the interpreter.
        """
        self.process_tag = secrets.token_hex(16)
        self._loop = asyncio.get_running_loop()
        self._recorder = recorder
        self._judge = judge_exit
        self._stderr_tail = b""
        self._folder = f"{script.parent}/".encode() if script else b""
        self._held_back = b""
        self._leftover_key: int | None = None
        self._pipes: dict[Stream, int] = {}
        self._pid: int | None = None
        self._pidfd: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self.finished: asyncio.Future[StepError | None] = self._loop.create_future()

    @property
    def pid(self) -> int:
        """The process id. `start` was called before."""
        assert self._process is not None
        return self._process.pid

    def start(
        self, argv: Sequence[str], cwd: Path, environment: Mapping[str, str], launch: Launcher | None = None
    ) -> None:
        """Start *argv* in *cwd* with *environment* and the process tag; *launch* calls the function that starts it."""
        stdout, stderr = os.pipe(), os.pipe()

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                argv,
                cwd=cwd,
                env={**environment, process_tree.PROCESS_TAG_VARIABLE: self.process_tag},
                stdin=subprocess.DEVNULL,
                stdout=stdout[1],
                stderr=stderr[1],
                start_new_session=True,
            )

        try:
            self._process = launch(start) if launch else start()
        except BaseException:
            os.close(stdout[0])
            os.close(stderr[0])
            raise
        finally:
            os.close(stdout[1])
            os.close(stderr[1])
        self._pid = self._process.pid
        WARDEN.register(self._pid, self.process_tag)
        self._pipes = {"stdout": stdout[0], "stderr": stderr[0]}
        for stream, fd in self._pipes.items():
            os.set_blocking(fd, False)
            self._loop.add_reader(fd, self._read, stream)
        self._watch_exit(self._process)

    def kill(self) -> None:
        """End the whole process tree at once. Blocks for a few milliseconds."""
        if self._process is None or self._pid is None:
            return
        process_tree.kill_processes([self._pid], [self.process_tag])
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.5)
        WARDEN.unregister(self._pid)
        self._pid = None

    def close(self) -> None:
        """End the process if it still runs, and close its pipes."""
        self.kill()
        self._unwatch_exit()
        for stream in list(self._pipes):
            self._drain(stream)
            self._close(stream)

    def unregister_leftovers(self) -> None:
        """Remove the leftover processes from the warden, because they have ended."""
        if self._leftover_key is not None:
            WARDEN.unregister(self._leftover_key)

    def fail(self, error: StepError) -> None:
        """Finish the step with *error*; later results are ignored."""
        if not self.finished.done():
            self.finished.set_result(error)

    def _watch_exit(self, process: subprocess.Popen[bytes]) -> None:
        if hasattr(os, "pidfd_open"):
            self._pidfd = os.pidfd_open(process.pid)
            self._loop.add_reader(self._pidfd, self._on_exit, process)
        else:  # not Linux: a thread waits

            def wait() -> None:
                process.wait()
                with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                    self._loop.call_soon_threadsafe(self._on_exit, process)

            self._loop.run_in_executor(None, wait)

    def _unwatch_exit(self) -> None:
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None

    def _on_exit(self, process: subprocess.Popen[bytes]) -> None:
        self._unwatch_exit()
        if self._pid is None:  # `kill` was quicker
            return
        if process.returncode is None:  # not reaped yet: no other process has its number, so the group can be killed
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
        # processes that left the group are found by their tag when the run is over; the pid may be reused by then
        self._leftover_key = -process.pid
        WARDEN.register(self._leftover_key, self.process_tag)
        WARDEN.unregister(process.pid)
        self._pid = None
        for stream in list(self._pipes):
            self._drain(stream)
        if not self.finished.done():
            self.finished.set_result(self._error(code))

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

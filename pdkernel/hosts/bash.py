"""
Runs a Bash step: one process, two files.

Knows the platform's file protocol (`$PIPEDREAM_STEPS`, `$PIPEDREAM_EXPORTS`). An exit status is not an error,
as on the platform; a signal is.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from pdkernel.errors import ExportNotJSONError, StepError
from pdkernel.execution import Stream
from pdkernel.guests import process_tree
from pdkernel.hosts.faults import died
from pdkernel.hosts.interpreters import find_bash
from pdkernel.hosts.recorder import StepRecorder
from pdkernel.hosts.warden import WARDEN
from pdkernel.model import Step

Launch = Callable[[Callable[[], "subprocess.Popen[bytes]"]], "subprocess.Popen[bytes]"]

_CHUNK = 1 << 16
_DRAIN_LIMIT = 4 << 20
_MOST_EXPORTS = 64 << 20


class BashStep:
    """A running Bash step."""

    def __init__(self, step: Step, folder: Path, steps: bytes, recorder: StepRecorder) -> None:
        """
        Prepare the files of *step*.

        Args:
            step: The step.
            folder: The run's scratch folder; ours is made inside it.
            steps: The JSON text of `steps`.
            recorder: Is told what the step does.
        """
        self.mark = secrets.token_hex(16)
        self._left_over: int | None = None
        self._step = step
        self._recorder = recorder
        self._folder = folder / f"bash-{self.mark[:8]}"
        self._folder.mkdir(mode=0o700, parents=True)
        self._script = self._folder / f"{step.name}.sh"
        self._steps = self._folder / "steps.json"
        self._exports = self._folder / "exports"
        # blank lines above, so that bash names the cell's own lines
        self._script.write_text("\n" * step.line_offset + step.source, encoding="utf-8", errors="replace")
        self._steps.write_bytes(steps)
        self._exports.touch(mode=0o600)
        self._loop = asyncio.get_running_loop()
        self._pipes: dict[Stream, int] = {}
        self._pid: int | None = None
        self._pidfd: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self.ended: asyncio.Future[StepError | None] = self._loop.create_future()

    @property
    def pid(self) -> int:
        """The process that was started."""
        assert self._process is not None
        return self._process.pid

    def start(self, cwd: Path, environment: Mapping[str, str], launch: Launch | None = None) -> None:
        """Start bash in *cwd*; *launch* is called with what starts it."""
        stdout, stderr = os.pipe(), os.pipe()

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                [find_bash(), "--noprofile", "--norc", self._script],
                cwd=cwd,
                env={
                    **environment,
                    "PIPEDREAM_STEPS": str(self._steps),
                    "PIPEDREAM_EXPORTS": str(self._exports),
                    process_tree.MARK: self.mark,
                },
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
        WARDEN.register(self._pid, self.mark)
        self._pipes = {"stdout": stdout[0], "stderr": stderr[0]}
        for stream, fd in self._pipes.items():
            os.set_blocking(fd, False)
            self._loop.add_reader(fd, self._read, stream)
        self._watch(self._process)

    def kill(self) -> None:
        """End the whole process tree at once. Blocks for a few milliseconds."""
        if self._process is None or self._pid is None:
            return
        process_tree.end([self._pid], [self.mark])
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.5)
        WARDEN.unregister(self._pid)
        self._pid = None

    def close(self) -> None:
        """End it if it has not ended, and remove the files."""
        self.kill()
        self._unwatch()
        for stream in list(self._pipes):
            self._drain(stream)
            self._close(stream)
        shutil.rmtree(self._folder, ignore_errors=True)

    def forget(self) -> None:
        """What it left over has been ended."""
        if self._left_over is not None:
            WARDEN.unregister(self._left_over)

    def end(self, error: StepError) -> None:
        """The step has failed, whatever it does from now on."""
        if not self.ended.done():
            self.ended.set_result(error)

    def exports(self) -> StepError | None:
        """Read what was exported; returns why that failed."""
        if not self._exports.is_file():
            return None
        if self._exports.stat().st_size > _MOST_EXPORTS:
            return ExportNotJSONError("$PIPEDREAM_EXPORTS holds more than 64 MiB.")
        failed = None
        text = self._exports.read_text(encoding="utf-8", errors="replace")
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                failed = self._export(number, line.removesuffix("\r")) or failed
        return failed

    def _export(self, number: int, line: str) -> StepError | None:
        name, equals, value = line.partition("=")
        if not equals or not name:
            self._recorder.warn(f"Line {number} of $PIPEDREAM_EXPORTS is not NAME=VALUE and was left out.")
            return None
        if not name.endswith(":json"):
            self._recorder.export(name, value)
            return None
        name = name.removesuffix(":json")
        try:
            parsed = json.loads(value, parse_constant=_refuse)
            json.dumps(parsed, allow_nan=False)  # a number too great for any machine reads as Infinity
        except (ValueError, RecursionError) as wrong:
            reason = f" ({wrong.msg} at column {wrong.colno})" if isinstance(wrong, json.JSONDecodeError) else ""
            return ExportNotJSONError(
                f"{name} is not JSON{reason}: line {number} of $PIPEDREAM_EXPORTS.",
                name="ExportNotJSONError",
                fix=f"Write {name}=TEXT for plain text, or make the JSON with jq: "
                f'echo "{name}:json=$(jq -c . file)" >> $PIPEDREAM_EXPORTS',
            )
        self._recorder.export(name, parsed)
        return None

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        if hasattr(os, "pidfd_open"):
            self._pidfd = os.pidfd_open(process.pid)
            self._loop.add_reader(self._pidfd, self._ended, process)
        else:  # not Linux: a thread waits

            def wait() -> None:
                process.wait()
                with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                    self._loop.call_soon_threadsafe(self._ended, process)

            self._loop.run_in_executor(None, wait)

    def _unwatch(self) -> None:
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None

    def _ended(self, process: subprocess.Popen[bytes]) -> None:
        self._unwatch()
        if self._pid is None:  # `kill` was quicker
            return
        if process.returncode is None:  # not reaped yet: its number is nobody else's, so its group can be ended by it
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
        # what has left the group is looked for when the run is over, by its mark; the pid may be another's by then
        self._left_over = -process.pid
        WARDEN.register(self._left_over, self.mark)
        WARDEN.unregister(process.pid)
        self._pid = None
        for stream in list(self._pipes):
            self._drain(stream)
        if self.ended.done():
            return
        if code < 0:
            self.ended.set_result(died(code, self._recorder.last_words()))
            return
        if code:
            words = self._recorder.last_words().rpartition("\n")[2]
            self._recorder.warn(f"exit status {code}" + (f": {words}" if words else ""))
        self.ended.set_result(None)

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
            self._recorder.output(stream, data)
        else:
            self._close(stream)
        return len(data)

    def _close(self, stream: Stream) -> None:
        fd = self._pipes.pop(stream, None)
        if fd is not None:
            self._loop.remove_reader(fd)
            os.close(fd)


def _refuse(constant: str) -> None:
    raise ValueError(constant)

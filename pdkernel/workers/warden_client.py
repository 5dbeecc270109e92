"""
The client of the warden: registers the processes that the warden ends, and the folders that it removes, when this process ends.

Each process has one warden, started at the first registration. PR_SET_PDEATHSIG would need no extra process, but it
follows the *thread* that started the child, and event loops run in threads that end early.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path

from pdkernel import runtimes

_WARDEN_PROGRAM = Path(runtimes.__file__).with_name("warden.py")


class WardenClient:
    """The warden of this process."""

    def __init__(self) -> None:
        self._pipe: int | None = None
        self._registered: dict[int, str] = {}
        self._folders: set[Path] = set()
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=self._reset_after_fork)

    def register(self, pid: int, process_tag: str) -> None:
        """Register process group *pid* (if above 0) and all processes with *process_tag*."""
        with self._lock:
            self._registered[pid] = process_tag
            self._write(f"+ {pid} {process_tag}\n")

    def unregister(self, pid: int) -> None:
        """Remove *pid*, which was reaped; the system may soon reuse its number."""
        with self._lock:
            tag = self._registered.pop(pid, None)
            if tag is not None:
                self._write(f"- {pid} {tag}\n")

    def register_folder(self, folder: Path) -> None:
        """Register *folder*: files of steps may hold credentials, which the record of a run does not."""
        with self._lock:
            self._folders.add(folder)
            self._write(_folder_line(">", folder))

    def unregister_folder(self, folder: Path) -> None:
        """Remove *folder*, which was deleted, from the list."""
        with self._lock:
            if folder in self._folders:
                self._folders.discard(folder)
                self._write(_folder_line("<", folder))

    def _write(self, line: str) -> None:
        if self._pipe is not None:
            try:
                os.write(self._pipe, line.encode())
            except BrokenPipeError:  # the warden was killed: start another
                os.close(self._pipe)
            else:
                return
        self._pipe = self._start()
        lines = [f"+ {pid} {tag}\n" for pid, tag in self._registered.items()]
        lines += [_folder_line(">", folder) for folder in self._folders]
        os.write(self._pipe, "".join(lines).encode())

    def _reset_after_fork(self) -> None:
        """Forget the parent's processes after a fork, and close the pipe: the parent's warden must not wait for the child."""
        if self._pipe is not None:
            os.close(self._pipe)
        self._pipe = None
        self._registered = {}
        self._folders = set()
        self._lock = threading.Lock()

    @staticmethod
    def _start() -> int:
        """Start a warden, and return the pipe to it."""
        read, write = os.pipe()
        try:
            os.posix_spawn(
                sys.executable,
                [sys.executable, "-I", "-S", str(_WARDEN_PROGRAM)],
                {},
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_DUP2, read, 3),
                ],
                setsid=True,
                setsigmask=[],
                setsigdef=[signal.SIGPIPE],
            )
        except BaseException:
            os.close(write)
            raise
        finally:
            os.close(read)
        return write


def _folder_line(sign: str, folder: Path) -> str:
    return f"{sign} {json.dumps(str(folder))}\n"  # JSON: a path may contain spaces and line ends


WARDEN = WardenClient()
"""The warden of this operating system process."""

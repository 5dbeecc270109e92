"""
Our side of the warden: tells it which processes to end, and which folders to remove, when we are gone.

Knows the pipe to the warden and how to start it. Which processes there are, others say. There is one warden
for each owner process; it is started with the first registration. PR_SET_PDEATHSIG would need no extra
process, but it follows the *thread* that started the child, and event loops run in threads that end early.
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
        """End process group *pid* (if above 0), and whatever carries *process_tag*, when we are gone."""
        with self._lock:
            self._registered[pid] = process_tag
            self._write(f"+ {pid} {process_tag}\n")

    def unregister(self, pid: int) -> None:
        """*pid* has been ended and reaped; its number may soon be another's."""
        with self._lock:
            mark = self._registered.pop(pid, None)
            if mark is not None:
                self._write(f"- {pid} {mark}\n")

    def register_folder(self, folder: Path) -> None:
        """Remove *folder* when we are gone: steps' files hold what the record of a run does not, credentials too."""
        with self._lock:
            self._folders.add(folder)
            self._write(_folder_line(">", folder))

    def unregister_folder(self, folder: Path) -> None:
        """*folder* has been removed."""
        with self._lock:
            if folder in self._folders:
                self._folders.discard(folder)
                self._write(_folder_line("<", folder))

    def _write(self, line: str) -> None:
        if self._pipe is not None:
            try:
                os.write(self._pipe, line.encode())
            except BrokenPipeError:  # someone has killed the warden: get another
                os.close(self._pipe)
            else:
                return
        self._pipe = self._start()
        lines = [f"+ {pid} {mark}\n" for pid, mark in self._registered.items()]
        lines += [_folder_line(">", folder) for folder in self._folders]
        os.write(self._pipe, "".join(lines).encode())

    def _reset_after_fork(self) -> None:
        """After a fork: the parent's processes are not ours to end, and its warden must not wait for us."""
        if self._pipe is not None:
            os.close(self._pipe)
        self._pipe = None
        self._registered = {}
        self._folders = set()
        self._lock = threading.Lock()

    @staticmethod
    def _start() -> int:
        """Start a warden; returns the pipe to it."""
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
    return f"{sign} {json.dumps(str(folder))}\n"  # JSON: a path may hold blanks and even ends of lines


WARDEN = WardenClient()
"""One a process, as the operating system has it."""

"""The command `pdkernel` in a temporary folder."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pdkernel.common.safe_files import STEP_PATHS_VARIABLE
from tests.cli.fork_server import ForkedCommand, ForkServer
from tests.notebook_files import notebook_of

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "pdkernel")


@dataclass
class Ended:
    """A command that has ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """The one JSON value on stdout."""
        return json.loads(self.stdout)

    @property
    def lines(self) -> list[str]:
        """All output of the command."""
        return (self.stdout + self.stderr).splitlines()


class Shell:
    """Runs `pdkernel` in one folder."""

    def __init__(self, folder: Path, fork_server: ForkServer) -> None:
        self.folder = folder
        self.fork_server = fork_server
        self.environ: dict[str, str] = {}
        """Environment variables besides those of every command."""

    def __call__(
        self, *args: str, stdin: str = "", within: Sequence[str] = (), before: Sequence[object] = (), **environ: str
    ) -> Ended:
        """
        Run the command to its end; outbound calls are answered by the stand-in by default.

        Args:
            args: The arguments of the command.
            stdin: The standard input.
            within: A command that runs `pdkernel`, which it gets as its arguments.
            before: A call in the command's process before the command, as in `ForkServer.start`.
            environ: Additional environment variables.
        """
        environ = {**self.environment(), **environ}
        if not within:
            done = self.fork_server.run(args, folder=self.folder, environ=environ, stdin=stdin, before=before)
            return Ended(done.returncode, done.stdout, done.stderr)
        done = subprocess.run(
            [*within, *COMMAND, *args],
            cwd=self.folder,
            env=environ,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def start(
        self, *args: str, stdin: int | None = None, stderr: int | None = None, before: Sequence[object] = ()
    ) -> ForkedCommand:
        """
        Start the command in the background, after the call *before*, as in `ForkServer.start`.

        Its standard input is *stdin* or nothing, its standard error *stderr* or a pipe.
        """
        environ = self.environment()
        return self.fork_server.open(
            args, folder=self.folder, environ=environ, stdin=stdin, stderr=stderr, before=before
        )

    def on_terminal(
        self, *args: str, answers: Sequence[tuple[str, str]] = (), opens: tuple[str, Path] | None = None, **environ: str
    ) -> tuple[int, str]:
        """
        Run the command on a terminal.

        Args:
            args: The arguments of the command.
            answers: Questions with their answers; each answer is typed once after its question appears.
            opens: A pattern, and a file that is created as soon as it is shown: a step may wait for that.
            environ: Additional environment variables.

        Returns:
            The exit status, and all that the terminal shows.
        """
        main, terminal = pty.openpty()
        process = self.fork_server.open(
            args,
            folder=self.folder,
            environ={**self.environment(), "TERM": "xterm-256color", **environ},
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            before=["os:setsid"],
        )
        os.close(terminal)
        shown = ""
        waiting = list(answers)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if select.select([main], [], [], 0.2)[0]:
                try:
                    piece = os.read(main, 65536)
                except OSError:  # the terminal is closed
                    break
                if not piece:
                    break
                shown += piece.decode(errors="replace")
            if waiting and waiting[0][0] in shown:
                os.write(main, f"{waiting.pop(0)[1]}\n".encode())
            if opens and re.search(opens[0], shown):
                opens[1].touch()
        status = process.wait(timeout=60)
        os.close(main)
        assert not waiting, shown
        return status, shown

    def environment(self) -> dict[str, str]:
        """The environment variables of every command."""
        return {
            # a shim of pyenv takes long to find out that its version is not selected, and `doctor` tries it
            "PATH": os.pathsep.join(folder for folder in os.environ["PATH"].split(os.pathsep) if "shims" not in folder),
            "HOME": str(self.folder),
            "PYTHONPATH": str(ROOT),
            "PDKERNEL_EGRESS": "stand-in=slack",
            "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring",
            STEP_PATHS_VARIABLE: os.environ[STEP_PATHS_VARIABLE],
            **self.environ,
        }

    def notebook(self, *cells: str, name: str = "work.ipynb") -> str:
        """Write a notebook of code cells."""
        notebook_of(self.folder / name, *cells)
        return name

    def write(self, name: str, text: str) -> str:
        """Write a file."""
        (self.folder / name).write_text(text, encoding="utf-8")
        return name


@pytest.fixture
def pdkernel(tmp_path: Path, fork_server: ForkServer) -> Shell:
    """The command in an empty folder."""
    return Shell(tmp_path, fork_server)

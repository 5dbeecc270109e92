"""
A process with all modules of the package loaded that forks one child for each command.

A command has its own process, folder, environment and streams, as from a shell, but it does not import the modules again.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pdkernel
from pdkernel.cli import main

ROOT = Path(__file__).parents[2]
LIBRARIES = ("keyring.backends.fail", "pipedream.client", "trustme")
"""Libraries that commands import when they use them, and that many tests would import again."""
NOT_PRELOADED = ("pdkernel.__main__", "pdkernel.kernel", "pdkernel.magics", "pdkernel.widgets", "pdkernel.runtimes")


class ForkServer:
    """
    Runs commands in forks of one process.

    Args:
        environ: The environment of the process; a command has its own environment.
        within: A command that runs the process, which it gets as its arguments.

    Attributes:
        pid: The id of the process.
    """

    def __init__(self, environ: Mapping[str, str], *, within: Sequence[str] = ()) -> None:
        self._client, server = socket.socketpair()
        self._process = subprocess.Popen(
            [*within, sys.executable, "-m", "tests.cli.fork_server", str(server.fileno())],
            cwd=ROOT,
            env=dict(environ),
            pass_fds=[server.fileno()],
            stdin=subprocess.DEVNULL,
        )
        server.close()
        self.pid = self._process.pid

    def run(
        self,
        args: Sequence[str],
        *,
        folder: Path,
        environ: Mapping[str, str],
        stdin: str = "",
        timeout: float = 100,
        before: Sequence[object] = (),
    ) -> subprocess.CompletedProcess[str]:
        """Run `pdkernel` as `start` does, in *folder*, to its end. Raises `TimeoutError` after *timeout* seconds."""
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            given.write(stdin.encode())
            given.seek(0)
            request = {"args": list(args), "folder": str(folder), "environ": dict(environ), "before": list(before)}
            self._client.settimeout(timeout)
            status = self._ask(request, (given.fileno(), out.fileno(), err.fileno()))
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(args, status, out.read().decode(), err.read().decode())

    def start(
        self,
        args: Sequence[str],
        *,
        folder: Path,
        environ: Mapping[str, str],
        streams: tuple[int, int, int],
        before: Sequence[object] = (),
    ) -> int:
        """
        Start `pdkernel` with *args* in the background.

        Args:
            args: The arguments of the command.
            folder: The current folder of the command.
            environ: The environment of the command.
            streams: Its standard input, output and error.
            before: `MODULE:FUNCTION` and arguments of a call in the command's process before the command; or nothing.

        Returns:
            The id of the command's process.
        """
        request = {"args": list(args), "folder": str(folder), "environ": dict(environ), "before": list(before)}
        return self._ask({**request, "waits": False}, streams)

    def _ask(self, request: Mapping[str, object], streams: tuple[int, int, int]) -> int:
        text = json.dumps(request).encode()
        socket.send_fds(self._client, [len(text).to_bytes(4, "big")], streams)
        self._client.sendall(text)
        return int.from_bytes(self._client.recv(4), "big", signed=True)

    def close(self) -> None:
        """End the process."""
        self._client.close()
        self._process.wait(10)


def serve(connection: socket.socket) -> None:
    """Fork a child for each request on *connection*, and answer with its exit status, or with its id if it runs on."""
    for module in pkgutil.walk_packages(pdkernel.__path__, "pdkernel."):
        if not module.name.startswith(NOT_PRELOADED):
            with contextlib.suppress(ModuleNotFoundError):  # an extra is not installed
                importlib.import_module(module.name)
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.freeze()
    while True:
        head, streams, _, _ = socket.recv_fds(connection, 4, 3)
        if not head:
            return
        text = b""
        while len(text) < int.from_bytes(head, "big"):
            text += connection.recv(1 << 16)
        request = json.loads(text)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG) != (0, 0):  # children in the background that have ended
                pass
        child = os.fork()
        if child == 0:
            connection.close()
            _become(request, streams)
        for stream in streams:
            os.close(stream)
        answer = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) if request.get("waits", True) else child
        connection.sendall(answer.to_bytes(4, "big", signed=True))


def _become(request: dict[str, object], streams: list[int]) -> NoReturn:
    """Run the command of *request* in this process, which ends."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(str(request["folder"]))
    os.environ.clear()
    os.environ.update(request["environ"])  # type: ignore[call-overload]
    sys.argv = ["pdkernel", *request["args"]]  # type: ignore[misc]
    sys.path[0] = str(request["folder"])
    try:
        before: Any = request.get("before")
        if before:
            module, _, function = before[0].partition(":")
            getattr(importlib.import_module(module), function)(*before[1:])
        main()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    except BaseException:
        traceback.print_exc()
        status = 1
    # what the interpreter does at its end, but for the modules: to free them takes longer than most commands
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))

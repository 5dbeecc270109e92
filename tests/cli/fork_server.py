"""
A process with all modules of the package loaded that forks one child for each command.

A command has its own process, folder, environment and streams, as from a shell, but it does not import the modules again.
"""

from __future__ import annotations

import atexit
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
from typing import NoReturn

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
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._client, server = socket.socketpair()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.cli.fork_server", str(server.fileno())],
            cwd=ROOT,
            env=dict(environ),
            pass_fds=[server.fileno()],
            stdin=subprocess.DEVNULL,
        )
        server.close()

    def run(
        self, args: Sequence[str], *, folder: Path, environ: Mapping[str, str], stdin: str, timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Run `pdkernel` with *args* in *folder* to its end. Raises `TimeoutError` after *timeout* seconds."""
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            given.write(stdin.encode())
            given.seek(0)
            request = json.dumps({"args": list(args), "folder": str(folder), "environ": dict(environ)}).encode()
            self._client.settimeout(timeout)
            socket.send_fds(
                self._client, [len(request).to_bytes(4, "big")], [given.fileno(), out.fileno(), err.fileno()]
            )
            self._client.sendall(request)
            status = int.from_bytes(self._client.recv(4), "big", signed=True)
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(args, status, out.read().decode(), err.read().decode())

    def close(self) -> None:
        """End the process."""
        self._client.close()
        self._process.wait(10)


def serve(connection: socket.socket) -> None:
    """Fork a child for each request on *connection*, and answer with its exit status."""
    for module in pkgutil.walk_packages(pdkernel.__path__, "pdkernel."):
        if not module.name.startswith(NOT_PRELOADED):
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
        child = os.fork()
        if child == 0:
            connection.close()
            _become(json.loads(text), streams)
        for stream in streams:
            os.close(stream)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        connection.sendall(status.to_bytes(4, "big", signed=True))


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

"""
A process with all modules of the package loaded that forks one child for each command.

A command has its own process, folder, environment and streams, as from a shell, but it does not import the modules again.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import pdkernel
from pdkernel.cli import main
from pdkernel.common.blocking import FORBID_VARIABLE
from pdkernel.egress.sandbox import detect_sandbox
from pdkernel.journal.sqlite import SqliteBackend
from pdkernel.storage import Project

ROOT = Path(__file__).parents[2]
LIBRARIES = (
    *("anyio._backends._asyncio", "certifi", "cronsim", "cryptography.hazmat.backends.openssl.backend"),
    *("dateparser.date", "dotenv.parser", "genson", "httpcore", "httpx", "jsonschema", "jupytext", "jwt"),
    *("jupyter_client.kernelspec", "keyring.backends.fail", "nbformat", "packaging.requirements"),
    *("pipedream.accounts.client", "pipedream.client", "pipedream.deployed_triggers.client", "pipedream.pipedream"),
    *("pipedream.users.client", "psutil", "ruamel.yaml", "trustme", "uvloop"),
)
"""Libraries that commands import when they use them, and that many tests would import again."""
NOT_PRELOADED = (
    "pdkernel.__main__",
    "pdkernel.kernel",
    "pdkernel.kit.magics",
    "pdkernel.kit.widgets",
    "pdkernel.runtimes",
)


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

    def open(
        self,
        args: Sequence[str],
        *,
        folder: Path,
        environ: Mapping[str, str],
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        before: Sequence[object] = (),
    ) -> ForkedCommand:
        """
        Start `pdkernel` as `start` does.

        Args:
            args: The arguments of the command.
            folder: The current folder of the command.
            environ: The environment of the command.
            stdin: The standard input; default: nothing.
            stdout: The standard output; default: a pipe.
            stderr: The standard error; default: a pipe.
            before: A call before the command.
        """
        request = {"args": list(args), "folder": str(folder), "environ": dict(environ), "before": list(before)}
        with ExitStack() as theirs:

            def pipe() -> tuple[int, int]:
                reads, writes = os.pipe()
                theirs.callback(os.close, writes)
                return reads, writes

            nothing = theirs.enter_context(Path(os.devnull).open()).fileno()
            ours, streams = [], [nothing if stdin is None else stdin]
            for given in (stdout, stderr, None):  # the last is for the exit status
                reads, writes = pipe() if given is None else (-1, given)
                ours.append(reads)
                streams.append(writes)
            return ForkedCommand(self._ask({**request, "waits": False}, streams), *ours)

    def _ask(self, request: Mapping[str, object], streams: Sequence[int]) -> int:
        text = json.dumps(request).encode()
        socket.send_fds(self._client, [len(text).to_bytes(4, "big")], streams)
        self._client.sendall(text)
        return int.from_bytes(self._client.recv(4), "big", signed=True)

    def close(self) -> None:
        """End the process."""
        self._client.close()
        self._process.wait(60)  # on a busy machine, it may still import


@functools.cache
def shared_server() -> ForkServer:
    """Return the server that the tests of this process share; it ends with the process."""
    server = ForkServer({"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), FORBID_VARIABLE: "1"})
    atexit.register(server.close)
    return server


class ForkedCommand:
    """
    A command in the background, with the part of `subprocess.Popen` that tests use.

    Attributes:
        pid: The id of the process.
        stdout: The pipe from its standard output, or None.
        stderr: The pipe from its standard error, or None.
        returncode: Its exit status, once it is known; that of a process that was killed is `-SIGKILL`.
    """

    def __init__(self, pid: int, stdout: int, stderr: int, status: int) -> None:
        self.pid = pid
        self.stdout = os.fdopen(stdout, encoding="utf-8") if stdout >= 0 else None
        self.stderr = os.fdopen(stderr, encoding="utf-8") if stderr >= 0 else None
        self.returncode: int | None = None
        self._status = status
        self._process = os.pidfd_open(pid)  # the process is not awaited before the next request

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stream in (self.stdout, self.stderr):
            if stream is not None:
                stream.close()
        self.wait()

    def send_signal(self, number: int) -> None:
        """Send the signal *number*, unless the process has ended."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._process, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def poll(self) -> int | None:
        """The exit status, or None while the process runs."""
        try:
            return self.wait(0)
        except TimeoutError:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the process, and return its exit status. Raises `TimeoutError`."""
        if self.returncode is None:
            if not select.select([self._process], [], [], timeout)[0]:
                raise TimeoutError(f"The command still runs after {timeout} s.")
            ended = select.select([self._status], [], [], 0)[0] and os.read(self._status, 1)
            self.returncode = ended[0] if ended else -signal.SIGKILL
            os.close(self._status)
            os.close(self._process)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Read both pipes to their ends, and wait for the end of the process. Raises `TimeoutError`."""
        texts = ["", ""]

        def read(place: int) -> None:
            stream = (self.stdout, self.stderr)[place]
            if stream is not None:
                with stream:
                    texts[place] = stream.read()

        readers = [threading.Thread(target=read, args=[place]) for place in range(2)]
        for reader in readers:
            reader.start()
        try:
            self.wait(timeout)
        except TimeoutError:
            self.kill()  # which ends the readers, too
            raise
        finally:
            for reader in readers:
                reader.join()
        return texts[0], texts[1]


def serve(connection: socket.socket) -> None:
    """Fork a child for each request on *connection*, and answer with its exit status, or with its id if it runs on."""
    gc.disable()
    sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]  # see `tests/conftest.py`
    for module in pkgutil.walk_packages(pdkernel.__path__, "pdkernel."):
        if not module.name.startswith(NOT_PRELOADED):
            with contextlib.suppress(ModuleNotFoundError):  # an extra is not installed
                importlib.import_module(module.name)
    for name in LIBRARIES:
        importlib.import_module(name)
    detect_sandbox()  # which tries the sandbox once per process
    with (
        tempfile.TemporaryDirectory() as folder,
        Project.open(Path(folder) / "project"),
    ):  # SQLAlchemy caches how it compiles
        SqliteBackend(Path(folder) / "journal.db").create_tables()
    gc.freeze()
    gc.enable()
    while True:
        head, streams, _, _ = socket.recv_fds(connection, 4, 4)
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
    """Run the command of *request* in this process, which ends and writes its exit status to the fourth of *streams*, if given."""
    for number, stream in enumerate(streams[:3]):
        os.dup2(stream, number)
        os.close(stream)
    for written in (sys.stdout, sys.stderr):
        written.reconfigure(line_buffering=written is sys.stderr or written.isatty())  # type: ignore[union-attr]  # a `TextIOWrapper`
    for stream in streams[3:]:
        os.set_inheritable(stream, False)
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
    for stream in streams[3:]:
        os.write(stream, bytes([status & 0xFF]))
    os._exit(status)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))

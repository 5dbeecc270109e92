"""
The template of the Python workers: a process that has imported modules of the standard library, and forks the workers.

It never runs code of a package, because it has rights that a worker gives up: packages, and what they run at the start of each
process, are loaded in the fork, after it has given up its rights. `zygote` describes the processes and their messages.
"""

from __future__ import annotations

import _socket
import gc
import importlib
import json
import os
import random
import signal
import site
import sys
import threading
import time
from typing import Any, NoReturn

from . import egress_hook as _egress_hook  # noqa: F401 - a fork routes its calls
from . import main, process_reset, step_process

COMMON_MODULES = (
    "logging", "datetime", "random", "hashlib", "base64", "urllib.parse", "ssl", "http.client", "email.parser",
    "email.message", "urllib.request", "uuid", "subprocess", "tempfile", "decimal", "csv", "asyncio", "http.cookiejar",
    "concurrent.futures.thread", "zipfile", "gzip", "html", "mimetypes", "queue", "http.cookies", "ipaddress", "encodings.idna",
)  # fmt: skip
"""Modules of the standard library that steps and their packages often import. Their import is harmless."""

_IDLE_S = 1.0
"""How long nothing has happened before `COMMON_MODULES` are imported: most commands have ended, and their run had the processor alone."""
_LATEST_S = 3.0
"""How long after its start the template imports them at the latest, if something always happens."""
_FIRST_VERSION_WITH_PREFIX = (3, 14)  # earlier ones have the prefix of an environment from `site`, not from their start


class Template:
    """The state of the template."""

    def __init__(self, link: _socket.socket, control: int, found: dict[str, Any]) -> None:
        """
        Create the state.

        Args:
            link: The socket of the starter.
            control: The socket of pdkernel.
            found: What this system permits.
        """
        self._link = link
        self._control = control
        self._found = found

    def serve(self) -> NoReturn:
        """Report, start workers until the starter ends, and import `COMMON_MODULES` when there is time."""
        site.setquit()  # the names that `site` adds, without the packages of this interpreter
        site.setcopyright()
        site.sethelper()
        process_reset.keep_process()
        main.load_helpers()
        os.write(self._control, json.dumps(self._found).encode())
        read_end, write_end = os.pipe()  # the streams of a fork have descriptors of the same kind
        for end, number in ((write_end, 1), (write_end, 2), (read_end, self._control)):
            os.dup2(end, number, inheritable=False)
        os.close(read_end)
        os.close(write_end)
        self._runtime = main.create_runtime()
        gc.collect()
        gc.disable()
        parent = step_process.StepParent(
            self._link,
            step_process.fork,
            in_namespaces=self._found["namespaces"] is None,
            run_worker=self._run_worker,
        )
        self._freeze()
        latest = time.monotonic() + _LATEST_S
        while (left := latest - time.monotonic()) > 0 and parent.handle_events(min(left, _IDLE_S)):
            pass
        for name in COMMON_MODULES:
            while parent.handle_events(0):
                pass
            importlib.import_module(name)
            self._freeze()
        self._rehearse()
        self._freeze()
        parent.serve()

    def _freeze(self) -> None:
        """Prepare what is in memory for forks."""
        self._runtime.keep_process()
        process_reset.set_environment(dict(os.environ))  # it remembers the environment, which is dear to read
        gc.freeze()

    @staticmethod
    def _rehearse() -> None:
        """Let the forks find the interpreter's caches and optimized code in the memory of this process."""
        handler = signal.getsignal(signal.SIGCHLD)
        main.rehearse()
        signal.signal(signal.SIGCHLD, handler)  # which a step starts without

    def _run_worker(self, python: str, environment: dict[str, str]) -> None:
        """Be a Python worker of *python*, which may be an environment of this interpreter."""
        gc.freeze()  # otherwise, the collector would run at once
        gc.enable()
        _follow_fork()
        process_reset.set_environment(environment)
        main.route_outbound_calls()
        if load_packages(python):
            self._runtime.keep_process()
            process_reset.keep_process()
        main.main(self._runtime)


def load_packages(python: str) -> bool:
    """
    Let this process be one of the interpreter *python*: with its packages, `.pth` files and `sitecustomize`.

    Call it in a worker that has given up its rights: it may run code of packages. Returns False if there are no packages.
    """
    sys.executable = python
    folder = os.path.dirname(os.path.dirname(python))  # noqa: PTH120 - pathlib is slower, here and below
    if os.path.isfile(os.path.join(folder, "pyvenv.cfg")):  # noqa: PTH113, PTH118
        sys.prefix = sys.exec_prefix = folder
        if not any(map(_has_entries, site.getsitepackages([folder]))):
            return False
        if sys.version_info >= _FIRST_VERSION_WITH_PREFIX:
            site.PREFIXES = [folder, folder]
    site.main()
    return True


def _has_entries(folder: str) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    except OSError:
        return False


def _follow_fork() -> None:
    """
    Do what `os.fork` does for the common modules. OpenSSL notices a fork.

    The other functions that common modules register with `os.fork` release locks, which no thread of the parent holds.
    """
    random.seed()  # other numbers than in sibling processes
    vars(threading.main_thread())["_native_id"] = threading.get_native_id()

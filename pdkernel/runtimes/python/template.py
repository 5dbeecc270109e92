"""
The template of the Python workers: a process that has imported modules, and forks the workers.

`zygote` describes the processes and their messages.
"""

from __future__ import annotations

import _socket
import gc
import importlib
import json
import os
import signal
import site
import sys
from typing import Any, NoReturn

from . import egress_hook, main, preload, process_reset, step_process


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

    def serve(self, names: list[str]) -> NoReturn:
        """Import the modules *names* if their import is harmless, report, and start workers until the starter ends."""
        if sys.flags.no_site:  # the names that `site` adds, without the packages of this interpreter
            site.setquit()
            site.setcopyright()
            site.sethelper()
        main.load_helpers()
        egress_hook.refuse_connections()
        if names:
            preload.import_common_modules()
        read, has_hooks = preload.import_ahead(names)
        os.write(self._control, json.dumps({**self._found, "read": read}).encode())
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
            os.fork if has_hooks else step_process.fork,
            in_namespaces=self._found["namespaces"] is None,
            run_worker=self._run_worker,
        )
        self._freeze()
        for name in preload.COMMON_MODULES:
            while parent.handle_events(0):
                pass
            importlib.import_module(name)
            self._freeze()
        self._rehearse()
        self._freeze()
        parent.serve()

    def _freeze(self) -> None:
        """Prepare what is in memory for forks."""
        self._runtime.keep_modules()
        process_reset.set_environment(dict(os.environ))  # it remembers the environment, which is dear to read
        gc.freeze()

    @staticmethod
    def _rehearse() -> None:
        """Let the forks find the interpreter's caches and optimized code in the memory of this process."""
        handler = signal.getsignal(signal.SIGCHLD)
        main.rehearse()
        signal.signal(signal.SIGCHLD, handler)  # which a step starts without

    def _run_worker(self, python: str, environment: dict[str, str]) -> None:
        """Be a Python worker of the interpreter *python*, which may be an environment without packages of this interpreter."""
        if python != sys.executable:
            sys.executable = python
            sys.prefix = sys.exec_prefix = os.path.dirname(os.path.dirname(python))  # noqa: PTH120 - pathlib is slower
        gc.freeze()  # otherwise, the collector would run at once
        gc.enable()
        preload.follow_fork()
        process_reset.set_environment(environment)
        main.main(self._runtime)

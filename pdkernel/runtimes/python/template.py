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
import site
import sys
from types import ModuleType
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
        self._modules: dict[str, ModuleType] = {}

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
        read = preload.import_ahead(names)
        os.write(self._control, json.dumps({**self._found, "read": read}).encode())
        os.close(self._control)
        gc.collect()
        gc.disable()
        parent = step_process.StepParent(
            self._link, os.fork, in_namespaces=self._found["namespaces"] is None, run_worker=self._run_worker
        )
        self._freeze()
        for name in preload.COMMON_MODULES:
            while parent.handle_events(0):
                pass
            importlib.import_module(name)
            self._freeze()
        parent.serve()

    def _freeze(self) -> None:
        """Prepare what is in memory for forks."""
        self._modules = dict(sys.modules)
        process_reset.set_environment(dict(os.environ))  # it remembers the environment, which is dear to read
        gc.freeze()

    def _run_worker(self, python: str, environment: dict[str, str]) -> None:
        """Be a Python worker of the interpreter *python*, which may be an environment without packages of this interpreter."""
        if python != sys.executable:
            sys.executable = python
            sys.prefix = sys.exec_prefix = os.path.dirname(os.path.dirname(python))  # noqa: PTH120 - pathlib is slower
        gc.freeze()  # otherwise, the collector would run at once
        gc.enable()
        preload.reseed()
        main.run_forked(self._modules, environment)

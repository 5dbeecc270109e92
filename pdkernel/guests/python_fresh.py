"""
Puts the process back to how a Python step should find it.

Knows what one step may change that the next would see: environment, working folder, standard streams, builtins,
the import path, log handlers, signals. What packages did while they were imported is theirs to keep, because they are
imported once.
"""

from __future__ import annotations

import builtins
import os
import signal
import sys
from typing import Any

_BUILTINS = dict(vars(builtins))
_SYS = frozenset(vars(sys))
_SYS_PATH = list(sys.path)
_SIGNALS = {
    number: signal.getsignal(number)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2)
}


def freshen(environment: dict[str, str], folder: str) -> None:
    """Undo what earlier steps did, and set the process up with *environment* in *folder*."""
    found = dict(os.environ)
    if found != environment:
        for name in found.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(item for item in environment.items() if found.get(item[0]) != item[1])
    os.chdir(folder)
    sys.stdout, sys.stderr, sys.stdin = sys.__stdout__, sys.__stderr__, sys.__stdin__
    sys.path[:] = _SYS_PATH
    sys.argv[:] = [""]
    for name in vars(builtins).keys() - _BUILTINS.keys():
        delattr(builtins, name)
    vars(builtins).update(_BUILTINS)
    for name in vars(sys).keys() - _SYS:
        delattr(sys, name)
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in _SIGNALS.items():
        signal.signal(number, handler)
    tempfile, logging = sys.modules.get("tempfile"), sys.modules.get("logging")
    if tempfile is not None:
        tempfile.tempdir = None  # type: ignore[attr-defined]
    if logging is not None:
        _quieten(logging)


def _quieten(logging: Any) -> None:
    """Take away the handlers that print to the step's streams: each run would add another."""
    logging.root.handlers[:] = []
    logging.root.setLevel(logging.WARNING)
    for logger in logging.root.manager.loggerDict.values():
        handlers = getattr(logger, "handlers", ())
        if handlers:
            ours = (sys.__stdout__, sys.__stderr__)
            handlers[:] = [handler for handler in handlers if getattr(handler, "stream", None) not in ours]

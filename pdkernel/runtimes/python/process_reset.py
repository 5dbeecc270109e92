"""
Resets the process before each Python step, and finds descriptors that runs of others would notice.

An earlier step may have changed environment, working folder, standard streams, builtins, import path, log handlers and signals.
Changes that packages made during their import remain, because packages are imported once.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _thread
import builtins
import os
import signal
import stat
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

_DESCRIPTORS = "/proc/self/fd"
_LEVEL_OF_NEW_ROOT = 30  # `logging.WARNING`, whose module may not be imported
_ENVIRON = os.environ
_read_time_zone = time.tzset
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2)


class _Kept:
    """What each step finds: builtins, the names of `sys`, the import path, and the handlers of signals."""

    builtins: Mapping[str, Any] = MappingProxyType({})
    names_of_sys: frozenset[str] = frozenset()
    path: Sequence[str] = ()
    signals: Mapping[int, Any] = MappingProxyType({})


def keep_process() -> None:
    """Let each step find what the process has now."""
    _Kept.builtins = dict(vars(builtins))
    _Kept.names_of_sys = frozenset(vars(sys))
    _Kept.path = tuple(sys.path)
    _Kept.signals = {int(number): _signal.getsignal(number) for number in _SIGNALS}


def reset_process(environment: dict[str, str], folder: str) -> None:
    """Undo the changes of earlier steps, and set *environment* and the working *folder*."""
    set_environment(environment)
    _read_time_zone()  # otherwise, the time zone stays that of an earlier step or of this process's start, whatever `TZ` is
    os.chdir(folder)
    sys.stdout, sys.stderr, sys.stdin = sys.__stdout__, sys.__stderr__, sys.__stdin__
    sys.path[:] = _Kept.path
    sys.argv[:] = [""]
    restore_builtins()
    if not _Kept.names_of_sys.issuperset(vars(sys)):
        for name in vars(sys).keys() - _Kept.names_of_sys:
            delattr(sys, name)
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in _Kept.signals.items():
        # without a change, no system call; `signal.signal` converts to enums, which takes seven times as long
        if _signal.getsignal(number) is not handler:
            _signal.signal(number, handler)
    tempfile, logging = sys.modules.get("tempfile"), sys.modules.get("logging")
    if tempfile is not None:
        tempfile.tempdir = None  # type: ignore[attr-defined]
    if logging is not None:
        _reset_logging(logging)


def describe_process() -> object:
    """Return what is equal as long as no code has changed what `reset_process` resets, opened a descriptor, or started a thread."""
    logging: Any = sys.modules.get("logging")
    loggers = [logging.root, *logging.root.manager.loggerDict.values()] if logging is not None else []
    handlers = [each for logger in loggers for each in getattr(logger, "handlers", ())]
    streams = (sys.__stdout__, sys.__stderr__)
    return (
        os.environ is _ENVIRON and dict(vars(_ENVIRON)["_data"]),
        os.getcwd(),  # noqa: PTH109 - a string
        (sys.stdin, sys.stdout, sys.stderr, *streams, sys.__stdin__),
        tuple(sys.path),
        tuple(sys.argv),
        dict(vars(builtins)),
        frozenset(vars(sys)),
        signal.getitimer(signal.ITIMER_REAL),
        [_signal.getsignal(number) for number in _SIGNALS],
        getattr(sys.modules.get("tempfile"), "tempdir", None),
        logging.root.level if logging is not None else _LEVEL_OF_NEW_ROOT,
        [each for each in handlers if each in logging.root.handlers or getattr(each, "stream", None) in streams],
        sorted(_list_descriptors()),
        _thread._count(),  # noqa: SLF001 - as `main` counts
    )


def holds_shared_descriptor(known: Collection[str]) -> bool:
    """
    Return whether a descriptor that is not *known* occupies an address, or locks a file, that all processes share.

    Such a descriptor is a socket with an address and without a peer, because other runs cannot use its port, or would connect to it.
    """
    return any(name not in known and _is_shared(name) for name in _list_descriptors())


def _list_descriptors() -> list[str]:
    """List the open descriptors, and the descriptor of the listing itself."""
    try:
        return os.listdir(_DESCRIPTORS)  # noqa: PTH208 - after each step
    except OSError:
        return []


def _mode(descriptor: str) -> int | None:
    try:
        return os.fstat(int(descriptor)).st_mode
    except OSError:  # the descriptor of the listing itself
        return None


def _is_shared(descriptor: str) -> bool:
    mode = _mode(descriptor)
    if mode is None:
        return False
    if stat.S_ISSOCK(mode):
        return _is_bound(int(descriptor))
    try:
        facts = os.open(
            f"/proc/self/fdinfo/{descriptor}", os.O_RDONLY
        )  # the step may have replaced functions that `open` needs
    except OSError:
        return False
    try:
        return b"\nlock:" in os.read(facts, 4096)
    finally:
        os.close(facts)


def _is_bound(descriptor: int) -> bool:
    import _socket

    try:
        found = _socket.socket(fileno=os.dup(descriptor))
    except OSError:
        return False
    try:
        address = found.getsockname()
        if not (address[1] if found.family in (_socket.AF_INET, _socket.AF_INET6) else address):
            return False
        found.getpeername()
    except OSError:
        return found.family in (_socket.AF_INET, _socket.AF_INET6, _socket.AF_UNIX)
    finally:
        found.close()
    return False


def restore_builtins() -> None:
    """Undo changes of builtins, which the program of the worker needs, too."""
    vars(builtins).update(_Kept.builtins)
    if len(vars(builtins)) > len(_Kept.builtins):
        for name in vars(builtins).keys() - _Kept.builtins.keys():
            delattr(builtins, name)


class _LastEnvironment:
    """The environment that was set last, and the encoded content of `os.environ` at that time."""

    environment: Mapping[str, str] = MappingProxyType({})
    encoded: Mapping[bytes, bytes] = MappingProxyType({})


def set_environment(environment: dict[str, str]) -> None:
    """Let `os.environ` be *environment*."""
    os.environ = _ENVIRON  # noqa: B003 - a step may have put another mapping in its place
    encoded = vars(_ENVIRON)["_data"]  # reading all of `os.environ` decodes every value of it
    if environment is _LastEnvironment.environment and encoded == _LastEnvironment.encoded:
        return
    found = _LastEnvironment.environment if encoded == _LastEnvironment.encoded else dict(_ENVIRON)
    if found != environment:
        for name in found.keys() - environment.keys():
            del _ENVIRON[name]
        for name, value in environment.items():
            if found.get(name) != value:
                _ENVIRON[name] = value
    _LastEnvironment.environment, _LastEnvironment.encoded = environment, dict(encoded)


def _reset_logging(logging: Any) -> None:
    """Remove handlers that print to the step's streams, because each run would add another."""
    logging.root.handlers[:] = []
    logging.root.setLevel(logging.WARNING)
    for logger in logging.root.manager.loggerDict.values():
        handlers = getattr(logger, "handlers", ())
        if handlers:
            streams = (sys.__stdout__, sys.__stderr__)
            handlers[:] = [handler for handler in handlers if getattr(handler, "stream", None) not in streams]


keep_process()

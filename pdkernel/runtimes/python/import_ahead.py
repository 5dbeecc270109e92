"""
Imports modules before a worker has a user, if a run cannot tell it from an import of its own.

An import does not fit if it

- fails, or reads all environment variables at once;
- connects, starts a thread or a process, or writes a file: that is refused, because it is an effect of a run, and there is none;
- leaves a descriptor open, or changes what `process_reset` undoes before a step.

The worker is then useless: pdkernel ends it, and imports the module ahead no more. This finds what an honest package does. A hostile
one can hide from it, and has then done before the run what it may do in the run, in the same process of one user.

The environment variables that the imports have read are reported: a run that sets one of them needs another worker.
"""

from __future__ import annotations

import errno
import gc
import importlib
import importlib.util
import os
import site
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from . import process_reset

_EFFECTS = frozenset(
    {
        "socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname",
        "socket.gethostbyaddr", "socket.getnameinfo", "subprocess.Popen", "os.system", "os.exec", "os.fork", "os.forkpty",
        "os.posix_spawn", "os.spawn", "pty.spawn", "_thread.start_new_thread", "_thread.start_joinable_thread", "os.remove",
        "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown", "os.kill",
        "os.killpg", "signal.pthread_kill",
    }
)  # fmt: skip
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_READ_IN_C = {
    "ssl": ("OPENSSL_CONF", "OPENSSL_MODULES", "OPENSSL_ENGINES"),
    "numpy": (
        "OPENBLAS_NUM_THREADS", "OPENBLAS_DEFAULT_NUM_THREADS", "OPENBLAS_MAIN_FREE", "OPENBLAS_VERBOSE", "OPENBLAS_CORETYPE",
        "GOTO_NUM_THREADS", "GOTOBLAS_MAIN_FREE", "OMP_NUM_THREADS", "OMP_ADAPTIVE", "MKL_NUM_THREADS", "BLIS_NUM_THREADS",
        "NPY_DISABLE_CPU_FEATURES", "NPY_ENABLE_CPU_FEATURES",
    ),
}  # fmt: skip
"""The variables that modules read in C, which `_RecordingEnvironment` does not notice."""


class _Watch:
    """What an import that goes on now has done."""

    is_installed = False
    is_active = False
    has_effect = False


def import_ahead(name: str) -> dict[str, Any]:
    """
    Import the module *name*, if a package of this environment has it.

    Returns `{"fits": whether a run cannot tell, "read": the variables that were read}`.
    """
    before = process_reset.describe_process()
    is_imported = False
    with _watch():
        try:
            if _is_installed(name):
                importlib.import_module(name)
            is_imported = True
        except BaseException:  # the import of a run reports it
            is_imported = False
    found = _RecordingEnvironment.names
    fits = is_imported and not _Watch.has_effect and _RecordingEnvironment.ALL not in found
    if fits and process_reset.describe_process() != before:
        gc.collect()  # it closes what the import has left behind
        fits = process_reset.describe_process() == before
    in_c = (each for module, names in _READ_IN_C.items() if module in sys.modules for each in names)
    return {"fits": fits, "read": sorted({*found, *in_c})}


def _is_installed(name: str) -> bool:
    """Return whether the module is in a folder of packages. Sources elsewhere, as of an editable package, may change before the run."""
    found = importlib.util.find_spec(name.partition(".")[0])
    if found is None:
        return False
    places = found.submodule_search_locations or [found.origin or ""]
    folders = tuple(os.path.join(folder, "") for folder in site.getsitepackages())  # noqa: PTH118 - as strings, for `startswith`
    return all(place.startswith(folders) for place in places)


@contextmanager
def _watch() -> Iterator[None]:
    """Refuse effects, and record the variables that are read."""
    if not _Watch.is_installed:
        _Watch.is_installed = True
        sys.addaudithook(_refuse_effect)
    kinds = [(each, each.__class__) for each in (os.environ, os.environb)]
    writes_no_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    _Watch.is_active, _Watch.has_effect = True, False
    _RecordingEnvironment.names.clear()
    for each, _ in kinds:
        each.__class__ = _RecordingEnvironment
    try:
        yield
    finally:
        for each, kind in kinds:
            each.__class__ = kind
        _Watch.is_active = False
        sys.dont_write_bytecode = writes_no_bytecode


def _refuse_effect(event: str, arguments: tuple[Any, ...]) -> None:
    """Raise `OSError` if *event* of an import is an effect. Binding to any port, and closing the socket, is harmless."""
    if not _Watch.is_active:
        return
    if (
        event in _EFFECTS
        or (event == "open" and _writes(*arguments[:3]))
        or (event == "socket.bind" and not _is_any_port(arguments[1]))
    ):
        _Watch.has_effect = True
        raise OSError(errno.EPERM, f"{event} while a module is imported ahead of a run")


def _writes(path: Any, _mode: Any, flags: Any) -> bool:
    return isinstance(flags, int) and bool(flags & _WRITING) and path != os.devnull


def _is_any_port(address: Any) -> bool:
    return isinstance(address, tuple) and len(address) > 1 and address[1] == 0


class _RecordingEnvironment(type(os.environ)):  # type: ignore[misc] # a class that typeshed does not publish
    """`os.environ` or `os.environb` that records the names that are read."""

    ALL = "*"
    names: ClassVar[set[str]] = set()

    def __getitem__(self, key: str | bytes) -> Any:
        self.names.add(os.fsdecode(key))
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self.names.add(os.fsdecode(key) if isinstance(key, str | bytes) else str(key))
        return bool(super().__contains__(key))

    def __iter__(self) -> Iterator[Any]:
        self.names.add(self.ALL)
        return iter(super().__iter__())

    def __len__(self) -> int:
        self.names.add(self.ALL)
        return int(super().__len__())

    def __repr__(self) -> str:
        self.names.add(self.ALL)
        return str(super().__repr__())

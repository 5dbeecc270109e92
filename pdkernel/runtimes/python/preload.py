"""
Imports modules in the zygote, before the fork, if their import leaves nothing that a run could notice.

Each module is imported in a probe first, a forked process. The module is imported in the zygote only if, in the probe, its import

- connected to nothing, sent nothing and resolved no name (binding to port 0 and closing the socket is harmless);
- started no thread and no process;
- wrote no file, and left no descriptor open;
- read no environment variable whose value differs in each run (`HOME`, `TMPDIR`, and the variables that lead to the gateway), and
  did not list all variables.

Other variables that it read are reported: they were not set, and a run that sets one of them gets a worker that was not forked.
The probe also finds out whether the module registers functions that `os.fork` calls.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any, ClassVar

COMMON_MODULES = (
    "logging", "datetime", "random", "hashlib", "base64", "urllib.parse", "ssl", "http.client", "email.parser",
    "email.message", "urllib.request", "uuid", "subprocess", "tempfile", "decimal", "csv", "asyncio", "http.cookiejar",
    "concurrent.futures.thread", "zipfile", "gzip", "html", "mimetypes", "queue", "http.cookies", "ipaddress", "encodings.idna",
)  # fmt: skip
"""Modules of the standard library that steps and their packages often import. Their import is harmless."""

_PROBE_LIMIT_S = 30
_CONNECTING = frozenset(
    {
        "socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname",
        "socket.gethostbyaddr", "socket.getnameinfo", "subprocess.Popen", "os.system", "os.exec", "os.fork", "os.forkpty",
        "os.posix_spawn", "os.spawn", "pty.spawn", "_thread.start_new_thread", "os.remove", "os.rename", "os.mkdir", "os.rmdir",
        "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown", "os.putenv", "os.unsetenv", "signal.pthread_kill",
    }
)  # fmt: skip
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_OF_EACH_RUN = frozenset(
    {"HOME", "TMPDIR", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE", "WGETRC", "PIP_CERT"}
    | {"GRPC_DNS_RESOLVER", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "GIT_SSL_CAINFO"}
)
_PREFIXES_OF_EACH_RUN = ("PDK_", "PDKERNEL_", "NODE_")
_PROXY_SUFFIX = "_proxy"
_BLAS_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
_READ_BY_OPENSSL = ("OPENSSL_CONF", "OPENSSL_MODULES", "OPENSSL_ENGINES")
_READ_BY_NUMPY = (*_BLAS_VARIABLES, "GOTO_NUM_THREADS", "NPY_DISABLE_CPU_FEATURES", "OPENBLAS_CORETYPE")
# Code in C reads these variables, which `_RecordingEnvironment` does not notice.


def import_common_modules() -> None:
    """Import `COMMON_MODULES`."""
    for name in COMMON_MODULES:
        importlib.import_module(name)


def import_ahead(names: list[str]) -> tuple[list[str], bool]:
    """
    Import those of the modules *names* whose import is harmless.

    Returns the variables that imported modules have read, and whether they have registered functions that `os.fork` calls.
    """
    sys.dont_write_bytecode = True
    for name in _BLAS_VARIABLES:  # one thread: a thread would not survive the fork
        os.environ[name] = "1"
    read, has_hooks = set(_READ_BY_OPENSSL), False
    for name in names:
        if name in sys.modules:
            continue
        found = _probe(name)
        if found is not None:
            importlib.import_module(name)
            read.update(found["read"])
            has_hooks = has_hooks or found["hooks"]
    if "numpy" in sys.modules:
        read.update(_READ_BY_NUMPY)
    sys.dont_write_bytecode = False
    return sorted(read), has_hooks


def follow_fork() -> None:
    """
    Do what a fork needs for NumPy, and what `os.fork` does for the common modules. OpenSSL notices a fork.

    The other functions that common modules register with `os.fork` release locks, which no thread of the parent holds.
    """
    for name in ("random", "numpy.random"):  # other numbers than in sibling processes
        module: Any = sys.modules.get(name)
        if module is not None:
            module.seed()
    vars(threading.main_thread())["_native_id"] = threading.get_native_id()


def _probe(name: str) -> dict[str, Any] | None:
    """Import *name* in a forked process; return `{"read": VARIABLES, "hooks": BOOL}`, or None if its import is not harmless."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read)
            signal.alarm(_PROBE_LIMIT_S)
            found = _try_import(name)
            os.write(write, json.dumps(found).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    found = json.loads(answer or b"null")
    return found if isinstance(found, dict) else None


def _try_import(name: str) -> dict[str, Any] | None:
    is_harmless = True
    hooks: list[Any] = []
    recorder = _RecordingEnvironment
    recorder.names = set()

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal is_harmless
        if (
            event in _CONNECTING
            or (event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING)
            or (event == "socket.bind" and not _is_any_port(arguments[1]))
        ):
            is_harmless = False

    descriptors = os.listdir("/proc/self/fd")  # noqa: PTH208 - names
    sys.addaudithook(watch)
    os.environ.__class__ = recorder
    os.register_at_fork = lambda **functions: hooks.append(functions)  # in this process only
    try:
        importlib.import_module(name)
    except BaseException:
        return None
    is_alone = threading.active_count() == 1 and len(os.listdir("/proc/self/task")) == 1  # noqa: PTH208
    gc.collect()
    if not is_harmless or not is_alone or len(os.listdir("/proc/self/fd")) > len(descriptors):  # noqa: PTH208
        return None
    if any(map(_differs_in_each_run, recorder.names)):
        return None
    return {"read": sorted(recorder.names), "hooks": bool(hooks)}


def _is_any_port(address: Any) -> bool:
    return isinstance(address, tuple) and len(address) > 1 and address[1] == 0


def _differs_in_each_run(name: str) -> bool:
    return (
        name == _RecordingEnvironment.ALL
        or name in _OF_EACH_RUN
        or name.startswith(_PREFIXES_OF_EACH_RUN)
        or name.lower().endswith(_PROXY_SUFFIX)
    )


class _RecordingEnvironment(type(os.environ)):  # type: ignore[misc] # a class that typeshed does not publish
    """`os.environ` that records the names that are read."""

    ALL = "*"
    names: ClassVar[set[str]] = set()

    def __getitem__(self, key: str) -> str:
        self.names.add(str(key))
        return str(super().__getitem__(key))

    def __contains__(self, key: object) -> bool:
        self.names.add(str(key))
        return bool(super().__contains__(key))

    def __iter__(self) -> Iterator[str]:
        self.names.add(self.ALL)
        return iter(super().__iter__())

    def __len__(self) -> int:
        self.names.add(self.ALL)
        return int(super().__len__())

    def copy(self) -> dict[str, str]:
        self.names.add(self.ALL)
        return dict(super().copy())

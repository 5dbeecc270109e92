"""
The Python guest: runs `handler(pd)` of one step after another.

Run as `python -I -X utf8 main.py`. Requests come as JSON lines on descriptor 3 and replies go out on
descriptor 4, each after the request's number and a blank; standard output and error are the step's. A request that names `texts` is followed by one line
of JSON for each: exports, kept as text and parsed by the step that reads them. A `begin` with `fixed` (`{"ms", "seed"}`, else
null) fixes clock and chance for as long as the process lives (`determinism`).
"""

from __future__ import annotations

import importlib.util
import json
import linecache
import os
import sys
import threading
import time
from functools import partial
from pathlib import Path
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from pdkernel.runtimes.python import (  # noqa: TC004 - at run time `_load_helpers` loads them
        export_encoding,
        process_reset,
        script_helpers,
        step_api,
        step_runner,
    )

_IN, _OUT = 3, 4
_HERE = Path(__file__).resolve().parent


class Runtime:
    """One run of one workflow at a time."""

    def __init__(self, requests: BinaryIO) -> None:
        self.request = 0
        self._requests = requests
        self._call_lock = threading.Lock()
        self._last_call_id = 0
        self._environment: dict[str, str] = {}
        self._secrets: list[str] = []
        self._folder = os.devnull
        self._read_only_folders: tuple[str, ...] = ()
        self._texts: dict[str, bytes] = {}
        self._sources: dict[int, str] = {}
        self._codes: dict[tuple[int, str, int], CodeType] = {}
        self._step_number = 0
        self._lock = threading.Lock()
        self._built_in = {name: module for name, module in sys.modules.items() if not hasattr(module, "__file__")}
        self._foreign_files: set[str] = set()
        self._threads = threading.active_count()
        self._is_prepared = False
        self._buffered = b""
        self._fixed: Any = None

    def begin_run(self, message: dict[str, Any]) -> None:
        """Forget the last run."""
        for name in self._modules_of_the_run():
            del sys.modules[name]
        for path in list(sys.path_importer_cache):  # the next run may have other files under the same names
            if self._is_of_the_run(path + os.sep):
                del sys.path_importer_cache[path]
        self._environment = {**message["env"], **message["variables"], **message["outside"]}
        self._secrets = list(message["variables"].values())
        self._folder = message["cwd"]
        self._read_only_folders = tuple(message["kept"])
        self._texts = {}
        self._is_prepared = False
        linecache.clearcache()
        if message["fixed"]:
            self._fixed = self._fixed or importlib.import_module("_pdkernel_runtime.determinism")
            self._fixed.install(message["fixed"]["ms"] // 1000, message["fixed"]["seed"])

    def prepare_steps(self, message: dict[str, Any]) -> None:
        """Make ready what can be made ready before a step's turn has come; none of the user's code runs."""
        for code in message["codes"]:
            self._store_source(code)
        try:
            process_reset.reset_process(self._environment, self._folder)
        except OSError:  # the run is over already, and its folder gone
            return
        self._is_prepared = True

    def store_exports(self, name: str, exports_json: bytes) -> None:
        """The exports of step *name*."""
        self._texts[name] = exports_json

    def run_step(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run a step; returns the reply."""
        self._step_number += 1
        running = self._step_number
        secrets = self._secrets + [v for fields in request["auth"].values() for v in fields.values()]
        if not self._is_prepared:
            process_reset.reset_process(self._environment, self._folder)
        self._is_prepared = False
        self._store_source(request)
        if self._fixed is not None:
            self._fixed.restart(request["step"])
        try:
            error = step_runner.run_step(
                request,
                lambda: self._compile(request),
                {name: self._texts[name] for name in request["steps"]},
                uses_script_helpers=script_helpers.MODULE_MARKER in self._sources[request["code"]],
                secrets=secrets,
                send_line=lambda line: self._send_step_line(line, running),
                send_return_value=self._buffer_line,
                call_services=partial(self._call_services, running),
            )
        finally:
            self._step_number += 1  # what the step left behind has no voice any more
        _flush()
        return {
            "t": "done",
            "error": error,
            "busy": self._has_leftovers(),
            "dirty": False,
            "spoiled": _are_streams_closed(),
        }

    def send_line(self, line: str) -> None:
        """Write one line to the host, after what was held back for it."""
        with self._lock:
            data = memoryview(self._buffered + self._numbered(line))
            self._buffered = b""
            while data:
                data = data[os.write(_OUT, data) :]

    def _numbered(self, line: str) -> bytes:
        return f"{self.request} {line}\n".encode()

    def _buffer_line(self, line: str) -> None:
        """Keep the step's last line for the one that says it is done: the host then need not wake twice."""
        self._buffered = self._numbered(line)

    def _store_source(self, told: dict[str, Any]) -> None:
        if "source" in told:
            self._sources[told["code"]] = told["source"]

    def _send_step_line(self, line: str, running: int) -> None:
        if running != self._step_number:
            raise RuntimeError("The step has ended: it can export and respond no more.")
        _flush()
        self.send_line(line)

    def _call_services(self, running: int, call: str, args: dict[str, Any]) -> Any:
        """
        Ask the host for something on behalf of the step; blocks until it is told.

        No other line comes while a step runs: the host sends the next request when this one is done.
        """
        text = export_encoding.encode_json(args, call)
        with self._call_lock:
            self._last_call_id += 1
            self._send_step_line(
                f'{{"t":"ask","id":{self._last_call_id},"call":{json.dumps(call)},"args":{text}}}', running
            )
            while line := self._requests.readline():
                told = json.loads(line)
                if told.get("answer") == self._last_call_id:
                    break
            else:
                raise RuntimeError("pdkernel has gone away.")
        if "fault" in told:
            raise step_api.RefusedError(told["fault"])
        return told.get("value")

    def _compile(self, told: dict[str, Any]) -> CodeType:
        number, file, offset = told["code"], told["file"], told["offset"]
        # a byte order mark is no code: Python takes it off a file, and compile does not
        source = "\n" * offset + self._sources[number].removeprefix("\ufeff")
        linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
        code = self._codes.get((number, file, offset))
        if code is None:
            code = compile(source, file, "exec", dont_inherit=True)
            self._codes[number, file, offset] = code
        return code

    def _modules_of_the_run(self) -> list[str]:
        """The modules that the run's steps wrote themselves."""
        found = []
        for name, module in sys.modules.copy().items():
            if self._built_in.get(name) is module:  # has no file, which it would take long to say
                continue
            file = getattr(module, "__file__", None) or ""
            if file in self._foreign_files:
                continue
            if self._is_of_the_run(file):
                found.append(name)
            else:
                self._foreign_files.add(file)
        return found

    def _is_of_the_run(self, path: str) -> bool:
        return path.startswith(self._folder + os.sep) and not path.startswith(self._read_only_folders)

    def _flush_buffer(self) -> None:
        with self._lock:
            data = memoryview(self._buffered)
            self._buffered = b""
            while data:
                data = data[os.write(_OUT, data) :]

    def _has_leftovers(self) -> bool:
        for _ in range(5):
            if threading.active_count() <= self._threads:
                return False
            self._flush_buffer()  # what runs on may end the process
            time.sleep(0.001)  # one that was told to end may be about to
        return True


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):  # the step closed it
            continue


def _are_streams_closed() -> bool:
    return any(stream is None or stream.closed for stream in (sys.__stdout__, sys.__stderr__))


def _load_helpers() -> None:
    """Import our own modules under a name that no step would use."""
    package = ModuleType("_pdkernel_runtime")
    package.__path__ = [str(_HERE)]
    sys.modules[package.__name__] = package
    for name in ("export_encoding", "process_reset", "script_helpers", "step_api", "step_runner"):
        globals()[name] = importlib.import_module(f"{package.__name__}.{name}")


def _load_hook() -> None:
    """Lead outside calls through the gateway, before any code of the user's runs."""
    hook = _HERE / "egress_hook.py"
    if not os.environ.get("PDK_EGRESS") or not hook.exists():
        return
    spec = importlib.util.spec_from_file_location("_pdkernel_runtime.egress_hook", hook)
    if spec and spec.loader:
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)


def _silence_child() -> None:
    for fd in (_IN, _OUT):
        os.close(fd)


def main() -> None:
    """Answer requests until the host closes its end."""
    for fd in (_IN, _OUT):
        os.set_inheritable(fd, False)
    os.register_at_fork(after_in_child=_silence_child)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    _load_helpers()
    _load_hook()
    sys.modules["__main__"] = ModuleType("__main__")  # a step that looks there finds nothing of ours
    owner = os.getpid()
    with os.fdopen(_IN, "rb", buffering=1 << 18, closefd=False) as requests:
        guest = Runtime(requests)
        guest.send_line('{"t":"ready"}')
        while line := requests.readline():
            told = json.loads(line)
            if "begin" in told:
                guest.begin_run(told["begin"])
            for name in told["texts"]:
                guest.store_exports(name, requests.readline())
            if told["op"] == "prepare":
                guest.prepare_steps(told)
                continue
            guest.request = told["request"]
            reply = json.dumps(guest.run_step(told))
            if os.getpid() != owner:  # a process that the step forked has come back from its handler
                os._exit(0)
            try:
                guest.send_line(reply)
            except OSError:  # the step closed our descriptor
                os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main()

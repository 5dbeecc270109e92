"""
The program of a Python worker: runs `handler(pd)` of one step after another.

It runs as `python -I -X utf8 main.py`. Requests are JSON lines on descriptor 3. Replies are JSON lines on descriptor 4, each after
the request's number and a space. Standard output and standard error belong to the step. A request with `texts`, a list of step
names, is followed by a line of JSON for each name: the step's exports, which are parsed when a step reads them. `steps` are those
that a step sees; without it, it sees all that have arrived. `begin` has the settings of a new run that differ from those of the last
run. `import` imports a module before the first run. If its `fixed` is `{"ms", "seed"}`, not null, clock and random numbers are fixed
for the life of the process (`determinism`).
"""

from __future__ import annotations

import _thread
import importlib
import io
import json
import linecache
import os
import sys
import threading
import time
from functools import partial
from pathlib import Path
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

if TYPE_CHECKING:
    from pdkernel.runtimes.python import (  # noqa: TC004 - at run time `_load_helpers` loads them
        export_encoding,
        process_reset,
        script_helpers,
        step_api,
        step_runner,
    )

_IN, _OUT = 3, 4
_DESCRIPTORS = frozenset("01234")  # those of the program; all others are closed at its start
_REHEARSALS = 12  # the interpreter optimizes a function after eight calls
_HERE = Path(__file__).resolve().parent
_SUCCESS = '{"t":"done","error":null,"busy":false,"dirty":false,"spoiled":false}'


class Runtime:
    """The state of the worker, which executes one run at a time."""

    def __init__(self, requests: BinaryIO, replies: int) -> None:
        """Create the state; *replies* is a descriptor."""
        self.request = 0
        self._requests = requests
        self._replies = replies
        self._call_lock = threading.Lock()
        self._last_call_id = 0
        self._settings: dict[str, Any] = {"workflow": ""}
        self._environment: dict[str, str] = {}
        self._folder = os.devnull
        self._read_only_folders: tuple[str, ...] = ()
        self._texts: dict[str, bytes] = {}
        self._sources: dict[int, str] = {}
        self._codes: dict[tuple[int, str, int], CodeType] = {}
        self._listings: dict[tuple[int, str, int], tuple[int, None, list[str], str]] = {}
        self._step_number = 0
        self._lock = threading.Lock()
        self._is_prepared = False
        self._buffered = b""
        self._fixed: Any = None
        self.keep_process()

    def keep_process(self) -> None:
        """Regard the modules, the import path and the threads of this process as what each run finds."""
        self._installed_modules = dict(sys.modules)
        self._installed_folders = tuple(os.path.join(path, "") for path in {*sys.path, str(_HERE)})  # noqa: PTH118 - as strings, for `startswith`
        self._threads = _count_threads()

    def serve(self) -> None:
        """Execute requests until no more arrive."""
        owner = os.getpid()
        while line := self._requests.readline():
            request = json.loads(line)
            if "begin" in request:
                self.begin_run(request["begin"])
            for name in request["texts"]:
                self.store_exports(name, self._requests.readline())
            if request["op"] == "prepare":
                self.prepare_steps(request)
                continue
            if request["op"] == "import":
                self.import_ahead(request["module"])
                continue
            self.request = request["request"]
            reply = self.run_step(request)
            if os.getpid() != owner:  # a process that the step forked returned from the handler
                os._exit(0)
            try:
                self.send_line(reply)
            except OSError:  # the step closed the reply descriptor
                os._exit(1)

    def begin_run(self, changes: dict[str, Any]) -> None:
        """Discard the state of the last run, and store the settings of the new run: *changes* are those that differ."""
        if self._step_number:
            self._forget_modules(is_other_workflow="workflow" in changes)
        self._settings |= changes
        settings = self._settings
        if not changes.keys().isdisjoint(("env", "variables", "gateway")):
            self._environment = {**settings["env"], **settings["variables"], **settings["gateway"]}
        self._folder = settings["cwd"]
        self._read_only_folders = tuple(settings["kept"])
        self._texts = {}
        self._is_prepared = False
        linecache.clearcache()
        if settings["fixed"]:
            self._fixed = self._fixed or import_helper("determinism")
            self._fixed.install_determinism(settings["fixed"]["ms"] // 1000, settings["fixed"]["seed"])

    def prepare_steps(self, message: dict[str, Any]) -> None:
        """Store the code of steps and reset the process ahead of time; no user code runs."""
        for code in message["codes"]:
            self._store_source(code)
        try:
            process_reset.reset_process(self._environment, self._folder)
        except OSError:  # the run is already over and its folder was removed
            return
        self._is_prepared = True

    def import_ahead(self, module: str) -> None:
        """Import *module* before this process has a user, with the environment and the folder of its first run."""
        process_reset.reset_process(self._environment, self._folder)
        found = import_helper("import_ahead").import_ahead(module)
        _flush()
        self.send_line(json.dumps({"t": "imported", **found}))

    def store_exports(self, name: str, exports_json: bytes) -> None:
        """Store the exports of step *name*."""
        self._texts[name] = exports_json

    def run_step(self, request: dict[str, Any]) -> str:
        """Run the step of *request*, and return the reply as a line."""
        self._step_number += 1
        running = self._step_number
        secrets = [
            *self._settings["variables"].values(),
            *(v for fields in request["auth"].values() for v in fields.values()),
        ]
        if not self._is_prepared:
            process_reset.reset_process(self._environment, self._folder)
        self._is_prepared = False
        self._store_source(request)
        if self._fixed is not None:
            self._fixed.restart_for_step(request["step"])
        try:
            error = step_runner.run_step(
                request,
                lambda: self._compile(request),
                {name: self._texts[name] for name in request.get("steps", self._texts)},
                uses_script_helpers=script_helpers.MODULE_MARKER in self._sources[request["code"]],
                secrets=secrets,
                send_line=lambda line: self._send_step_line(line, running),
                send_return_value=self._buffer_line,
                call_services=partial(self._call_services, running),
            )
        finally:
            self._step_number += 1  # code of the step that still runs cannot send messages any more
            process_reset.restore_builtins()
        _flush()
        busy, dirty = self._has_leftovers(), process_reset.holds_shared_descriptor(_DESCRIPTORS)
        spoiled = _are_streams_closed()
        if error is None and not (busy or dirty or spoiled):
            return _SUCCESS
        return json.dumps({"t": "done", "error": error, "busy": busy, "dirty": dirty, "spoiled": spoiled})

    def send_line(self, line: str) -> None:
        """Send one line to pdkernel, after the buffered line."""
        with self._lock:
            data = memoryview(self._buffered + self._numbered(line))
            self._buffered = b""
            while data:
                data = data[os.write(self._replies, data) :]

    def _numbered(self, line: str) -> bytes:
        return f"{self.request} {line}\n".encode()

    def _buffer_line(self, line: str) -> None:
        """Buffer the step's last line until its `done`, so that pdkernel wakes up once for both."""
        self._buffered = self._numbered(line)

    def _store_source(self, request: dict[str, Any]) -> None:
        if "source" in request:
            self._sources[request["code"]] = request["source"]

    def _send_step_line(self, line: str, running: int) -> None:
        if running != self._step_number:
            raise RuntimeError("The step has ended, so it cannot export, respond or call pdkernel.")
        _flush()
        self.send_line(line)

    def _call_services(self, running: int, call: str, args: dict[str, Any]) -> Any:
        """
        Call a service of pdkernel for the step; blocks until the answer arrives.

        While a step runs, only answers arrive, because pdkernel sends the next request after `done`.
        """
        text = export_encoding.encode_json(args, call)
        with self._call_lock:
            self._last_call_id += 1
            self._send_step_line(
                f'{{"t":"ask","id":{self._last_call_id},"call":{json.dumps(call)},"args":{text}}}', running
            )
            while line := self._requests.readline():
                answer = json.loads(line)
                if answer.get("answer") == self._last_call_id:
                    break
            else:
                raise RuntimeError("The pdkernel process has ended.")
        if "fault" in answer:
            raise step_api.RefusedError(answer["fault"])
        return answer.get("value")

    def _compile(self, request: dict[str, Any]) -> CodeType:
        key = number, file, offset = request["code"], request["file"], request["offset"]
        code = self._codes.get(key)
        if code is not None:
            linecache.cache[file] = self._listings[key]
            return code
        # Python removes a byte order mark from a file, and `compile` does not
        source = "\n" * offset + self._sources[number].removeprefix("\ufeff")
        linecache.cache[file] = self._listings[key] = (len(source), None, source.splitlines(keepends=True), file)
        code = self._codes[key] = compile(source, file, "exec", dont_inherit=True)
        return code

    def _forget_modules(self, *, is_other_workflow: bool) -> None:
        """Forget the modules that the next run must import again."""
        for name in self._outdated_modules(is_other_workflow=is_other_workflow):
            del sys.modules[name]
        # the next run may have other files with the same names
        for path in [path for path in sys.path_importer_cache if path.startswith(self._folder)]:
            if self._is_of_the_run(path + os.sep):
                del sys.path_importer_cache[path]

    def _outdated_modules(self, *, is_other_workflow: bool) -> list[str]:
        """
        Return the names of imported modules whose files the last run's steps wrote.

        With *is_other_workflow*, also those from folders that steps added to `sys.path`: each workflow may have other
        files with the same names, and another version of a workflow other content.
        """
        if sys.modules == self._installed_modules:  # as after most runs
            return []
        found = []
        for name, module in sys.modules.copy().items():
            if self._installed_modules.get(name) is module:  # looking up its `__file__` is slow
                continue
            file = getattr(module, "__file__", None) or ""
            is_installed = file.startswith(self._installed_folders)
            if self._is_of_the_run(file) or (is_other_workflow and file and not is_installed):
                found.append(name)
            elif is_installed:
                self._installed_modules[name] = module
        return found

    def _is_of_the_run(self, path: str) -> bool:
        return path.startswith(self._folder + os.sep) and not path.startswith(self._read_only_folders)

    def _flush_buffer(self) -> None:
        with self._lock:
            data = memoryview(self._buffered)
            self._buffered = b""
            while data:
                data = data[os.write(self._replies, data) :]

    def _has_leftovers(self) -> bool:
        for _ in range(5):
            if _count_threads() <= self._threads:
                return False
            self._flush_buffer()  # code that still runs may end the process
            time.sleep(0.001)  # a thread that was asked to end may need a moment
        return True


def _count_threads() -> int:
    return _thread._count()  # noqa: SLF001 - `threading` does not count threads that `_thread` has started


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):  # the step closed it
            continue


def _are_streams_closed() -> bool:
    return any(stream is None or stream.closed for stream in (sys.__stdout__, sys.__stderr__))


def import_helper(name: str) -> ModuleType:
    """Import a module of the runtime into a package whose name no step uses."""
    if "_pdkernel_runtime" not in sys.modules:
        package = ModuleType("_pdkernel_runtime")
        package.__path__ = [str(_HERE), str(_HERE.parent)]
        sys.modules[package.__name__] = package
    return importlib.import_module(f"_pdkernel_runtime.{name}")


def load_helpers() -> None:
    """Import the runtime's modules."""
    for name in ("export_encoding", "process_reset", "script_helpers", "step_api", "step_runner"):
        globals()[name] = import_helper(name)


def route_outbound_calls() -> None:
    """Route outbound calls through the gateway, before any user code runs."""
    if os.environ.get("PDK_EGRESS") or "_pdkernel_runtime.egress_hook" in sys.modules:
        import_helper("egress_hook").follow_environment()


def _silence_child() -> None:
    for fd in (_IN, _OUT):
        os.close(fd)


def main(runtime: Runtime) -> NoReturn:
    """Execute requests until pdkernel closes the pipe on descriptor 3; *runtime* is the result of `create_runtime`."""
    for fd in (_IN, _OUT):
        os.set_inheritable(fd, False)
    os.register_at_fork(after_in_child=_silence_child)
    runtime.send_line('{"t":"ready"}')
    runtime.serve()
    os._exit(0)


def create_runtime() -> Runtime:
    """Create the runtime and the standard streams of a process whose descriptors 1 to 3 are pipes, or will be."""
    for name, fd in (("stdout", 1), ("stderr", 2)):
        stream: Any = open(  # noqa: SIM115 - a descriptor
            fd, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
        )
        stream.buffer.raw.name = f"<{name}>"
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    sys.modules["__main__"] = ModuleType("__main__")  # hides this program's names from steps
    return Runtime(os.fdopen(_IN, "rb", buffering=1 << 18, closefd=False), _OUT)


def rehearse() -> None:
    """
    Run a step of this program several times, without effects.

    A fork then has the caches and the optimized code of the interpreter in memory that it shares with its siblings.
    """
    source = "def handler(pd):\n    print(end='')\n    pd.respond({'status': 200, 'body': pd.steps['trigger']})\n    return 1\n"
    settings: dict[str, Any] = {
        "workflow": "",
        "env": dict(os.environ),
        "variables": {},
        "gateway": {},
        "cwd": "/",
        "kept": [],
        "fixed": None,
    }
    step = {"step": "rehearsal", "file": "rehearsal.py", "offset": 0, "code": 0, "source": source}
    inputs: dict[str, Any] = {"steps": ["trigger"], "props": {}, "auth": {}, "stores": {}, "context": {}, "flow": {}}
    prepare = {"op": "prepare", "texts": [], "codes": [step], "begin": settings}
    run = {"op": "run", "texts": ["trigger"], "request": 1, **step, **inputs}
    lines = f"{json.dumps(prepare)}\n{json.dumps(run)}\n{{}}\n".encode()
    replies = os.open(os.devnull, os.O_WRONLY)
    for _ in range(_REHEARSALS):
        Runtime(io.BytesIO(lines), replies).serve()
    os.close(replies)


if __name__ == "__main__":
    load_helpers()
    route_outbound_calls()
    main(create_runtime())

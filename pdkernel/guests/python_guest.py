"""
The Python guest: runs `handler(pd)` of one step after another.

Run as `python -I -X utf8 python_guest.py`. Requests come as JSON lines on descriptor 3 and replies go out on
descriptor 4, each after the request's number and a blank; standard output and error are the step's. A request that names `texts` is followed by one line
of JSON for each: exports, kept as text and parsed by the step that reads them. A `begin` with `fixed` (`{"ms", "seed"}`, else
null) fixes clock and chance for as long as the process lives (`python_fixed`).
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
    from pdkernel.guests import python_exports, python_fresh, python_helpers, python_pd, python_step  # noqa: TC004 - at run time `_load_helpers` loads them

_IN, _OUT = 3, 4
_HERE = Path(__file__).resolve().parent


class Guest:
    """One run of one workflow at a time."""

    def __init__(self, requests: BinaryIO) -> None:
        self.request = 0
        self._requests = requests
        self._asking = threading.Lock()
        self._asked = 0
        self._environment: dict[str, str] = {}
        self._secrets: list[str] = []
        self._folder = os.devnull
        self._kept: tuple[str, ...] = ()
        self._texts: dict[str, bytes] = {}
        self._sources: dict[int, str] = {}
        self._codes: dict[tuple[int, str, int], CodeType] = {}
        self._running = 0
        self._lock = threading.Lock()
        self._built_in = {name: module for name, module in sys.modules.items() if not hasattr(module, "__file__")}
        self._elsewhere: set[str] = set()
        self._threads = threading.active_count()
        self._untouched = False
        self._held = b""
        self._fixed: Any = None

    def begin(self, told: dict[str, Any]) -> None:
        """Forget the last run."""
        for name in self._modules_of_the_run():
            del sys.modules[name]
        for path in list(sys.path_importer_cache):  # the next run may have other files under the same names
            if self._is_of_the_run(path + os.sep):
                del sys.path_importer_cache[path]
        self._environment = {**told["env"], **told["variables"], **told["outside"]}
        self._secrets = list(told["variables"].values())
        self._folder = told["cwd"]
        self._kept = tuple(told["kept"])
        self._texts = {}
        self._untouched = False
        linecache.clearcache()
        if told["fixed"]:
            self._fixed = self._fixed or importlib.import_module("_pdkernel_guest.python_fixed")
            self._fixed.install(told["fixed"]["ms"] // 1000, told["fixed"]["seed"])

    def prepare(self, told: dict[str, Any]) -> None:
        """Make ready what can be made ready before a step's turn has come; none of the user's code runs."""
        for code in told["codes"]:
            self._learn(code)
        try:
            python_fresh.freshen(self._environment, self._folder)
        except OSError:  # the run is over already, and its folder gone
            return
        self._untouched = True

    def keep(self, name: str, text: bytes) -> None:
        """The exports of step *name*."""
        self._texts[name] = text

    def run(self, told: dict[str, Any]) -> dict[str, Any]:
        """Run a step; returns the reply."""
        self._running += 1
        running = self._running
        secrets = self._secrets + [v for fields in told["auth"].values() for v in fields.values()]
        if not self._untouched:
            python_fresh.freshen(self._environment, self._folder)
        self._untouched = False
        self._learn(told)
        if self._fixed is not None:
            self._fixed.restart(told["step"])
        try:
            error = python_step.run(
                told,
                lambda: self._compiled(told),
                {name: self._texts[name] for name in told["steps"]},
                is_old=python_helpers.WORD in self._sources[told["code"]],
                secrets=secrets,
                send=lambda line: self._say(line, running),
                returned=self._hold,
                ask=partial(self._ask, running),
            )
        finally:
            self._running += 1  # what the step left behind has no voice any more
        _flush()
        return {"t": "done", "error": error, "busy": self._left_behind(), "dirty": False, "spoiled": _is_spoiled()}

    def say(self, line: str) -> None:
        """Write one line to the host, after what was held back for it."""
        with self._lock:
            data = memoryview(self._held + self._numbered(line))
            self._held = b""
            while data:
                data = data[os.write(_OUT, data) :]

    def _numbered(self, line: str) -> bytes:
        return f"{self.request} {line}\n".encode()

    def _hold(self, line: str) -> None:
        """Keep the step's last line for the one that says it is done: the host then need not wake twice."""
        self._held = self._numbered(line)

    def _learn(self, told: dict[str, Any]) -> None:
        if "source" in told:
            self._sources[told["code"]] = told["source"]

    def _say(self, line: str, running: int) -> None:
        if running != self._running:
            raise RuntimeError("The step has ended: it can export and respond no more.")
        _flush()
        self.say(line)

    def _ask(self, running: int, call: str, args: dict[str, Any]) -> Any:
        """
        Ask the host for something on behalf of the step; blocks until it is told.

        No other line comes while a step runs: the host sends the next request when this one is done.
        """
        text = python_exports.encode(args, call)
        with self._asking:
            self._asked += 1
            self._say(f'{{"t":"ask","id":{self._asked},"call":{json.dumps(call)},"args":{text}}}', running)
            while line := self._requests.readline():
                told = json.loads(line)
                if told.get("answer") == self._asked:
                    break
            else:
                raise RuntimeError("pdkernel has gone away.")
        if "fault" in told:
            raise python_pd.RefusedError(told["fault"])
        return told.get("value")

    def _compiled(self, told: dict[str, Any]) -> CodeType:
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
            if file in self._elsewhere:
                continue
            if self._is_of_the_run(file):
                found.append(name)
            else:
                self._elsewhere.add(file)
        return found

    def _is_of_the_run(self, path: str) -> bool:
        return path.startswith(self._folder + os.sep) and not path.startswith(self._kept)

    def _release(self) -> None:
        with self._lock:
            data = memoryview(self._held)
            self._held = b""
            while data:
                data = data[os.write(_OUT, data) :]

    def _left_behind(self) -> bool:
        for _ in range(5):
            if threading.active_count() <= self._threads:
                return False
            self._release()  # what runs on may end the process
            time.sleep(0.001)  # one that was told to end may be about to
        return True


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):  # the step closed it
            continue


def _is_spoiled() -> bool:
    return any(stream is None or stream.closed for stream in (sys.__stdout__, sys.__stderr__))


def _load_helpers() -> None:
    """Import our own modules under a name that no step would use."""
    package = ModuleType("_pdkernel_guest")
    package.__path__ = [str(_HERE)]
    sys.modules[package.__name__] = package
    for name in ("python_exports", "python_fresh", "python_helpers", "python_pd", "python_step"):
        globals()[name] = importlib.import_module(f"{package.__name__}.{name}")


def _load_hook() -> None:
    """Lead outside calls through the gateway, before any code of the user's runs."""
    hook = _HERE / "egress_hook.py"
    if not os.environ.get("PDK_EGRESS") or not hook.exists():
        return
    spec = importlib.util.spec_from_file_location("_pdkernel_guest.egress_hook", hook)
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
        guest = Guest(requests)
        guest.say('{"t":"ready"}')
        while line := requests.readline():
            told = json.loads(line)
            if "begin" in told:
                guest.begin(told["begin"])
            for name in told["texts"]:
                guest.keep(name, requests.readline())
            if told["op"] == "prepare":
                guest.prepare(told)
                continue
            guest.request = told["request"]
            reply = json.dumps(guest.run(told))
            if os.getpid() != owner:  # a process that the step forked has come back from its handler
                os._exit(0)
            try:
                guest.say(reply)
            except OSError:  # the step closed our descriptor
                os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main()

"""
A Python step in this very process and thread, where a debugger can stop it.

Knows what a step finds around itself (variables, working folder, streams, import path) and puts all of it back afterwards.
Whoever calls is the kernel of a notebook; outside calls are its own, and nothing guards them.
"""

from __future__ import annotations

import contextlib
import io
import linecache
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import msgspec

from pdkernel.errors import StepError
from pdkernel.execution import Stream
from pdkernel.model import Step
from pdkernel.runtimes.python import script_helpers, step_runner
from pdkernel.workers.environment import step_environment
from pdkernel.workers.replies import Fault
from pdkernel.workers.step_errors import parse_step_error

DEBUGGER_QUIT_MESSAGE = "The debugger ended the step."


@dataclass(frozen=True)
class StepChannel:
    """
    Where what a step says goes.

    Attributes:
        send_line: Takes each line that it says: exports, a response, and so on.
        call_services: Asks on its behalf, and waits for the answer.
        on_output: Takes what it prints.
        redact: What the debugger says to the person, with secrets hidden.
    """

    send_line: Callable[[str], object]
    call_services: Callable[[str, dict[str, Any]], Any]
    on_output: Callable[[Stream, bytes], object]
    redact: Callable[[str], str]


@dataclass
class InKernelRunner:
    """
    Runs steps here, one at a time.

    Attributes:
        modules_by_site: What steps imported from an environment, by its folder of packages: gone from the kernel when no step
            runs, and the same when the next one does, because some cannot be loaded twice.
    """

    modules_by_site: dict[Path, dict[str, ModuleType]] = field(default_factory=dict)

    def run_step(
        self,
        step: Step,
        request: Mapping[str, Any],
        exports_json: Mapping[str, bytes],
        *,
        variables: Mapping[str, str],
        folder: Path,
        site_packages: Path | None,
        channel: StepChannel,
    ) -> StepError | None:
        """
        Run *step*; returns why it failed, or None.

        Args:
            step: The step.
            request: What a step's process would be told; `file` is what the debugger calls the cell.
            exports_json: Exports of the steps above as JSON, by step.
            variables: The workflow's environment variables.
            folder: Where it works.
            site_packages: The packages of the workflow's environment.
            channel: Where what it says goes.

        Raises:
            KeyboardInterrupt: The person interrupted the kernel.
        """
        secrets = [*variables.values(), *(value for fields in request["auth"].values() for value in fields.values())]

        def code() -> CodeType:
            source = "\n" * step.line_offset + step.source
            linecache.cache[request["file"]] = (len(source), None, source.splitlines(keepends=True), request["file"])
            return compile(source, request["file"], "exec", dont_inherit=True)

        with (
            _breakpoints(channel.redact),
            _process_state(step_environment(folder, "", variables=variables, gateway_variables={}), folder),
            self._packages(site_packages),
            contextlib.redirect_stdout(_CallbackStream(partial(_print, channel.on_output, "stdout"))),
            contextlib.redirect_stderr(_CallbackStream(partial(_print, channel.on_output, "stderr"))),
        ):
            failure = step_runner.run_step(
                request,
                code,
                exports_json,
                uses_script_helpers=script_helpers.MODULE_MARKER in step.source,
                secrets=secrets,
                send_line=channel.send_line,
                call_services=channel.call_services,
            )
        if failure is None:
            return None
        if failure["name"] == "KeyboardInterrupt":
            raise KeyboardInterrupt
        if failure["name"] == "BdbQuit":
            return StepError(DEBUGGER_QUIT_MESSAGE, name="Stopped", line=failure["line"])
        failure["stack"] = (failure["stack"] or "").replace(f'"{request["file"]}"', f'"{step.filename}"')
        return parse_step_error(msgspec.convert(failure, Fault))

    @contextlib.contextmanager
    def _packages(self, site: Path | None) -> Iterator[None]:
        if site is None:
            yield
            return
        path, before = list(sys.path), set(sys.modules)
        kept = self.modules_by_site.setdefault(site, {})
        sys.modules.update({name: module for name, module in kept.items() if name not in before})
        sys.path.insert(0, str(site))
        try:
            yield
        finally:
            sys.path[:] = path
            for name in set(sys.modules) - before:
                if _is_in(sys.modules[name], site):
                    kept[name] = sys.modules.pop(name)


def _is_in(module: ModuleType, site: Path) -> bool:
    places = [getattr(module, "__file__", None) or "", *getattr(module, "__path__", ())]
    return any(str(place).startswith(f"{site}{os.sep}") for place in places)


@contextlib.contextmanager
def _process_state(environment: Mapping[str, str], folder: Path) -> Iterator[None]:
    variables, cwd = dict(os.environ), Path.cwd()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(variables)


@contextlib.contextmanager
def _breakpoints(shown: Callable[[str], str]) -> Iterator[None]:
    """`breakpoint()` talks to the person, while what the step prints goes into the record."""
    hook, out = sys.breakpointhook, sys.stdout

    def stop(*_arguments: Any, **_options: Any) -> None:
        import pdb  # noqa: T100 - the person asked for it

        told: Any = _CallbackStream(lambda text: out.write(shown(text)))
        debugger = pdb.Pdb(stdout=told)
        debugger.use_rawinput = True  # the kernel asks for a line; there is no standard input to read
        debugger.set_trace(sys._getframe(1))  # noqa: SLF001 - as pdb.set_trace itself does

    sys.breakpointhook = stop
    try:
        yield
    finally:
        sys.breakpointhook = hook


def _print(output: Callable[[Stream, bytes], object], stream: Stream, text: str) -> None:
    output(stream, text.encode("utf-8", "backslashreplace"))


class _CallbackStream(io.TextIOBase):
    """A stream that hands on whatever is written."""

    def __init__(self, take: Callable[[str], object]) -> None:
        self._take = take

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._take(text)
        return len(text)

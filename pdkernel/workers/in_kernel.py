"""
Runs a Python step in the kernel's own process and thread, where a debugger can stop it.

It sets variables, working folder, streams and import path for the step, and restores them afterwards. Outbound calls go
out directly from the kernel, without the gateway or a sandbox.
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
from pdkernel.workers.child_process import step_environment
from pdkernel.workers.replies import Fault
from pdkernel.workers.step_errors import parse_step_error

DEBUGGER_QUIT_MESSAGE = "The debugger ended the step."


@dataclass(frozen=True)
class StepChannel:
    """
    The functions through which a step in the kernel reaches its caller.

    Attributes:
        send_line: Receives each message of the step as a line: exports, a response, and so on.
        call_services: Calls a service of the step and waits for the result.
        on_output: Receives the output of the step.
        redact: Redacts secrets in the debugger's output.
    """

    send_line: Callable[[str], object]
    call_services: Callable[[str, dict[str, Any]], Any]
    on_output: Callable[[Stream, bytes], object]
    redact: Callable[[str], str]


@dataclass
class InKernelRunner:
    """
    Runs steps in the kernel, one at a time.

    Attributes:
        modules_by_site: The modules that steps imported from an environment, by its folder of packages. They are removed
            from the kernel after a step and restored for the next one, because some modules cannot be loaded twice.
    """

    modules_by_site: dict[Path, dict[str, ModuleType]] = field(default_factory=dict)

    def run_step(
        self,
        step: Step,
        request: Mapping[str, Any],
        exports_json: Mapping[str, bytes],
        *,
        variables: Mapping[str, str],
        folder: str,
        site_packages: Path | None,
        channel: StepChannel,
    ) -> StepError | None:
        """
        Run *step*, and return its error or None.

        Args:
            step: The step.
            request: The request that a worker would receive; `file` is the debugger's name of the cell.
            exports_json: The exports of the steps above as JSON, by step.
            variables: The workflow's environment variables.
            folder: The working folder.
            site_packages: The packages of the workflow's environment.
            channel: Receives the step's messages and output.

        Raises:
            KeyboardInterrupt: The user interrupted the kernel.
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
                {**request, "files": dict(step.files)} if step.files else request,
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
    paths = [getattr(module, "__file__", None) or "", *getattr(module, "__path__", ())]
    return any(str(path).startswith(f"{site}{os.sep}") for path in paths)


@contextlib.contextmanager
def _process_state(environment: Mapping[str, str], folder: str) -> Iterator[None]:
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
def _breakpoints(redact: Callable[[str], str]) -> Iterator[None]:
    """Let `breakpoint()` write to the notebook, while the step's own output goes into the record."""
    hook, out = sys.breakpointhook, sys.stdout

    def stop(*_arguments: Any, **_options: Any) -> None:
        import pdb  # noqa: T100 - the step's code called breakpoint()

        stream: Any = _CallbackStream(lambda text: out.write(redact(text)))
        debugger = pdb.Pdb(stdout=stream)
        debugger.use_rawinput = True  # the kernel prompts for a line, because there is no standard input
        debugger.set_trace(sys._getframe(1))  # noqa: SLF001 - as pdb.set_trace itself does

    sys.breakpointhook = stop
    try:
        yield
    finally:
        sys.breakpointhook = hook


def _print(output: Callable[[Stream, bytes], object], stream: Stream, text: str) -> None:
    output(stream, text.encode("utf-8", "backslashreplace"))


class _CallbackStream(io.TextIOBase):
    """A stream that passes all text to a function."""

    def __init__(self, on_write: Callable[[str], object]) -> None:
        self._on_write = on_write

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._on_write(text)
        return len(text)

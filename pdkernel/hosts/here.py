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
from pdkernel.guests import python_helpers, python_step
from pdkernel.hosts.environment import step_environment
from pdkernel.hosts.faults import fault
from pdkernel.hosts.replies import Fault
from pdkernel.model import Step

ENDED_BY_DEBUGGER = "The debugger ended the step."


@dataclass(frozen=True)
class Voice:
    """
    Where what a step says goes.

    Attributes:
        send: Takes each line that it says: exports, a response, and so on.
        ask: Asks on its behalf, and waits for the answer.
        output: Takes what it prints.
        shown: What the debugger says to the person, with secrets hidden.
    """

    send: Callable[[str], object]
    ask: Callable[[str, dict[str, Any]], Any]
    output: Callable[[Stream, bytes], object]
    shown: Callable[[str], str]


@dataclass
class HereSteps:
    """
    Runs steps here, one at a time.

    Attributes:
        modules: What steps imported from an environment, by its folder of packages: gone from the kernel when no step
            runs, and the same when the next one does, because some cannot be loaded twice.
    """

    modules: dict[Path, dict[str, ModuleType]] = field(default_factory=dict)

    def run(
        self,
        step: Step,
        told: Mapping[str, Any],
        texts: Mapping[str, bytes],
        *,
        variables: Mapping[str, str],
        folder: Path,
        site: Path | None,
        voice: Voice,
    ) -> StepError | None:
        """
        Run *step*; returns why it failed, or None.

        Args:
            step: The step.
            told: What a step's process would be told; `file` is what the debugger calls the cell.
            texts: Exports of the steps above as JSON, by step.
            variables: The workflow's environment variables.
            folder: Where it works.
            site: The packages of the workflow's environment.
            voice: Where what it says goes.

        Raises:
            KeyboardInterrupt: The person interrupted the kernel.
        """
        secrets = [*variables.values(), *(value for fields in told["auth"].values() for value in fields.values())]

        def code() -> CodeType:
            source = "\n" * step.line_offset + step.source
            linecache.cache[told["file"]] = (len(source), None, source.splitlines(keepends=True), told["file"])
            return compile(source, told["file"], "exec", dont_inherit=True)

        with (
            _breakpoints(voice.shown),
            _surroundings(step_environment(folder, "", variables=variables, outside={}), folder),
            self._packages(site),
            contextlib.redirect_stdout(_Text(partial(_print, voice.output, "stdout"))),
            contextlib.redirect_stderr(_Text(partial(_print, voice.output, "stderr"))),
        ):
            failure = python_step.run(
                told,
                code,
                texts,
                is_old=python_helpers.WORD in step.source,
                secrets=secrets,
                send=voice.send,
                ask=voice.ask,
            )
        if failure is None:
            return None
        if failure["name"] == "KeyboardInterrupt":
            raise KeyboardInterrupt
        if failure["name"] == "BdbQuit":
            return StepError(ENDED_BY_DEBUGGER, name="Stopped", line=failure["line"])
        failure["stack"] = (failure["stack"] or "").replace(f'"{told["file"]}"', f'"{step.filename}"')
        return fault(msgspec.convert(failure, Fault))

    @contextlib.contextmanager
    def _packages(self, site: Path | None) -> Iterator[None]:
        if site is None:
            yield
            return
        path, before = list(sys.path), set(sys.modules)
        kept = self.modules.setdefault(site, {})
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
def _surroundings(environment: Mapping[str, str], folder: Path) -> Iterator[None]:
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

        told: Any = _Text(lambda text: out.write(shown(text)))
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


class _Text(io.TextIOBase):
    """A stream that hands on whatever is written."""

    def __init__(self, take: Callable[[str], object]) -> None:
        self._take = take

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._take(text)
        return len(text)

"""
What Go says when a step does not compile or panics, as errors at the cell's line.

Knows the texts of `go build` and of the runtime's traces. Knows no process.
"""

from __future__ import annotations

import re

from pdkernel.errors import ExportNotJSONError, StepError
from pdkernel.hosts.faults import StepCompileError

PACKAGE_MISSING = "PackageMissing"
"""The name of a `StepCompileError` for modules that cannot be had."""

MODULE = "step"
"""The module that a step is compiled in; its name stands before the file's in a trace."""

_MOST_LINES = 20
_PANIC_STATUS = 2
_PLACE = re.compile(r"^(?:\./)?(?P<file>[^\s:]+\.go):(?P<line>\d+)(?::\d+)?: (?P<message>.*)", re.MULTILINE)
_MODULE_MISSING = re.compile(
    r"cannot find module providing package (?P<package>\S+?)(?::|\s|$)|no required module provides package (?P<other>\S+?);"
    r"|(?P<module>\S+\.\S+?)(?:@\S+)?: (?:module lookup disabled|reading http|Get \"http|unrecognized import path)"
)
_PANIC = re.compile(
    r"^(?P<name>panic|fatal error): (?P<message>.*?)\n\n?(?:\[signal .*\n)?\n?goroutine ", re.MULTILINE | re.DOTALL
)
_FRAME = re.compile(rf"^(?P<call>\S.*)\n\t(?:{MODULE}/)(?P<file>[^\s:]+\.go):(?P<line>\d+)", re.MULTILINE)


def compile_error(output: str, *, install: bool, imports: tuple[str, ...]) -> StepCompileError:
    """
    The error of a failed build.

    Args:
        output: What `go build` printed.
        install: Whether modules might be downloaded.
        imports: The modules' packages that the step imports.
    """
    lines = [
        line.removeprefix("./") for line in output.strip().splitlines() if not line.startswith(("# ", "go: finding"))
    ]
    text = "\n".join(lines[:_MOST_LINES]) or "go build failed and said nothing."
    place = _PLACE.search(text)
    line = int(place["line"]) if place else None
    if imports and _MODULE_MISSING.search(text):
        fix = (
            "It is downloaded through GOPROXY (by default Go's public one): look at the import and the network."
            if install
            else "Run it once without --no-install, which downloads it."
        )
        return StepCompileError(
            f"A package that the step imports cannot be had ({', '.join(imports)}):\n{text}",
            name=PACKAGE_MISSING,
            line=line,
            fix=fix,
        )
    return StepCompileError(text, name="CompileError", line=line)


def panic(code: int, stderr: str) -> StepError | None:
    """The error that the end of *stderr* tells of; None for an exit status that the step chose (`os.Exit`)."""
    found = _PANIC.search(stderr) if code == _PANIC_STATUS else None
    if found is None:
        return None
    message = found["message"].strip()
    trace = stderr[found.end() :]
    frames = list(_FRAME.finditer(trace.partition("\n\ngoroutine ")[0]))
    kind = ExportNotJSONError if message.startswith("pd.Export(") else StepError
    return kind(
        message,
        name=found["name"] if kind is StepError else "ExportNotJSONError",
        line=int(frames[0]["line"]) if frames else None,
        stack="\n".join(f"{frame['call']}\n\t{frame['file']}:{frame['line']}" for frame in frames) or None,
    )

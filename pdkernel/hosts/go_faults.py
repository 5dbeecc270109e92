"""
What Go says when a step does not compile or panics, as errors at the cell's line.

Knows the texts of `go build` and of the runtime's traces. Knows no process.
"""

from __future__ import annotations

import re

from pdkernel.errors import ExportNotJSONError, StepError
from pdkernel.hosts.faults import StepCompileError

MODULE = "step"
"""The module that a step is compiled in; its name stands before the file's in a trace."""

_MOST_LINES = 20
_PANIC_STATUS = 2
_PROGRESS = ("# ", "go: finding", "go: found", "go: downloading")
_PLACE = re.compile(r"^(?:\./)?(?P<file>[^\s:]+\.go):(?P<line>\d+)(?::\d+)?: (?P<message>.*)", re.MULTILINE)
_PANIC = re.compile(
    r"^(?P<name>panic|fatal error): (?P<message>.*?)\n\n?(?:\[signal .*\n)?\n?goroutine ", re.MULTILINE | re.DOTALL
)
_FRAME = re.compile(rf"^(?P<call>\S.*)\n\t(?:{MODULE}/)(?P<file>[^\s:]+\.go):(?P<line>\d+)", re.MULTILINE)


def compile_error(output: str) -> StepCompileError:
    """The error of a build that failed, from what `go build` printed."""
    lines = [line.removeprefix("./") for line in output.strip().splitlines() if not line.startswith(_PROGRESS)]
    text = "\n".join(lines[:_MOST_LINES]) or "go build failed and said nothing."
    place = _PLACE.search(text)
    return StepCompileError(text, name="CompileError", line=int(place["line"]) if place else None)


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

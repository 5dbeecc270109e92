"""
What Go says when a step does not compile or panics, as errors at the cell's line.

Knows the texts of `go build` and of the runtime's traces. Knows no process.
"""

from __future__ import annotations

import re

from pdkernel.errors import ExportNotJSONError, StepError
from pdkernel.workers.step_errors import StepCompileError

STEP_MODULE = "step"
"""The module that a step is compiled in; its name stands before the file's in a trace."""

_MAX_MESSAGE_LINES = 20
_PANIC_STATUS = 2
_PROGRESS = ("# ", "go: finding", "go: found", "go: downloading")
_SOURCE_LOCATION = re.compile(r"^(?:\./)?(?P<file>[^\s:]+\.go):(?P<line>\d+)(?::\d+)?: (?P<message>.*)", re.MULTILINE)
_PANIC = re.compile(
    r"^(?P<name>panic|fatal error): (?P<message>.*?)\n\n?(?:\[signal .*\n)?\n?goroutine ", re.MULTILINE | re.DOTALL
)
_FRAME = re.compile(rf"^(?P<call>\S.*)\n\t(?:{STEP_MODULE}/)(?P<file>[^\s:]+\.go):(?P<line>\d+)", re.MULTILINE)


def parse_compile_error(output: str) -> StepCompileError:
    """The error of a build that failed, from what `go build` printed."""
    lines = [line.removeprefix("./") for line in output.strip().splitlines() if not line.startswith(_PROGRESS)]
    text = "\n".join(lines[:_MAX_MESSAGE_LINES]) or "go build failed and said nothing."
    place = _SOURCE_LOCATION.search(text)
    return StepCompileError(text, name="CompileError", line=int(place["line"]) if place else None)


def parse_panic(code: int, stderr: str) -> StepError | None:
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

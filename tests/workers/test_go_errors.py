"""The output of Go as errors at the line of the cell."""

from __future__ import annotations

from typing import Any

import pytest

from pdkernel.errors import ExportNotJSONError, StepError
from pdkernel.workers.go_errors import parse_compile_error, parse_module_error, parse_panic

LINES = {"example.test/a": 4, "example.test/b/sub": 3}
NO_MODULE = "no required module provides package"
PANIC = """\
panic: oh no

goroutine 1 [running]:
main.fail(...)
\tstep/entry.go:9 +0x1
main.main()
\tstep/entry.go:12 +0x2
runtime.main()
\t/go/src/runtime/proc.go:1 +0x3

goroutine 2 [running]:
main.other()
\tstep/entry.go:20 +0x4
exit status 2
"""


@pytest.mark.parametrize(
    ("output", "install", "package", "line", "message", "fix"),
    [
        ("verifying: checksum mismatch", True, None, 3, "example.test/a, example.test/b/sub: the registry's files", "pdkernel-go.sum"),
        (f"entry.go:4: {NO_MODULE} example.test/a; to add it", False, "example.test/a", 4, "example.test/a cannot be installed: installation is off.", "--no-install"),
        (f"{NO_MODULE} example.test/b: dial tcp", True, "example.test/b/sub", 3, "example.test/b/sub cannot be installed: the Go module proxy", "HTTPS_PROXY"),
        (f"{NO_MODULE} example.test/a: x", True, "example.test/a", 4, "The Go module example.test/a cannot be found", "GOPRIVATE"),
        ("example.test/a@v1: unrecognized import path: dial tcp", True, "example.test/a", 4, "The Go module example.test/a cannot be found", "GOPRIVATE"),
        (f"{NO_MODULE} other.test/x: 404", True, None, 3, "example.test/a, example.test/b/sub cannot be installed: the dependency other.test/x", "Import another version"),
        (f"{NO_MODULE} example.test/ab: 404", True, None, 3, "example.test/a, example.test/b/sub cannot be installed: the dependency example.test/ab", "Import another version"),
        (f"{NO_MODULE} example.test/b/su: 404", True, None, 3, "example.test/a, example.test/b/sub cannot be installed: the dependency example.test/b/su", "Import another version"),
        ("module example.test/a@v1 found (v1.0.0), but does not contain package example.test/a/x", True, None, 3, "example.test/a, example.test/b/sub cannot be installed: the dependency example.test/a/x", "Import another version"),
    ],
)  # fmt: skip
def test_a_missing_module(output: str, install: bool, package: str | None, line: int, message: str, fix: str) -> None:
    """The error has the package, the line of its import, the cause and a fix."""
    error = parse_module_error(output, install=install, import_lines=LINES)

    assert error is not None
    assert (error.package, error.line, error.message[: len(message)]) == (package, line, message)
    assert fix in error.fix


@pytest.mark.parametrize(
    ("output", "lines"),
    [("entry.go:4: undefined: x", LINES), (f"{NO_MODULE} a.test/b", {}), ("checksum mismatch", {})],
)
def test_other_failures_of_a_build(output: str, lines: dict[str, int]) -> None:
    """A build that failed for another reason, or of a step without modules, has no missing module."""
    assert parse_module_error(output, install=True, import_lines=lines) is None


@pytest.mark.parametrize(
    ("output", "message", "line"),
    [
        ("# step\n./entry.go:4:2: undefined: x\n", "entry.go:4:2: undefined: x", 4),
        ("go: downloading a\ngo: finding b\ngo: found c\nentry.go:7: bad", "entry.go:7: bad", 7),
        ("link failed", "link failed", None),
        ("", "go build failed without a message.", None),
        ("\n".join(map(str, range(21))), "\n".join(map(str, range(20))), None),
    ],
)
def test_a_compile_error(output: str, message: str, line: int | None) -> None:
    """The message has the first twenty lines of the compiler, without progress, and the line of the first fault."""
    error = parse_compile_error(output)

    assert (error.message, error.name, error.line) == (message, "CompileError", line)


def test_a_panic() -> None:
    """The error of a panic has the frames of the step in the goroutine that failed."""
    error = parse_panic(2, f"printed before\n{PANIC}")

    assert type(error) is StepError
    assert (error.message, error.name, error.line) == ("oh no", "panic", 9)
    assert error.stack == "main.fail(...)\n\tentry.go:9\nmain.main()\n\tentry.go:12"


@pytest.mark.parametrize(
    ("trace", "kind", "name", "line"),
    [
        (PANIC.replace("oh no", "pd.Export(x): no"), ExportNotJSONError, "ExportNotJSONError", 9),
        (PANIC.replace("panic: oh no", "fatal error: all goroutines are asleep"), StepError, "fatal error", 9),
        (PANIC.replace("oh no\n", "oh no\n[signal SIGSEGV: x]\n"), StepError, "panic", 9),
        (PANIC.replace("step/", "/go/src/"), StepError, "panic", None),
    ],
)
def test_kinds_of_panics(trace: str, kind: type[Any], name: str, line: int | None) -> None:
    """A value that is not JSON, a fatal error and a signal have their own names; without a frame there is no line."""
    error = parse_panic(2, trace)

    assert error is not None
    assert type(error) is kind
    assert (error.name, error.line) == (name, line)
    assert (error.stack is None) == (line is None)


@pytest.mark.parametrize(("code", "stderr"), [(1, PANIC), (0, PANIC), (2, "usage: x"), (2, "panic: oh no")])
def test_an_exit_status_is_not_a_panic(code: int, stderr: str) -> None:
    """Another status, or output without a trace, is the step's own exit."""
    assert parse_panic(code, stderr) is None

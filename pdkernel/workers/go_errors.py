"""
Parses the output of Go into errors at the line of the cell: compile errors, missing modules, and panics.

Messages about modules never contain the address of a proxy or a credential.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pdkernel.errors import ExportNotJSONError, PackageInstallError, StepError
from pdkernel.workers.step_errors import StepCompileError

STEP_MODULE = "step"
"""The module in which a step is compiled; a trace shows its name before the file name."""

_MAX_MESSAGE_LINES = 20
_PANIC_STATUS = 2
_PROGRESS = ("# ", "go: finding", "go: found", "go: downloading")
_SOURCE_LOCATION = re.compile(r"^(?:\./)?(?P<file>[^\s:]+\.go):(?P<line>\d+)(?::\d+)?: (?P<message>.*)", re.MULTILINE)
_PANIC = re.compile(
    r"^(?P<name>panic|fatal error): (?P<message>.*?)\n\n?(?:\[signal [^\n]*\n)?\n?goroutine ", re.MULTILINE | re.DOTALL
)
_FRAME = re.compile(rf"^(?P<call>\S.*)\n\t(?:{STEP_MODULE}/)(?P<file>[^\s:]+\.go):(?P<line>\d+)", re.MULTILINE)
_MISSING = re.compile(
    r"(?:cannot find module providing package |no required module provides package )(?P<package>[^\s:;]+)"
    r"|module (?P<module>[^\s:@]+\.[^\s:@]+)(?:@\S+)?: (?:reading |Get \"|no matching versions|git |invalid version)"
    r"|module \S+ found \(\S+\), but does not contain package (?P<inside>[^\s:;]+)"
    r"|(?P<versioned>[^\s:@]+\.[^\s:@]+)@\S+: (?:module lookup disabled|reading |Get \"|unrecognized import path|invalid version)"
)
_NO_NETWORK = re.compile(
    r"dial tcp|connection re(?:fused|set)|no such host|i/o timeout|TLS handshake|x509:|proxyconnect|"
    r"network is unreachable|context deadline exceeded|: EOF"
)
_UNRECOGNIZED_PATH = "unrecognized import path"
"""Go asked the host that the import path names; the path may be misspelt if this host does not answer."""


def parse_compile_error(output: str) -> StepCompileError:
    """Build the error of a failed build from the output of `go build`."""
    lines = [line.removeprefix("./") for line in output.strip().splitlines() if not line.startswith(_PROGRESS)]
    text = "\n".join(lines[:_MAX_MESSAGE_LINES]) or "go build failed without a message."
    location = _SOURCE_LOCATION.search(text)
    return StepCompileError(text, name="CompileError", line=int(location["line"]) if location else None)


def parse_panic(code: int, stderr: str) -> StepError | None:
    """Build the error of a panic from the end of *stderr*; None for an exit status that the step chose (`os.Exit`)."""
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


def parse_module_error(output: str, *, install: bool, import_lines: Mapping[str, int]) -> PackageInstallError | None:
    """
    Build the error of a build that failed because of a missing module; None if it failed for another reason.

    Args:
        output: The output of `go build`.
        install: Whether downloads were allowed.
        import_lines: The packages of modules that the step imports, each with its line in the cell.
    """
    if not import_lines:
        return None
    if "checksum mismatch" in output:
        return PackageInstallError(
            f"{', '.join(import_lines)}: the registry's files do not match the checksums in the lock file. Nothing was installed.",
            fix="If you expect the change, delete the lines of these modules in pdkernel-go.sum, and run again.",
            line=min(import_lines.values()),
        )
    found = _MISSING.search(output)
    if found is None:
        return None
    wanted = next(group for group in found.groups() if group)
    package = next((path for path in import_lines if path == wanted or path.startswith(f"{wanted}/")), None)
    cannot = f"{package or ', '.join(import_lines)} cannot be installed"
    line = import_lines[package] if package else min(import_lines.values())
    if not install:
        return PackageInstallError(
            f"{cannot}: installation is off.",
            fix="Run the workflow once without --no-install to download the module.",
            package=package,
            line=line,
        )
    if _NO_NETWORK.search(output) and _UNRECOGNIZED_PATH not in output:
        return PackageInstallError(
            f"{cannot}: the Go module proxy cannot be reached.",
            fix="Check the network, GOPROXY and HTTPS_PROXY, and run again.",
            package=package,
            line=line,
        )
    if package is None:
        return PackageInstallError(
            f"{cannot}: the dependency {wanted} cannot be found or reached.",
            fix="Import another version, or check the network and GOPROXY.",
            line=line,
        )
    return PackageInstallError(
        f"The Go module {package} cannot be found or reached.",
        fix="Check the spelling of the import, the network, and GOPROXY (GOPRIVATE for a private module).",
        package=package,
        line=line,
    )

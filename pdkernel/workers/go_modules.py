"""
What Go says when a module that a step imports cannot be had, in a person's words: those of a missing npm or Python package.

Knows the texts of `go build` about modules. No address of a proxy and no credential in one is ever passed on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pdkernel.errors import PackageInstallError

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
"""Go has asked the host that the import itself names: that it does not answer may as well mean that it is misspelt."""


def parse_module_error(output: str, *, install: bool, import_lines: Mapping[str, int]) -> PackageInstallError | None:
    """
    The error of a build that failed for want of a module; None if it failed for any other reason.

    Args:
        output: What `go build` printed.
        install: Whether modules might be downloaded.
        import_lines: The modules' packages that the step imports, each with the line of the cell.
    """
    if not import_lines:
        return None
    if "checksum mismatch" in output:
        return PackageInstallError(
            f"{', '.join(import_lines)}: what the registry has is not what the lock file says. Nothing was installed.",
            fix="If you expect that, delete their lines in pdkernel-go.sum and run again.",
            line=min(import_lines.values()),
        )
    found = _MISSING.search(output)
    if found is None:
        return None
    wanted = next(group for group in found.groups() if group)
    ours = next((path for path in import_lines if path == wanted or path.startswith(f"{wanted}/")), None)
    cannot = f"{ours or ', '.join(import_lines)} cannot be installed"
    line = import_lines[ours] if ours else min(import_lines.values())
    if not install:
        return PackageInstallError(
            f"{cannot}: nothing was to be installed.",
            fix="Run it once without --no-install, which downloads it.",
            package=ours,
            line=line,
        )
    if _NO_NETWORK.search(output) and _UNRECOGNIZED_PATH not in output:
        return PackageInstallError(
            f"{cannot}: the Go module proxy cannot be reached.",
            fix="Look at the network and at GOPROXY and HTTPS_PROXY, and run again.",
            package=ours,
            line=line,
        )
    if ours is None:
        return PackageInstallError(
            f"{cannot}: the Go module {wanted}, which it needs, cannot be found or reached.",
            fix="Import another version of it, or look at the network and at GOPROXY.",
            line=line,
        )
    return PackageInstallError(
        f"The Go module {ours} cannot be found or reached.",
        fix="Look at the import's spelling, at the network and at GOPROXY (GOPRIVATE for a private module).",
        package=ours,
        line=line,
    )

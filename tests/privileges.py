"""Dropping root's right to ignore file modes, for tests that run as root."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2  # linux/prctl.h, linux/capability.h


def drop_override() -> None:
    """Drop root's right to ignore file modes, from the next program on. Fails for a user without this right."""
    libc = ctypes.CDLL(None)
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


def run_unprivileged(*command: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run *command* without root's right to ignore file modes, and capture its output."""
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True, preexec_fn=drop_override)

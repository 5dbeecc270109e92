"""Dropping root's right to ignore file modes, for tests that run as root."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_SYS_ADMIN = (
    24,
    1,
    2,
    21,
)  # linux/prctl.h, linux/capability.h
_CAPABILITY_VERSION_3 = 0x20080522


def drop_override() -> None:
    """Drop root's right to ignore file modes in this process. Changes nothing for a user without this right."""
    drop_capabilities(CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH)


def drop_capabilities(*capabilities: int) -> None:
    """Drop *capabilities* of this process and of the programs that it starts."""
    libc = ctypes.CDLL(None)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (
        ctypes.c_uint32 * 6
    )()  # effective, permitted and inheritable, twice: the first 32 capabilities and the others
    libc.capget(header, sets)
    for capability in capabilities:
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
        for place in range(3):
            sets[place] &= ~(1 << capability)
    libc.capset(header, sets)


def run_unprivileged(*command: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run *command* without root's right to ignore file modes, and capture its output."""
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True, preexec_fn=drop_override)

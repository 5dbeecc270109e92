"""A mount namespace for a test's commands: what they mount, this process and the machine never see."""

from __future__ import annotations

import functools
import shutil
import subprocess

APART = ("unshare", "--mount", "sh", "-c", 'mount --make-rprivate / && exec "$@"', "sh")
"""Runs the command that follows in a mount namespace of its own."""


@functools.cache
def may_mount() -> bool:
    """Whether this user may mount there."""
    if shutil.which("unshare") is None:
        return False
    tried = [*APART, "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(tried, capture_output=True, check=False).returncode == 0

"""A mount namespace for the commands of a test, so that their mounts are not visible outside."""

from __future__ import annotations

import functools
import shutil
import subprocess

APART = ("unshare", "--mount", "sh", "-c", 'mount --make-rprivate / && exec "$@"', "sh")
"""The prefix that runs a command in its own mount namespace."""


@functools.cache
def may_mount() -> bool:
    """Whether the user may mount in such a namespace."""
    if shutil.which("unshare") is None:
        return False
    tried = [*APART, "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(tried, capture_output=True, check=False).returncode == 0

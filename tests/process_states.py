"""The state of a process that a test does not wait for as a parent does."""

from __future__ import annotations

import psutil


def has_ended(pid: int) -> bool:
    """Whether a process does not run any more; its parent may not have noticed that yet."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # also if it ends between two looks
        return True

"""
The environment of a step's process: made from a list, never inherited.

Knows what a program needs to run at all. What the workflow and the gateway add, they say.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pdkernel.guests.process_tree import MARK


def base_environment(folder: Path, mark: str) -> dict[str, str]:
    """
    What every step's process has.

    Args:
        folder: The working folder; HOME too, so that a step reads none of the person's own files by accident.
        mark: By which the processes of one guest are known.
    """
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "LANG": "C.UTF-8",
        "TZ": "UTC",  # parity[time-zone]: the platform's machines keep UTC
        "NO_COLOR": "1",
        MARK: mark,
    }


def step_environment(
    folder: Path, mark: str, *, variables: Mapping[str, str], outside: Mapping[str, str]
) -> dict[str, str]:
    """The base, the workflow's *variables*, and *outside*, which no variable may take away."""
    return base_environment(folder, mark) | dict(variables) | dict(outside)

"""
The environment of a step's process: made from a list, never inherited.

Knows what a program needs to run at all. What the workflow and the gateway add, they say.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pdkernel.runtimes.process_tree import PROCESS_TAG_VARIABLE


def base_environment(folder: Path, process_tag: str) -> dict[str, str]:
    """
    What every step's process has.

    Args:
        folder: The working folder; HOME too, so that a step reads none of the person's own files by accident.
        process_tag: By which the processes of one guest are known.
    """
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "LANG": "C.UTF-8",
        "TZ": "UTC",  # parity[time-zone]: the platform's machines keep UTC
        "NO_COLOR": "1",
        PROCESS_TAG_VARIABLE: process_tag,
    }


def step_environment(
    folder: Path, process_tag: str, *, variables: Mapping[str, str], gateway_variables: Mapping[str, str]
) -> dict[str, str]:
    """The base, the workflow's *variables*, and *gateway_variables*, which no variable may take away."""
    return base_environment(folder, process_tag) | dict(variables) | dict(gateway_variables)

"""The environment variables of a step's process: built from a fixed list, never inherited."""

from __future__ import annotations

import os
from collections.abc import Mapping

from pdkernel.runtimes.process_tree import PROCESS_TAG_VARIABLE


def base_environment(folder: str, process_tag: str) -> dict[str, str]:
    """
    Return the variables that every step's process has.

    Args:
        folder: The working folder. HOME is the same folder, so that a step does not read files of the user by accident.
        process_tag: Identifies the processes of one worker.
    """
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": folder,
        "TMPDIR": folder,
        "LANG": "C.UTF-8",
        "TZ": "UTC",  # parity[time-zone]: the platform's machines keep UTC
        "NO_COLOR": "1",
        PROCESS_TAG_VARIABLE: process_tag,
    }


def step_environment(
    folder: str, process_tag: str, *, variables: Mapping[str, str], gateway_variables: Mapping[str, str]
) -> dict[str, str]:
    """Return the base, the workflow's *variables*, and *gateway_variables*, which override the others."""
    return base_environment(folder, process_tag) | dict(variables) | dict(gateway_variables)

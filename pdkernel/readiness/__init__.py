"""
Who could run what, without running any code.

Knows workflows and a directory. Whose account a step gets is `engine.lookup`'s to say; this room asks it.

    missing   what a workflow needs that the project does not have
    matrix    external users down, steps across; and "what if" for one user
    findings  what `doctor` says of a workflow
"""

from pdkernel.readiness.findings import Findings
from pdkernel.readiness.matrix import MAX_USERS, matrix, what_if
from pdkernel.readiness.missing import Kind, Missing, app_readiness, describe_missing, find_missing, own_readiness

__all__ = [
    "MAX_USERS",
    "Findings",
    "Kind",
    "Missing",
    "app_readiness",
    "describe_missing",
    "find_missing",
    "matrix",
    "own_readiness",
    "what_if",
]

"""
Who could run what, without running any code.

Knows workflows and a directory. Whose account a step gets is `engine.lookup`'s to say; this room asks it.

    missing   what a workflow needs that the project does not have
    matrix    external users down, steps across; and "what if" for one user
    findings  what `doctor` says of a workflow
"""

from pdkernel.readiness.doctor_report import DoctorReport
from pdkernel.readiness.matrix import MAX_MATRIX_USERS, build_matrix, preview_lookup
from pdkernel.readiness.requirements import (
    MissingRequirement,
    RequirementKind,
    check_app_accounts,
    check_own_accounts,
    find_missing_requirements,
    format_missing_requirements,
)

__all__ = [
    "MAX_MATRIX_USERS",
    "DoctorReport",
    "MissingRequirement",
    "RequirementKind",
    "build_matrix",
    "check_app_accounts",
    "check_own_accounts",
    "find_missing_requirements",
    "format_missing_requirements",
    "preview_lookup",
]

"""
Checks whether workflows can run for external users, without running code.

    requirements   what a workflow needs and the project lacks
    matrix         readiness of each step for each external user, and a lookup preview for one user
    doctor_report  the report of `pdkernel doctor` about a workflow

`engine.account_lookup` selects the account of a step.
"""

from pdkernel.operations.readiness.doctor_report import DoctorReport
from pdkernel.operations.readiness.matrix import build_matrix, check_found_users, preview_lookup
from pdkernel.operations.readiness.requirements import (
    MissingRequirement,
    RequirementKind,
    check_app_accounts,
    check_own_accounts,
    find_missing_requirements,
    format_missing_requirements,
)

__all__ = [
    "DoctorReport",
    "MissingRequirement",
    "RequirementKind",
    "build_matrix",
    "check_app_accounts",
    "check_found_users",
    "check_own_accounts",
    "find_missing_requirements",
    "format_missing_requirements",
    "preview_lookup",
]

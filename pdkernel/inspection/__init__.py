"""
What a step says of itself without being run: steps and variables it reads, apps it declares, its entry point.

Knows each language's syntax. Knows nothing of accounts, files or running; literal names only.
"""

from pdkernel.inspection.apps import apps_of, declared_apps, merge_apps
from pdkernel.inspection.checks import (
    check,
    check_complete,
    check_order,
    check_packages,
    is_synced,
    order_warnings,
    reference_problems,
)
from pdkernel.inspection.custom_response import MissingResponse, missing_responses, responds
from pdkernel.inspection.node_code import PackageImport, package_fault
from pdkernel.inspection.node_code import packages as node_packages
from pdkernel.inspection.places import place_of_missing_prop, return_line
from pdkernel.inspection.problems import raise_together, restated
from pdkernel.inspection.python_packages import PythonRequirement, python_requirements, unreadable_requirements
from pdkernel.inspection.reads import STANDARD_VARIABLES, steps_read, variables_read

__all__ = [
    "STANDARD_VARIABLES",
    "MissingResponse",
    "PackageImport",
    "PythonRequirement",
    "apps_of",
    "check",
    "check_complete",
    "check_order",
    "check_packages",
    "declared_apps",
    "is_synced",
    "merge_apps",
    "missing_responses",
    "node_packages",
    "order_warnings",
    "package_fault",
    "place_of_missing_prop",
    "python_requirements",
    "raise_together",
    "reference_problems",
    "responds",
    "restated",
    "return_line",
    "steps_read",
    "unreadable_requirements",
    "variables_read",
]

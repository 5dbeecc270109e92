"""
Static reading of step code: what steps read, declare, import and respond. The contract of callers is in `contract`.

Python is read by `ast`, Node.js and `{{ }}` expressions by tree-sitter. No code runs. Only literal names
count. Names that only a run determines, and the event fields of Bash and Go steps, are reported as unknown.
"""

from pdkernel.language.analysis.abstract_values import FieldPath
from pdkernel.language.analysis.custom_response import MissingResponse, missing_responses, responds
from pdkernel.language.analysis.imported_files import (
    ReadFile,
    StepFileError,
    count_parents,
    find_missing_files,
    find_step_packages,
    find_step_requirements,
    iter_sources,
    with_step_files,
)
from pdkernel.language.analysis.node_code import PackageImport, package_fault
from pdkernel.language.analysis.platform_uses import UnreadAnswer, find_answer_readers, find_unread_answers
from pdkernel.language.analysis.python_requirements import (
    PythonRequirement,
    find_python_requirements,
    find_unreadable_requirements,
)
from pdkernel.language.analysis.secret_props import (
    SecretProp,
    fill_secret_props,
    find_missing_secrets,
    find_secret_props,
)
from pdkernel.language.analysis.source_locations import (
    describe_error_place,
    describe_place,
    find_return_line,
    locate_missing_prop,
    name_cell,
    raise_combined,
    translate_places,
    with_message,
)
from pdkernel.language.analysis.step_references import (
    STANDARD_VARIABLES,
    UNKNOWN_APP,
    build_condition_step,
    find_app_bindings,
    find_declared_apps,
    find_step_references,
    find_workflow_variables,
    merge_app_bindings,
    needs_step,
)
from pdkernel.language.analysis.workflow_checks import (
    check_block,
    check_header,
    check_import_complete,
    check_packages,
    check_readable,
    check_step_order,
    check_workflow,
    find_blocked_steps,
    find_order_warnings,
    find_reference_errors,
    find_rule_problem,
    format_instead,
    is_synced,
)

__all__ = [
    "STANDARD_VARIABLES",
    "UNKNOWN_APP",
    "FieldPath",
    "MissingResponse",
    "PackageImport",
    "PythonRequirement",
    "ReadFile",
    "SecretProp",
    "StepFileError",
    "UnreadAnswer",
    "build_condition_step",
    "check_block",
    "check_header",
    "check_import_complete",
    "check_packages",
    "check_readable",
    "check_step_order",
    "check_workflow",
    "count_parents",
    "describe_error_place",
    "describe_place",
    "fill_secret_props",
    "find_answer_readers",
    "find_app_bindings",
    "find_blocked_steps",
    "find_declared_apps",
    "find_missing_files",
    "find_missing_secrets",
    "find_order_warnings",
    "find_python_requirements",
    "find_reference_errors",
    "find_return_line",
    "find_rule_problem",
    "find_secret_props",
    "find_step_packages",
    "find_step_references",
    "find_step_requirements",
    "find_unread_answers",
    "find_unreadable_requirements",
    "find_workflow_variables",
    "format_instead",
    "is_synced",
    "iter_sources",
    "locate_missing_prop",
    "merge_app_bindings",
    "missing_responses",
    "name_cell",
    "needs_step",
    "package_fault",
    "raise_combined",
    "responds",
    "translate_places",
    "with_message",
    "with_step_files",
]

"""
The deployable files of a workflow, both ways: `workflow.yaml`, `pdkernel.yaml`, one entry file per code step.

The file formats are those of Pipedream's Git sync. Files are planned as values, then written in a separate step, which
overwrites only files of an earlier export.
"""

from pdkernel.files.definition.checklist import build_checklist
from pdkernel.files.definition.entry_file import slugify
from pdkernel.files.definition.field_grades import grade_fields
from pdkernel.files.definition.file_plan import DefinitionFile, get_entry_path, plan_files
from pdkernel.files.definition.folder_write import (
    ExportResult,
    compare_files,
    export_to_folder,
    write_definition_files,
    write_files,
)
from pdkernel.files.definition.lint import lint_workflow
from pdkernel.files.definition.sidecar import (
    EXTERNAL_USER,
    SIDECAR_FILE_NAME,
    UNANSWERED,
    AccountChoice,
    Sidecar,
    StepSidecar,
    UnansweredPolicy,
    apply_sidecar,
    dump_sidecar,
    get_notebook_sidecar_path,
    load_sidecar_schema,
    read_sidecar,
)
from pdkernel.files.definition.step_props import get_explicit_app
from pdkernel.files.definition.synced_export import export_to_synced_folder
from pdkernel.files.definition.synced_folder import (
    SyncedFolder,
    assume_trigger,
    describe_assumptions,
    read_folder_workflow,
    read_synced_folder,
)

__all__ = [
    "EXTERNAL_USER",
    "SIDECAR_FILE_NAME",
    "UNANSWERED",
    "AccountChoice",
    "DefinitionFile",
    "ExportResult",
    "Sidecar",
    "StepSidecar",
    "SyncedFolder",
    "UnansweredPolicy",
    "apply_sidecar",
    "assume_trigger",
    "build_checklist",
    "compare_files",
    "describe_assumptions",
    "dump_sidecar",
    "export_to_folder",
    "export_to_synced_folder",
    "get_entry_path",
    "get_explicit_app",
    "get_notebook_sidecar_path",
    "grade_fields",
    "lint_workflow",
    "load_sidecar_schema",
    "plan_files",
    "read_folder_workflow",
    "read_sidecar",
    "read_synced_folder",
    "slugify",
    "write_definition_files",
    "write_files",
]

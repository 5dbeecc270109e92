"""
The deployable files of a workflow, both ways: `workflow.yaml`, `pdkernel.yaml`, one entry file a code step.

Knows the shapes that Git sync has, and keeps them here alone. Plans files as values; writing is a step
of its own, which never overwrites what an export did not write. Reads no accounts and runs nothing.
"""

from pdkernel.definition.checklist import checklist
from pdkernel.definition.export import export
from pdkernel.definition.grades import graded
from pdkernel.definition.into import export_into
from pdkernel.definition.lint import lint
from pdkernel.definition.plan import DefinitionFile, entry_of, plan
from pdkernel.definition.read import Synced, assumed_trigger, assumptions, read_folder, read_synced
from pdkernel.definition.sidecar import (
    EXTERNAL_USER,
    FOLDER_SIDECAR,
    UNANSWERED,
    AccountChoice,
    Sidecar,
    StepSidecar,
    Unanswered,
    apply_sidecar,
    notebook_sidecar_path,
)
from pdkernel.definition.sidecar_yaml import dump_sidecar, read_sidecar, schema
from pdkernel.definition.slug import slug
from pdkernel.definition.step_props import app_beside_account
from pdkernel.definition.write import ExportResult, compare, place_files, write

__all__ = [
    "EXTERNAL_USER",
    "FOLDER_SIDECAR",
    "UNANSWERED",
    "AccountChoice",
    "DefinitionFile",
    "ExportResult",
    "Sidecar",
    "StepSidecar",
    "Synced",
    "Unanswered",
    "app_beside_account",
    "apply_sidecar",
    "assumed_trigger",
    "assumptions",
    "checklist",
    "compare",
    "dump_sidecar",
    "entry_of",
    "export",
    "export_into",
    "graded",
    "lint",
    "notebook_sidecar_path",
    "place_files",
    "plan",
    "read_folder",
    "read_sidecar",
    "read_synced",
    "schema",
    "slug",
    "write",
]

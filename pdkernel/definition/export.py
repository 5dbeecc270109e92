"""
Exports a workflow to a folder: plan the files, compare or write them, build the checklist.

Values that only the folder's `pdkernel.yaml` holds (endpoint, test users) survive an export.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from msgspec.structs import replace

from pdkernel.definition.atomic_write import check_write_paths
from pdkernel.definition.checklist import build_checklist
from pdkernel.definition.file_plan import DefinitionFile, plan_files
from pdkernel.definition.folder_write import ExportResult, compare_files, write_files
from pdkernel.definition.lint import lint_workflow
from pdkernel.definition.readme import README, build_readme, check_readme_replaceable
from pdkernel.definition.sidecar import SIDECAR_FILE_NAME, Sidecar, merge_sidecars
from pdkernel.definition.sidecar_yaml import read_sidecar
from pdkernel.model import Workflow


def export_to_folder(
    workflow: Workflow,
    folder: Path,
    *,
    sidecar: Sidecar | None = None,
    pinned_steps: Collection[str] = (),
    include_readme: bool = False,
    dry_run: bool = False,
) -> ExportResult:
    """
    Write *workflow* to *folder*.

    Args:
        workflow: The workflow to write; run `check_workflow` on it first.
        folder: The workflow's folder; it is created if it does not exist.
        sidecar: The `pdkernel.yaml` beside the notebook, or None.
        pinned_steps: Steps that are pinned in the notebook; they are exported unpinned, and the checklist names them.
        include_readme: Also write a `README.md` that describes the workflow.
        dry_run: Compare only.

    Raises:
        DefinitionError: The workflow cannot be written.
        RequestError: The folder cannot be written to.
        UnsupportedError: The folder holds another workflow, or one that Pipedream synced.
    """
    check_write_paths((SIDECAR_FILE_NAME, README), folder)
    files = plan_files(workflow, sidecar=merge_sidecars(sidecar or Sidecar(), read_sidecar(folder / SIDECAR_FILE_NAME)))
    todo = build_checklist(workflow, pinned_steps=pinned_steps)
    if include_readme:
        check_readme_replaceable(folder)
        files = (*files, DefinitionFile(README, build_readme(workflow, todo)))
    act = compare_files if dry_run else write_files
    return replace(act(files, folder, checklist=todo), findings=lint_workflow(workflow, sidecar))

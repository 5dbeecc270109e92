"""
One call for an export: plan, compare or write, checklist.

Knows that what only the folder's own `pdkernel.yaml` says (endpoint, test users) outlives an export.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

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
        workflow: What to write; check it first (`inspection.check`).
        folder: Made if need be; it becomes the workflow's folder itself.
        sidecar: The `pdkernel.yaml` beside the notebook, or None.
        pinned_steps: Steps that are pinned in the notebook: they are exported as they are, and it is said.
        include_readme: Write a `README.md`, too: the workflow in words.
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

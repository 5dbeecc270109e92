"""
One call for an export: plan, compare or write, checklist.

Knows that what only the folder's own `pdkernel.yaml` says (endpoint, test users) outlives an export.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from pdkernel.definition.checklist import checklist
from pdkernel.definition.docs import README, check_readme, readme
from pdkernel.definition.lint import lint
from pdkernel.definition.placing import check_places
from pdkernel.definition.plan import DefinitionFile, plan
from pdkernel.definition.sidecar import FOLDER_SIDECAR, Sidecar, merged_sidecar
from pdkernel.definition.sidecar_yaml import read_sidecar
from pdkernel.definition.write import ExportResult, compare, write
from pdkernel.model import Workflow


def export(
    workflow: Workflow,
    folder: Path,
    *,
    sidecar: Sidecar | None = None,
    pins: Collection[str] = (),
    docs: bool = False,
    dry_run: bool = False,
) -> ExportResult:
    """
    Write *workflow* to *folder*.

    Args:
        workflow: What to write; check it first (`inspection.check`).
        folder: Made if need be; it becomes the workflow's folder itself.
        sidecar: The `pdkernel.yaml` beside the notebook, or None.
        pins: Steps that are pinned in the notebook: they are exported as they are, and it is said.
        docs: Write a `README.md`, too: the workflow in words.
        dry_run: Compare only.

    Raises:
        DefinitionError: The workflow cannot be written.
        RequestError: The folder cannot be written to.
        UnsupportedError: The folder holds another workflow, or one that Pipedream synced.
    """
    check_places((FOLDER_SIDECAR, README), folder)
    files = plan(workflow, sidecar=merged_sidecar(sidecar or Sidecar(), read_sidecar(folder / FOLDER_SIDECAR)))
    todo = checklist(workflow, pins=pins)
    if docs:
        check_readme(folder)
        files = (*files, DefinitionFile(README, readme(workflow, todo)))
    act = compare if dry_run else write
    return replace(act(files, folder, checklist=todo), findings=lint(workflow, sidecar))

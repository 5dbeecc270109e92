"""
One call for an export: plan, compare or write, checklist.

Knows that what only the folder's own `pdkernel.yaml` says (endpoint, test users) outlives an export.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from pdkernel.definition.checklist import checklist
from pdkernel.definition.plan import plan
from pdkernel.definition.sidecar import FOLDER_SIDECAR, Sidecar
from pdkernel.definition.sidecar_yaml import read_sidecar
from pdkernel.definition.write import ExportResult, compare, write
from pdkernel.errors import UnsupportedError
from pdkernel.model import Workflow


def export(
    workflow: Workflow,
    folder: Path,
    *,
    sidecar: Sidecar | None = None,
    pins: Collection[str] = (),
    dry_run: bool = False,
) -> ExportResult:
    """
    Write *workflow* to *folder*.

    Args:
        workflow: What to write; check it first (`inspection.check`).
        folder: Made if need be; it becomes the workflow's folder itself.
        sidecar: The `pdkernel.yaml` beside the notebook, or None.
        pins: Steps that are pinned in the notebook: they are exported as they are, and it is said.
        dry_run: Compare only.

    Raises:
        DefinitionError: The workflow cannot be written.
        RequestError: The folder cannot be written to.
        UnsupportedError: The folder holds another workflow, or one that Pipedream synced.
    """
    files = plan(workflow, sidecar=_merged(sidecar or Sidecar(), read_sidecar(folder / FOLDER_SIDECAR)))
    act = compare if dry_run else write
    return act(files, folder, checklist=checklist(workflow, pins=pins))


def _merged(sidecar: Sidecar, existing: Sidecar | None) -> Sidecar:
    """What *sidecar* does not say and the folder's file does: that is nowhere else."""
    if existing is None:
        return sidecar
    return replace(
        sidecar,
        endpoint=sidecar.endpoint or existing.endpoint,
        test_users=sidecar.test_users or existing.test_users,
        actions=sidecar.actions or existing.actions,
        control_flow=sidecar.control_flow or existing.control_flow,
    )


def not_into(folder: str) -> UnsupportedError:
    """What `--into` says until this version can patch a synced folder."""
    return UnsupportedError(
        f"Patching the synced folder {folder} is not in this version.",
        fix="Write a new folder with --to FOLDER, and copy what you need.",
    )

"""Imports of real folders, without a project."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from pdkernel.actions import Catalog
from pdkernel.files.definition import (
    Sidecar,
    apply_sidecar,
    get_notebook_sidecar_path,
    plan_files,
    read_folder_workflow,
    read_sidecar,
)
from pdkernel.files.notebook import read_notebook
from pdkernel.model import Workflow
from pdkernel.operations.importer import ImportOptions, ImportResult, answer_questions, import_folder

PROJECTS = Path(__file__).parent / "projects"
HEAD = "schema: workflow/2022.04\nname: W\nsettings:\n  error_notification: true\ntriggers:\n- id: hi_1\nsteps:\n"


def import_one(
    folder: Path, notebook: Path, *, accounts: str = "ask", force: bool = False, **more: Any
) -> ImportResult:
    """Import *folder* as *notebook*, like the command without a terminal."""
    own = Catalog.without_project(notebook.parent / ".pdkernel", environ=os.environ)
    how: Any = accounts
    options = ImportOptions(
        build_catalog=lambda sidecar, _: own.with_sources(sidecar.actions, base=folder),
        ask_accounts=more.pop("answers", None)
        or (lambda asked: {} if accounts == "ask" else answer_questions(how, asked)),
        ask_trigger=more.pop("ask_trigger", None),
        force=force,
        **more,
    )
    return import_folder(folder, notebook, options)


def as_written(notebook: Path) -> tuple[Workflow, Sidecar]:
    """The content of an imported notebook and of its `pdkernel.yaml`."""
    sidecar = read_sidecar(get_notebook_sidecar_path(notebook))
    assert sidecar is not None
    return apply_sidecar(read_notebook(notebook), sidecar, unanswered_policy="keep"), sidecar


def without_places(workflow: Workflow) -> Workflow:
    """*workflow* without its origin and the positions of its cells."""
    steps = tuple(replace(step, cell_index=None, line_offset=0) for step in workflow.steps)
    return replace(workflow, origin=None, steps=steps)


def check_round_trip(folder: Path, notebook: Path) -> Workflow:
    """Import *folder* as *notebook*, and check that the same workflow is read back, in order and byte for byte."""
    imported = import_one(folder, notebook)
    assert imported.error is None, imported.error
    back, sidecar = as_written(notebook)
    folders = read_folder_workflow(folder, require_code=False, unanswered_policy="keep")
    assert without_places(back) == without_places(folders)
    ids = read_folder_workflow(folder, require_code=False, assumed_account="own", unanswered_policy="keep")
    assert plan_files(back, sidecar=sidecar)[0] == plan_files(ids)[0]
    assert plan_files(back, sidecar=sidecar)[2:] == plan_files(ids)[2:]
    return back

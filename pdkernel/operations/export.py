"""
The export of a workflow as the files that Pipedream deploys, and the proof of the export.

`definition` plans and writes the files, `proof` compares their runs with those of the notebook.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pdkernel import definition
from pdkernel.analysis import check_workflow
from pdkernel.definition import ExportResult
from pdkernel.encode import JsonStruct
from pdkernel.errors import RequestError
from pdkernel.identity import Directory
from pdkernel.render.proof import Proof
from pdkernel.source import WorkflowSource

if TYPE_CHECKING:
    from pdkernel.project import Project

DRY_RUN_NOTE = "No file was written: --dry-run shows the changes only."


class Export(JsonStruct, frozen=True):
    """
    The result of an export.

    Attributes:
        files: The written or compared files, the checklist and the findings.
        proof: The proof of the written files, or None.
    """

    files: ExportResult
    proof: Proof | None = None

    def json_form(self) -> object:
        """The files' JSON; the proof, if any, is at the key `proof`."""
        return {**self.files.to_json(), **({"proof": self.proof.to_json()} if self.proof is not None else {})}


def check_export_options(*, to: str | None, into: str | None, dry_run: bool, prove: bool) -> None:
    """
    Check the options of an export.

    Raises:
        RequestError: There are two target folders, or a proof is requested of an export that writes no files.
    """
    if to is not None and into is not None:
        raise RequestError(
            "--to and --into exclude each other.",
            fix="Use --to FOLDER for a new folder, or --into FOLDER for a folder that Pipedream synced.",
        )
    if prove and (dry_run or (to is None and into is None)):
        raise RequestError(
            "--prove needs written files, and this export writes none.",
            fix="Pass --to or --into, and leave out --dry-run; or leave out --prove.",
        )


def export_workflow(
    source: WorkflowSource,
    folder: Path,
    *,
    is_patch: bool,
    include_docs: bool = False,
    dry_run: bool = False,
    pinned_steps: Collection[str] = (),
) -> ExportResult:
    """
    Write a workflow to *folder*.

    Args:
        source: The workflow with its `pdkernel.yaml`; unanswered account questions are allowed.
        folder: The target folder.
        is_patch: Whether *folder* is a synced folder, which keeps its unchanged parts.
        include_docs: Whether to write a `README.md` too, and in a synced folder `pdkernel.yaml`.
        dry_run: Whether to compare only.
        pinned_steps: Steps that are pinned in the notebook.

    Raises:
        DefinitionError: The workflow is invalid or cannot be written.
        RequestError: The folder cannot be written to.
        UnsupportedError: The folder holds another workflow, or one that Pipedream synced.
    """
    check_workflow(source.workflow, to_run=False)
    export = definition.export_to_synced_folder if is_patch else definition.export_to_folder
    return export(
        source.workflow,
        folder,
        sidecar=source.sidecar,
        pinned_steps=pinned_steps,
        include_readme=include_docs,
        dry_run=dry_run,
    )


def prove_export(
    source: WorkflowSource,
    folder: Path,
    *,
    project: Project,
    directory: Directory,
    environ: Mapping[str, str],
    is_patch: bool,
    extra_users: Sequence[str] = (),
    pinned_steps: Sequence[str] = (),
    progress: Callable[[str], None] = lambda _: None,
) -> Proof:
    """
    Run the files that an export wrote to *folder* and their notebook on every saved event, offline, and compare the runs.

    Args:
        source: The exported notebook.
        folder: The exported folder.
        project: The project with packages, actions, accounts and variables.
        directory: Users and accounts.
        environ: Environment variables with settings of package registries.
        is_patch: Whether the export updated a synced folder.
        extra_users: External users in addition to the workflow's test users.
        pinned_steps: Steps that are pinned in the notebook; the proof runs them.
        progress: Called with short lines about the progress.

    Raises:
        RequestError: The written files do not name the owner of an account.
        ProjectError: The project cannot be used.
    """
    from pdkernel.loop_thread import LoopThread
    from pdkernel.proof import ExportedNotebook, run_proof

    exported = ExportedNotebook(
        source.path,
        source.workflow,
        source.sidecar,
        project,
        directory,
        environ=environ,
        extra_users=extra_users,
        pins=pinned_steps,
        is_patched=is_patch,
    )
    loop = LoopThread()  # a separate loop: a run of the notebook may be in progress
    try:
        return loop.run(run_proof(exported, folder, progress=progress))
    finally:
        loop.close()

"""
The export of a workflow as the files that Pipedream deploys, and the proof of the export.

`definition` plans and writes the files, `proof` compares their runs with those of the notebook.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from pdkernel.annex.proof.report import Proof
from pdkernel.common.encode import JsonStruct
from pdkernel.common.identity import Directory
from pdkernel.engine.variables import read_variables_file
from pdkernel.errors import PdkernelError, RequestError
from pdkernel.files import definition
from pdkernel.files.definition import ExportResult, Sidecar
from pdkernel.files.source import WorkflowSource, load_served_source
from pdkernel.language.analysis import check_workflow, find_workflow_variables
from pdkernel.model import Workflow

if TYPE_CHECKING:
    from pdkernel.storage import Project

__all__ = [
    "DRY_RUN_NOTE",
    "Export",
    "Proof",
    "check_export_options",
    "export_workflow",
    "prove_export",
]

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
        """Return the files' JSON; the proof, if any, is at the key `proof`."""
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
    options: Sequence[str] = (),
) -> ExportResult:
    """
    Write a workflow to *folder*, and load the folder as `pdkernel serve` does.

    Args:
        source: The workflow with its `pdkernel.yaml`; unanswered account questions are allowed.
        folder: The target folder.
        is_patch: Whether *folder* is a synced folder, which keeps its unchanged parts.
        include_docs: Whether to write a `README.md` too, and in a synced folder `pdkernel.yaml`.
        dry_run: Whether to compare only.
        pinned_steps: Steps that are pinned in the notebook.
        options: The global options of the command that serves the folder, such as `--project FOLDER`.

    Raises:
        DefinitionError: The workflow is invalid or cannot be written.
        RequestError: The folder cannot be written to.
        UnsupportedError: The folder holds another workflow, or one that Pipedream synced.
    """
    check_workflow(source.workflow, to_run=False)
    export = definition.export_to_synced_folder if is_patch else definition.export_to_folder
    written = export(
        source.workflow,
        folder,
        sidecar=_move_action_folders(source, folder),
        pinned_steps=pinned_steps,
        include_readme=include_docs,
        dry_run=dry_run,
    )
    return written if dry_run else _add_serving(written, source, options)


def _move_action_folders(source: WorkflowSource, folder: Path) -> Sidecar | None:
    """Return the `pdkernel.yaml` beside the notebook, with the relative paths of folders with components relative to *folder*."""
    if source.sidecar is None or not source.sidecar.actions:
        return source.sidecar
    from pdkernel.actions.source_settings import is_source_name  # which loads the pool of workers

    moved = (
        each
        if is_source_name(each) or Path(each).is_absolute()
        else os.path.relpath((source.folder / each).resolve(), folder.resolve())
        for each in source.sidecar.actions
    )
    return dataclasses.replace(source.sidecar, actions=tuple(moved))


def _add_serving(written: ExportResult, source: WorkflowSource, options: Sequence[str]) -> ExportResult:
    """Return *written* with the command that serves the folder, or with the reason why it cannot be served as it is."""
    try:
        served = load_served_source(written.folder)
    except PdkernelError as fault:
        return replace(written, serve_notes=(" ".join(str(fault).split()),))
    return replace(
        written,
        serve_command=shlex.join(["pdkernel", *options, "serve", _format_folder(written.folder)]),
        serve_notes=(
            *_describe_left_policy(source),
            *_describe_left_variables(served.workflow, source.folder, written.folder),
        ),
    )


def _format_folder(folder: Path) -> str:
    """Return *folder* for a command line: relative to the current folder if it is below, because saved notebooks contain the text."""
    here = Path.cwd()
    shown = str(folder.relative_to(here) if folder.is_relative_to(here) else folder)
    return f"./{shown}" if shown.startswith("-") else shown


def _describe_left_policy(source: WorkflowSource) -> Iterator[str]:
    """Yield a sentence about the outbound policy of the notebook: `serve` refuses to ignore it, but a folder does not have it."""
    last = source.policy_cells[-1] if source.policy_cells else None
    if last is not None and last.text != "live":
        keep = f" To keep it, add {last.option}" if last.option else ""
        yield f"The notebook's outbound policy is not exported: the served steps send their calls for real.{keep}"


def _describe_left_variables(workflow: Workflow, notebook_folder: Path, folder: Path) -> Iterator[str]:
    """Yield a sentence for each variable that the workflow reads and that only the `.env` beside the notebook has."""
    if notebook_folder.resolve() == folder.resolve():
        return
    tokens = [trigger.token_env for trigger in workflow.triggers if trigger.token_env]
    left = read_variables_file(notebook_folder).keys() - read_variables_file(folder).keys()
    for name in sorted(left & {*find_workflow_variables(workflow), *workflow.variables, *tokens}):
        yield (
            f"{name} is in the .env file beside the notebook, which is not exported because it holds secrets. "
            f"If the project does not have {name}: pdkernel env set {shlex.quote(name)}"
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
    from pdkernel.annex.proof.prover import ExportedNotebook, run_proof
    from pdkernel.common.loop_thread import LoopThread

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

"""
Exports a workflow into a folder that Pipedream synced: read, patch, compare or write, build the checklist.

New files there are the entry files of new steps, and `pdkernel.yaml` or `README.md` if requested.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

from pdkernel.errors import NotebookError, RequestError
from pdkernel.files.definition.atomic_write import check_write_paths
from pdkernel.files.definition.checklist import build_checklist, list_omissions
from pdkernel.files.definition.file_plan import WORKFLOW_FILE, DefinitionFile, build_sidecar, find_inferred_steps
from pdkernel.files.definition.folder_patch import FolderPatch, build_folder_patch
from pdkernel.files.definition.folder_write import ExportResult, FileChange, apply_changes, diff_file
from pdkernel.files.definition.lint import lint_workflow
from pdkernel.files.definition.readme import README, build_readme, check_readme_replaceable
from pdkernel.files.definition.sidecar import (
    SIDECAR_FILE_NAME,
    UNANSWERED,
    AccountChoice,
    Sidecar,
    StepSidecar,
    apply_sidecar,
    merge_sidecars,
)
from pdkernel.files.definition.sidecar_yaml import build_sidecar_mapping, dump_sidecar, read_sidecar
from pdkernel.files.definition.step_merge import merge_value
from pdkernel.files.definition.synced_folder import build_workflow
from pdkernel.files.definition.workflow_document import WorkflowDocument, read_document
from pdkernel.language.directive import parse_yaml, patch_yaml
from pdkernel.model import Workflow


def export_to_synced_folder(
    workflow: Workflow,
    folder: Path,
    *,
    sidecar: Sidecar | None = None,
    pinned_steps: Collection[str] = (),
    include_readme: bool = False,
    dry_run: bool = False,
) -> ExportResult:
    """
    Patch the synced *folder*: parts that the notebook has not changed stay byte for byte.

    Cells overwrite the entry files of their steps; the folder's Git history holds the earlier ones.

    Args:
        workflow: The notebook's workflow; run `check_workflow` on it first.
        folder: A folder with a `workflow.yaml`.
        sidecar: The `pdkernel.yaml` beside the notebook, or None.
        pinned_steps: Steps that are pinned in the notebook.
        include_readme: Write `pdkernel.yaml` and `README.md` even if the folder has none.
        dry_run: Compare only.

    Raises:
        DefinitionError: The workflow cannot be written, or the folder cannot be read.
        RequestError: The folder cannot be written; it is unchanged.
        UnsupportedError: The folder belongs to another workflow, or its YAML cannot be patched.
    """
    check_write_paths((WORKFLOW_FILE, SIDECAR_FILE_NAME), folder)
    document = _document(folder)
    patch = build_folder_patch(workflow, document, sidecar=sidecar)
    existing = read_sidecar(folder / SIDECAR_FILE_NAME)
    own = _own_sidecar(patch, sidecar, existing)
    todo = [
        *build_checklist(patch.workflow, pinned_steps=pinned_steps, kept_accounts=patch.kept_accounts),
        *([] if existing is not None or include_readme else list_omissions(own)),
        *(
            f"{path} is not used by any step any more: remove it from the folder when you commit."
            for path in patch.unused_entry_paths
        ),
    ]
    files = [*patch.files[:1], *_sidecar_files(document, patch, own, existing, docs=include_readme), *patch.files[1:]]
    if include_readme:
        check_readme_replaceable(folder)
        files.append(DefinitionFile(README, build_readme(patch.workflow, todo)))
    check_write_paths((file.path for file in files), folder)
    try:
        changes = [diff_file(file, folder) for file in files]
    except OSError as error:
        raise RequestError(f"{folder} cannot be read: {error.strerror or error}.") from None
    _check_unused_files(changes, patch, folder)
    left = [FileChange(path, "left alone") for path in patch.unused_entry_paths if (folder / path).exists()]
    findings = lint_workflow(replace(patch.workflow, steps=workflow.steps), sidecar)
    result = ExportResult(folder=folder, files=(*changes, *left), checklist=tuple(todo), findings=findings)
    return result if dry_run else apply_changes(result, files)


def _document(folder: Path) -> WorkflowDocument:
    try:
        return read_document(folder)
    except NotebookError as error:
        if (folder / WORKFLOW_FILE).exists():
            raise
        raise NotebookError(
            error.message, fix="--into patches a folder that Pipedream synced; --to FOLDER writes a new one."
        ) from None


def _check_unused_files(changes: list[FileChange], patch: FolderPatch, folder: Path) -> None:
    """Refuse a new step's entry file that would overwrite a file that no step of the folder uses."""
    known = {WORKFLOW_FILE, SIDECAR_FILE_NAME, README, *patch.previous_entry_paths}
    for change in changes:
        if change.state == "changed" and change.path not in known:
            raise RequestError(
                f"{folder / change.path} exists, and no step of the folder uses it: it would be overwritten.",
                fix="Move the file away, or rename the new step's cell.",
            )


def _own_sidecar(patch: FolderPatch, sidecar: Sidecar | None, existing: Sidecar | None) -> Sidecar:
    """The content for the folder's `pdkernel.yaml`, without the ids that its `workflow.yaml` holds."""
    base = merge_sidecars(sidecar or Sidecar(), existing)
    if existing is not None and existing.actions:
        base = replace(base, actions=existing.actions)  # a path in `actions` is relative to the folder
    return _for_folder(build_sidecar(patch.workflow, base), existing or Sidecar())


def _for_folder(sidecar: Sidecar, existing: Sidecar) -> Sidecar:
    steps = {}
    for name, step_sidecar in sidecar.steps.items():
        known = existing.steps.get(name, StepSidecar()).accounts
        accounts = {
            prop: AccountChoice(choice.account, choice.app)
            for prop, choice in step_sidecar.accounts.items()
            # An unanswered prop is written only if the folder's file has it already.
            if choice.account != UNANSWERED or prop in known
        }
        steps[name] = replace(step_sidecar, accounts=accounts)
    return replace(sidecar, steps=steps)


def _sidecar_files(
    document: WorkflowDocument, patch: FolderPatch, own: Sidecar, existing: Sidecar | None, *, docs: bool
) -> Iterator[DefinitionFile]:
    inferred = find_inferred_steps(patch.workflow)
    if existing is None:
        if docs:
            yield DefinitionFile(SIDECAR_FILE_NAME, dump_sidecar(own, inferred_steps=inferred))
        return
    path = document.folder / SIDECAR_FILE_NAME
    text = path.read_bytes().decode("utf-8")
    raw = parse_yaml(text, allow_expressions=False, error_class=NotebookError, document_name=str(path)).value or {}
    existing_workflow = apply_sidecar(
        build_workflow(document, existing, require_code=False, unanswered_policy="keep"),
        existing,
        unanswered_policy="keep",
    )
    base = build_sidecar_mapping(
        _for_folder(build_sidecar(existing_workflow, existing), existing),
        inferred_steps=find_inferred_steps(existing_workflow),
    )
    new = merge_value(raw, base, build_sidecar_mapping(own, inferred_steps=inferred))
    if not raw:
        yield DefinitionFile(SIDECAR_FILE_NAME, dump_sidecar(own, inferred_steps=inferred) if new else text)
        return
    yield DefinitionFile(SIDECAR_FILE_NAME, patch_yaml(text, raw, new, name=str(path), psych=False))

"""
One call for an export into a folder that Pipedream synced: read it, patch it, compare or write, checklist.

Knows which files an export may add there: a new step's entry file; `pdkernel.yaml` only where there is one already, or
where it is asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

from pdkernel.definition.checklist import checklist, left_out
from pdkernel.definition.docs import README, check_readme, readme
from pdkernel.definition.lint import lint
from pdkernel.definition.patch import Patch, patch
from pdkernel.definition.placing import check_places
from pdkernel.definition.plan import WORKFLOW_FILE, DefinitionFile, inferred_steps, sidecar_of
from pdkernel.definition.read import Document, read_document, workflow_in
from pdkernel.definition.settling import merged
from pdkernel.definition.sidecar import (
    FOLDER_SIDECAR,
    UNANSWERED,
    AccountChoice,
    Sidecar,
    StepSidecar,
    apply_sidecar,
    merged_sidecar,
)
from pdkernel.definition.sidecar_yaml import dump_sidecar, read_sidecar, sidecar_mapping
from pdkernel.definition.write import ExportResult, change_of, put
from pdkernel.directive import patch_yaml, read_yaml
from pdkernel.errors import NotebookError, RequestError
from pdkernel.model import Workflow
from pdkernel.render.files import FileChange


def export_into(
    workflow: Workflow,
    folder: Path,
    *,
    sidecar: Sidecar | None = None,
    pins: Collection[str] = (),
    docs: bool = False,
    dry_run: bool = False,
) -> ExportResult:
    """
    Patch the synced *folder*: what the notebook has not changed stays to the byte.

    Entry files of steps are written over with their cells; what the folder's Git history holds is the way back.

    Args:
        workflow: The notebook's; check it first (`inspection.check`).
        folder: It holds `workflow.yaml`.
        sidecar: The `pdkernel.yaml` beside the notebook, or None.
        pins: Steps that are pinned in the notebook.
        docs: Write `pdkernel.yaml` and `README.md` also where there are none.
        dry_run: Compare only.

    Raises:
        DefinitionError: The workflow cannot be written, or the folder not be read.
        RequestError: The folder cannot be written to; it is as it was.
        UnsupportedError: The folder is of another workflow, or written in a way that cannot be patched.
    """
    check_places((WORKFLOW_FILE, FOLDER_SIDECAR), folder)
    document = _document(folder)
    made = patch(workflow, document, sidecar=sidecar)
    existing = read_sidecar(folder / FOLDER_SIDECAR)
    own = _own_sidecar(made, sidecar, existing)
    todo = [
        *checklist(made.workflow, pins=pins, kept=made.kept),
        *([] if existing is not None or docs else left_out(own)),
        *(f"{path} belongs to no step any more: remove it from the folder when you commit." for path in made.left),
    ]
    files = [*made.files[:1], *_sidecar_files(document, made, own, existing, docs=docs), *made.files[1:]]
    if docs:
        check_readme(folder)
        files.append(DefinitionFile(README, readme(made.workflow, todo)))
    check_places((file.path for file in files), folder)
    try:
        changes = [change_of(file, folder) for file in files]
    except OSError as error:
        raise RequestError(f"{folder} cannot be read: {error.strerror or error}.") from None
    _check_strangers(changes, made, folder)
    left = [FileChange(path, "left alone") for path in made.left if (folder / path).exists()]
    findings = lint(replace(made.workflow, steps=workflow.steps), sidecar)
    result = ExportResult(folder, (*changes, *left), tuple(todo), findings=findings)
    return result if dry_run else put(result, files)


def _document(folder: Path) -> Document:
    try:
        return read_document(folder)
    except NotebookError as error:
        if (folder / WORKFLOW_FILE).exists():
            raise
        raise NotebookError(
            error.message, fix="--into patches a folder that Pipedream synced; --to FOLDER writes a new one."
        ) from None


def _check_strangers(changes: list[FileChange], made: Patch, folder: Path) -> None:
    """A new step's entry file must not take the place of a file that no step of the folder uses."""
    known = {WORKFLOW_FILE, FOLDER_SIDECAR, README, *made.before}
    for change in changes:
        if change.state == "changed" and change.path not in known:
            raise RequestError(
                f"{folder / change.path} exists, and no step of the folder uses it: it would be overwritten.",
                fix="Move it away, or call the new step's cell otherwise.",
            )


def _own_sidecar(made: Patch, sidecar: Sidecar | None, existing: Sidecar | None) -> Sidecar:
    """What the folder's `pdkernel.yaml` would say: without the ids that its `workflow.yaml` holds itself."""
    base = merged_sidecar(sidecar or Sidecar(), existing)
    if existing is not None and existing.actions:
        base = replace(base, actions=existing.actions)  # a path in it starts at its own folder
    return _for_folder(sidecar_of(made.workflow, base), existing or Sidecar())


def _for_folder(sidecar: Sidecar, existing: Sidecar) -> Sidecar:
    steps = {}
    for name, said in sidecar.steps.items():
        known = existing.steps.get(name, StepSidecar()).accounts
        accounts = {
            prop: AccountChoice(choice.account, choice.app)
            for prop, choice in said.accounts.items()
            # What nobody has answered is no news to a folder that does not ask it.
            if choice.account != UNANSWERED or prop in known
        }
        steps[name] = replace(said, accounts=accounts)
    return replace(sidecar, steps=steps)


def _sidecar_files(
    document: Document, made: Patch, own: Sidecar, existing: Sidecar | None, *, docs: bool
) -> Iterator[DefinitionFile]:
    inferred = inferred_steps(made.workflow)
    if existing is None:
        if docs:
            yield DefinitionFile(FOLDER_SIDECAR, dump_sidecar(own, inferred=inferred))
        return
    path = document.folder / FOLDER_SIDECAR
    text = path.read_bytes().decode("utf-8")
    raw = read_yaml(text, expressions=False, error=NotebookError, name=str(path)).value or {}
    there = apply_sidecar(
        workflow_in(document, existing, require_code=False, unanswered="keep"), existing, unanswered="keep"
    )
    base = sidecar_mapping(_for_folder(sidecar_of(there, existing), existing), inferred=inferred_steps(there))
    new = merged(raw, base, sidecar_mapping(own, inferred=inferred))
    if not raw:
        yield DefinitionFile(FOLDER_SIDECAR, dump_sidecar(own, inferred=inferred) if new else text)
        return
    yield DefinitionFile(FOLDER_SIDECAR, patch_yaml(text, raw, new, name=str(path), psych=False))

"""
Exports a workflow into a folder that Pipedream synced: read, patch, compare or write, build the checklist.

The notebook decides name, settings and steps. Triggers, the folder's ids and unknown keys are kept. New files there are the entry
files of new steps, and `pdkernel.yaml` or `README.md` if requested.
"""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from pdkernel.errors import NotebookError, RequestError, UnsupportedError
from pdkernel.files.definition.checklist import (
    README,
    build_checklist,
    build_readme,
    check_readme_replaceable,
    list_omissions,
)
from pdkernel.files.definition.file_plan import (
    SIDECAR_SETTINGS,
    WORKFLOW_FILE,
    DefinitionFile,
    build_sidecar,
    build_step_files,
    check_no_credentials,
    find_inferred_steps,
    get_entry_path,
    get_written_uses,
    iter_step_files,
)
from pdkernel.files.definition.folder_write import ExportResult, FileChange, apply_changes, check_write_paths, diff_file
from pdkernel.files.definition.lint import lint_workflow
from pdkernel.files.definition.sidecar import (
    SIDECAR_FILE_NAME,
    UNANSWERED,
    AccountChoice,
    Sidecar,
    StepSidecar,
    apply_sidecar,
    build_sidecar_mapping,
    dump_sidecar,
    merge_sidecars,
    read_sidecar,
)
from pdkernel.files.definition.step_merge import (
    MergedStep,
    build_new_step,
    insert_key,
    match_steps,
    merge_step,
    merge_value,
)
from pdkernel.files.definition.synced_folder import assign_trigger_ids, build_workflow
from pdkernel.files.definition.workflow_document import WorkflowDocument, read_document
from pdkernel.language.directive import is_same_value, parse_yaml, patch_yaml
from pdkernel.model import JSON, ROUND_TRIP_KEY, Step, Trigger, Workflow

_ORDER = ("schema", "name", "inactive", "settings", "triggers", "steps")


@dataclass(frozen=True)
class FolderPatch:
    """
    The result of a patch.

    Attributes:
        files: `workflow.yaml`, then the entry files, unchanged ones included.
        previous_entry_paths: Entry files of the folder's steps before the patch.
        unused_entry_paths: The previous entry files that no step uses any more.
        workflow: The notebook's workflow with the folder's trigger ids and unknown keys.
        kept_accounts: Account ids of the file that the notebook does not replace, by step and prop.
    """

    files: tuple[DefinitionFile, ...]
    previous_entry_paths: tuple[str, ...]
    unused_entry_paths: tuple[str, ...]
    workflow: Workflow
    kept_accounts: Mapping[tuple[str, str], str] = field(default_factory=dict)


def build_folder_patch(
    workflow: Workflow, document: WorkflowDocument, *, sidecar: Sidecar | None = None
) -> FolderPatch:
    """
    Return the files of the synced folder of *document*, changed to match *workflow*.

    Args:
        workflow: The notebook's workflow.
        document: The folder's `workflow.yaml`.
        sidecar: The `pdkernel.yaml` beside the notebook.

    Raises:
        DefinitionError: A prop or code contains a new credential, or the folder cannot be read.
        UnsupportedError: The folder belongs to another workflow, or a changed value has a YAML anchor.
    """
    folder_workflow = build_workflow(document, require_code=False, assumed_account="own")
    check_no_credentials(workflow, existing=folder_workflow)
    _check_same(workflow, folder_workflow, document)
    step_sidecars = sidecar.steps if sidecar is not None else {}
    complete = "schema" in workflow.extra
    places = _places(folder_workflow, document.data)
    pairs = match_steps(workflow.steps, folder_workflow.steps)
    steps: dict[str, MergedStep] = {}
    for step in workflow.steps:
        known = pairs.get(step.name)
        if known is None:
            steps[step.name] = build_new_step(step, step_sidecars.get(step.name))
        else:
            raw = _raw_steps(document.data)[places[known.name]]
            steps[step.name] = merge_step(
                step, known, raw, step_sidecar=step_sidecars.get(step.name), is_complete=complete
            )
    alignment = _alignment(workflow, pairs, places, len(_raw_steps(document.data)))
    new = _with_steps(_with_head(document.data, workflow, folder_workflow, complete=complete), steps, alignment)
    name = str(document.folder / WORKFLOW_FILE)
    sources = tuple(source for source, _ in alignment)
    text = patch_yaml(document.text, document.data, new, name=name, alignments={("steps",): sources})
    ready = replace(workflow, steps=tuple(step.step for step in steps.values()))
    files = (DefinitionFile(WORKFLOW_FILE, document.byte_order_mark + text), *build_step_files(ready))
    used = {file.path for file in files} | {_path_of(step) for step in ready.steps if not step.uses}
    before = tuple(dict.fromkeys(path for step in folder_workflow.steps for path, _ in iter_step_files(step)))
    return FolderPatch(
        files,
        before,
        tuple(path for path in before if path not in used),
        _merge_folder_facts(workflow, folder_workflow, document.data),
        {(name, prop): account for name, step in steps.items() for prop, account in step.kept_accounts.items()},
    )


def get_workflow_id(workflow: Workflow) -> str | None:
    """Return the id (`p_...`) of the synced workflow that *workflow* was read from, or None."""
    known = workflow.extra.get(ROUND_TRIP_KEY)
    found = known.get("id") if isinstance(known, dict) else None
    return found if isinstance(found, str) else None


def _check_same(workflow: Workflow, folder_workflow: Workflow, document: WorkflowDocument) -> None:
    if workflow.name == folder_workflow.name or (
        get_workflow_id(workflow) is not None and get_workflow_id(workflow) == document.id
    ):
        return
    ids = [{trigger.config.get("id") for trigger in each.triggers} - {None} for each in (workflow, folder_workflow)]
    if ids[0] & ids[1]:
        return
    raise UnsupportedError(
        f"{document.folder} belongs to another workflow: it is called {folder_workflow.name!r}, and this one {workflow.name!r}.",
        fix=f"Name the folder of {workflow.name!r}, or write `name: {folder_workflow.name}` into the %%pdworkflow cell.",
    )


def _raw_steps(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    return cast("list[dict[str, Any]]", data.get("steps") or [])


def _places(folder_workflow: Workflow, data: Mapping[str, Any]) -> dict[str, int]:
    """Return the index of every step in the file's `steps`, which also holds unsupported entries."""
    found: dict[str, int] = {}
    waiting = list(folder_workflow.steps)
    for index, raw in enumerate(_raw_steps(data)):
        if waiting and raw.get("namespace") == waiting[0].name and raw.get("uses") == get_written_uses(waiting[0]):
            found[waiting.pop(0).name] = index
    return found


def _path_of(step: Step) -> str:
    return posixpath.normpath(get_entry_path(step))


def _alignment(
    workflow: Workflow, pairs: Mapping[str, Step], places: Mapping[str, int], count: int
) -> list[tuple[int | None, str | None]]:
    """For each new entry of `steps`: the old index and the step's name; unsupported entries have no name."""
    sources = {step.name: places[pairs[step.name].name] if step.name in pairs else None for step in workflow.steps}
    surviving = {source for source in sources.values() if source is not None}
    below: dict[int, list[int]] = {}
    last = -1
    for index in range(count):
        if index in places.values():
            last = index if index in surviving else last
        else:
            below.setdefault(last, []).append(index)
    result: list[tuple[int | None, str | None]] = [(index, None) for index in below.get(-1, [])]
    for name, source in sources.items():
        result.append((source, name))
        result += [(index, None) for index in below.get(-1 if source is None else source, []) if source is not None]
    return result


def _with_steps(
    data: dict[str, Any],
    steps: Mapping[str, MergedStep],
    alignment: Sequence[tuple[int | None, str | None]],
) -> dict[str, Any]:
    entries = [
        steps[name].entry if name is not None else _raw_steps(data)[cast("int", source)] for source, name in alignment
    ]
    if not entries:
        # The platform writes no `steps` key for a workflow without steps.
        return {key: value for key, value in data.items() if key != "steps" or not value}
    return _with(data, "steps", entries)


def _with_head(
    data: Mapping[str, Any], workflow: Workflow, folder_workflow: Workflow, *, complete: bool
) -> dict[str, Any]:
    """Return *data* with the notebook's name and settings."""
    result = dict(data)
    if workflow.name != folder_workflow.name:
        result = _with(result, "name", workflow.name)
    # Settings that were never observed in Git are written only if the file has them.
    own_settings = {
        key: value
        for key, value in workflow.settings.items()
        if key not in SIDECAR_SETTINGS or key in folder_workflow.settings
    }
    settings = merge_value(
        dict(folder_workflow.settings),
        dict(folder_workflow.settings),
        own_settings if complete else {**folder_workflow.settings, **own_settings},
    )
    return result if is_same_value(settings, dict(folder_workflow.settings)) else _with(result, "settings", settings)


def _with(data: dict[str, Any], key: str, value: JSON) -> dict[str, Any]:
    if key in data:
        return {**data, key: value}
    above = [known for known in _ORDER[: _ORDER.index(key)] if known in data]
    return insert_key(data, key, value, above=above[-1] if above else None)


def _merge_folder_facts(workflow: Workflow, folder_workflow: Workflow, data: Mapping[str, Any]) -> Workflow:
    """Return *workflow* with the ids of the folder's triggers, and without the limits that the file stores."""
    ids = [str(trigger.config["id"]) for trigger in folder_workflow.triggers]
    says_nothing = workflow.triggers == (Trigger(),)
    triggers = folder_workflow.triggers if says_nothing else assign_trigger_ids(workflow.triggers, ids)
    written = data.get("settings") or {}
    return replace(
        workflow,
        triggers=tuple(triggers),
        settings={
            key: value for key, value in workflow.settings.items() if key not in SIDECAR_SETTINGS or key not in written
        },
        extra=folder_workflow.extra,
    )


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
        include_readme: Write `pdkernel.yaml` and `README.md` even if the folder has none. A workflow with blocks has the first in
            any case.
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
        *([] if existing is not None or include_readme or own.control_flow else list_omissions(own)),
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
    """Return the content for the folder's `pdkernel.yaml`, without the ids that its `workflow.yaml` holds."""
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
        if docs or own.control_flow:  # without it, all branches run
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

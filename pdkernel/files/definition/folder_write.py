"""
Exports a workflow to a folder: plans the files, compares or writes them (all or none), and builds the checklist.

An export overwrites only files that an export of the same workflow wrote. Values that only the folder's `pdkernel.yaml` holds
(endpoint, test users) survive it. Each rename may fail, so the earlier files are kept as backups until all renames are done, and
restored if one fails. A process that is killed between two renames leaves a list of them, by which the next write into the folder
completes them, and says so.
"""

from __future__ import annotations

import difflib
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from msgspec import field
from msgspec.structs import replace

from pdkernel.common.encode import JsonStruct
from pdkernel.errors import NotebookError, RequestError, UnsupportedError
from pdkernel.files.definition.checklist import README, build_checklist, build_readme, check_readme_replaceable
from pdkernel.files.definition.file_plan import STATE_FILE, WORKFLOW_FILE, DefinitionFile, plan_files
from pdkernel.files.definition.lint import Finding, lint_workflow
from pdkernel.files.definition.sidecar import SIDECAR_FILE_NAME, Sidecar, merge_sidecars, read_sidecar
from pdkernel.language.directive import parse_yaml
from pdkernel.model import Workflow

PENDING_FILE = ".pdkernel-export.json"
"""The list of renames, [new file, target] relative to the folder, while they take place."""
_NEW_MODE = 0o644


def check_write_paths(paths: Iterable[str], folder: Path) -> None:
    """
    Refuse paths that are links or that leave the folder.

    Args:
        paths: Relative to the folder, with slashes.
        folder: The folder; it does not have to exist yet.

    Raises:
        RequestError: The folder is a file; or a path is a link, a folder, or leads out of the folder.
    """
    if folder.exists() and not folder.is_dir():
        raise RequestError(f"{folder} is a file, and an export needs a folder.")
    root = folder.resolve()
    for path in paths:
        target = folder / path
        if target.is_symlink() or not target.resolve().is_relative_to(root):
            raise RequestError(
                f"{target} is a link or leads out of {folder}, and an export writes inside its folder only.",
                fix="Remove the link, or export to another folder.",
            )
        if target.is_dir():
            raise RequestError(f"{target} is a folder, and the export writes a file there.")


def complete_write(folder: Path) -> bool:
    """
    Complete a write that a kill has interrupted; return whether there was one.

    The list may come from another person, as the folder does, so it renames files of the folder only.

    Raises:
        RequestError: A rename fails, or the list leads out of the folder.
    """
    pending = folder / PENDING_FILE
    if pending.is_symlink() or not pending.is_file():
        return False
    try:
        renames = [(str(aside), str(target)) for aside, target in json.loads(pending.read_bytes())]
        check_write_paths([path for pair in renames for path in pair], folder)
        for aside, target in renames:
            if (folder / aside).is_file():
                (folder / aside).replace(folder / target)
        pending.unlink()
    except (OSError, ValueError, TypeError) as error:
        raise RequestError(
            f"An export into {folder} was interrupted, and cannot be completed: {error}. Some files may be those of that export.",
            fix=f"Restore the folder with Git, or from a copy, and remove {pending}.",
        ) from None
    return True


def write_files_atomically(files: Mapping[str, bytes], folder: Path) -> None:
    """
    Write *files* (content by path relative to *folder*): all of them, or none.

    Raises:
        RequestError: A file could not be written, and the folder is unchanged; or an interrupted write was completed instead.
    """
    if complete_write(folder):  # the caller has read the folder before
        raise RequestError(
            f"An earlier export into {folder} was killed between two files. It is complete now; nothing else was written.",
            fix="Look at the folder, and run the command again.",
        )
    placing = _AtomicWrite(folder)
    try:
        for path, content in files.items():
            placing.write_temporary(path, content)
        placing.rename()
    except OSError as error:
        placing.undo()
        raise RequestError(f"{folder} cannot be written: {error.strerror or error}. It is unchanged.") from None
    except BaseException:  # an interrupt between two renames
        placing.undo()
        raise
    placing.clean()


class _AtomicWrite:
    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()  # as the paths of `tempfile` are
        self._made: list[Path] = []
        self._temporaries: list[tuple[Path, Path]] = []
        self._backups: dict[Path, Path | None] = {}
        self._pending: Path | None = None

    def write_temporary(self, path: str, content: bytes) -> None:
        target = self._folder / path
        self._make_folders(target.parent)
        aside = self._make_temporary(target)
        self._temporaries.append((aside, target))
        aside.write_bytes(content)
        if target.exists():
            shutil.copymode(target, aside)
            self._backups[target] = self._make_temporary(target)
            shutil.copy2(target, self._backups[target] or "")
        else:
            aside.chmod(_NEW_MODE)
            self._backups[target] = None

    def rename(self) -> None:
        if len(self._temporaries) > 1:
            renames = [[str(path.relative_to(self._folder)) for path in pair] for pair in self._temporaries]
            self._pending = self._make_temporary(self._folder / PENDING_FILE)
            self._pending.write_text(json.dumps(renames))
            self._pending = self._pending.replace(self._folder / PENDING_FILE)
        for aside, target in self._temporaries:
            aside.replace(target)

    def undo(self) -> None:
        """Restore the earlier files. Errors are suppressed, so that the original error is the one raised."""
        for aside, target in self._temporaries:
            with suppress(OSError):
                if aside.exists():
                    continue  # not renamed yet
                before = self._backups.get(target)
                if before is None:
                    target.unlink(missing_ok=True)
                else:
                    before.replace(target)
        self.clean()
        for folder in reversed(self._made):
            with suppress(OSError):
                folder.rmdir()

    def clean(self) -> None:
        for path in (self._pending, *(aside for aside, _ in self._temporaries), *self._backups.values()):
            if path is not None:
                with suppress(OSError):
                    path.unlink(missing_ok=True)

    def _make_folders(self, folder: Path) -> None:
        missing = [each for each in (folder, *folder.parents) if not each.exists()]
        for each in reversed(missing):
            each.mkdir()
            self._made.append(each)

    @staticmethod
    def _make_temporary(target: Path) -> Path:
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        os.close(descriptor)
        return Path(name)


FileState = Literal["new", "changed", "unchanged", "left alone"]


class FileChange(JsonStruct, frozen=True):
    """
    A file of an export.

    Attributes:
        path: Path relative to the folder, with forward slashes.
        state: State of the file. `left alone` is a file that pdkernel did not write and did not change.
        diff: Unified diff against the previous file, or the empty string.
    """

    path: str
    state: FileState
    diff: str = ""


class ExportResult(JsonStruct, frozen=True, kw_only=True):
    """
    The result of an export or of a comparison.

    Attributes:
        folder: The target folder.
        is_written: False for a comparison.
        files: The definition's files in their order, then the files that were left alone.
        checklist: Manual steps, as sentences.
        findings: Findings of the lint.
        serve_command: The command that serves the written folder, or None if it cannot be served as it is.
        serve_notes: What to do before the folder is served, as sentences.
    """

    folder: Path
    is_written: bool = field(default=False, name="written")
    files: tuple[FileChange, ...]
    checklist: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    serve_command: str | None = field(default=None, name="serve")
    serve_notes: tuple[str, ...] = ()

    def paths(self, *states: FileState) -> tuple[str, ...]:
        """Return the paths of the files in any of *states*."""
        return tuple(file.path for file in self.files if file.state in states)


def compare_files(files: Sequence[DefinitionFile], folder: Path, *, checklist: Sequence[str] = ()) -> ExportResult:
    """
    Compare *files* with *folder*, without writing.

    Raises:
        RequestError: The files may not be written; the message gives the reason.
        UnsupportedError: The folder holds another workflow, or one that Pipedream synced.
        NotebookError: The folder's `workflow.yaml` is not YAML.
    """
    try:
        _check_folder(files, folder)
        changes = [diff_file(file, folder) for file in files]
        _check_foreign_files(changes, folder)
        left = [FileChange(path, "left alone") for path in _list_other_files(files, folder)]
    except OSError as error:
        raise RequestError(f"{folder} cannot be read: {error.strerror or error}.") from None
    return ExportResult(folder=folder, files=(*changes, *left), checklist=tuple(checklist))


def write_files(files: Sequence[DefinitionFile], folder: Path, *, checklist: Sequence[str] = ()) -> ExportResult:
    """
    Write *files* to *folder*, all of them or none.

    Raises:
        RequestError: As for `compare_files`, or the folder cannot be written.
        UnsupportedError: As for `compare_files`.
        NotebookError: As for `compare_files`.
    """
    return apply_changes(compare_files(files, folder, checklist=checklist), files)


def apply_changes(result: ExportResult, files: Sequence[DefinitionFile]) -> ExportResult:
    """
    Write those of *files* that *result* (of `compare_files`) lists as new or changed.

    Raises:
        RequestError: The folder cannot be written; it is unchanged.
    """
    due = set(result.paths("new", "changed"))
    write_definition_files([file for file in files if file.path in due], result.folder)
    return replace(result, is_written=True)


def write_definition_files(files: Sequence[DefinitionFile], folder: Path) -> None:
    """
    Write *files* to *folder*, all of them or none.

    Raises:
        RequestError: The folder cannot be written; it is unchanged.
    """
    write_files_atomically({file.path: _encode_text(file.text) for file in files}, folder)


def _encode_text(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _check_folder(files: Sequence[DefinitionFile], folder: Path) -> None:
    check_write_paths((file.path for file in files), folder)
    if (folder / STATE_FILE).exists():
        raise UnsupportedError(
            f"{folder} is a folder that Pipedream synced (it has {STATE_FILE}); --to writes new folders only.",
            fix="Patch it with --into FOLDER, or export to another folder.",
        )
    _check_same_workflow(files, folder)


def _check_same_workflow(files: Sequence[DefinitionFile], folder: Path) -> None:
    path = folder / WORKFLOW_FILE
    if not path.exists():
        return
    if not (folder / SIDECAR_FILE_NAME).exists():
        raise UnsupportedError(
            f"{path} was not written by an export: there is no {SIDECAR_FILE_NAME} beside it.",
            fix="Patch it with --into FOLDER, or export to another folder.",
        )
    name = next((_name_in(file.text, path) for file in files if file.path == WORKFLOW_FILE), None)
    existing_name = _name_in(path.read_text(encoding="utf-8", errors="replace"), path)
    if existing_name != name:
        raise UnsupportedError(
            f"{path} belongs to another workflow: it is called {existing_name!r}, and this one {name!r}.",
            fix="Export to another folder. If you have renamed the workflow, remove the old folder first.",
        )


def _name_in(text: str, path: Path) -> object:
    value = parse_yaml(
        text, allow_expressions=False, error_class=NotebookError, document_name=str(path), as_psych=True
    ).value
    return value.get("name") if isinstance(value, dict) else None


def _check_foreign_files(changes: Sequence[FileChange], folder: Path) -> None:
    """Refuse to change any file in a folder that has no `workflow.yaml`: no export wrote it."""
    if (folder / WORKFLOW_FILE).exists():
        return
    for change in changes:
        if change.state == "changed":
            raise RequestError(
                f"{folder / change.path} exists and was not written by an export: it would be overwritten.",
                fix="Export to an empty folder.",
            )


def diff_file(file: DefinitionFile, folder: Path) -> FileChange:
    """Return the change that writing *file* to *folder* makes."""
    try:
        before: bytes | None = (folder / file.path).read_bytes()
    except FileNotFoundError:
        before = None
    if before == _encode_text(file.text):
        return FileChange(file.path, "unchanged")
    diff = _diff(file, "" if before is None else before.decode("utf-8", "replace"), is_new=before is None)
    return FileChange(file.path, "new" if before is None else "changed", diff)


def _diff(file: DefinitionFile, before: str, *, is_new: bool) -> str:
    lines = difflib.unified_diff(
        before.splitlines(keepends=True),
        file.text.splitlines(keepends=True),
        "/dev/null" if is_new else f"a/{file.path}",
        f"b/{file.path}",
    )
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def _list_other_files(files: Sequence[DefinitionFile], folder: Path) -> Iterator[str]:
    """Other files in the folder and in the steps' folders, one level deep."""
    planned = {file.path for file in files}
    parents = {path.rpartition("/")[0] for path in planned} | {""}
    for parent in sorted(parents):
        place = folder / parent
        if not place.is_dir():
            continue
        for entry in sorted(place.iterdir()):
            path = f"{parent}/{entry.name}" if parent else entry.name
            if entry.name != ".git" and path not in planned and path not in parents:
                yield f"{path}/" if entry.is_dir() else path


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

"""
Imports Pipedream's archive of a project: each workflow becomes a notebook, and each line of the manifest is accounted for.

The whole archive is checked before anything is written. The notebooks of a new folder are written beside it and appear together; in a
folder with files, each notebook follows the rules of `folder_import`. `explain_archive` has the shapes of what was not understood.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pdkernel.common.encode import JsonStruct
from pdkernel.errors import NotebookError, PdkernelError, RequestError
from pdkernel.files.definition.api_workflow import STEP_KEYS, UNREAD_KEY, is_step_json, read_json_text
from pdkernel.files.definition.archive import MANIFEST_SCHEMA, Archive, Manifest, ManifestEntry
from pdkernel.model import JSON, ROUND_TRIP_KEY, Workflow
from pdkernel.operations.importer.folder_import import (
    NOTEBOOK_SUFFIX,
    ImportOptions,
    ImportResult,
    import_workflow,
)
from pdkernel.operations.importer.notebook_texts import build_archive_source

_PLAIN_KEY = re.compile(r"[A-Za-z_$][\w$-]*\Z")
_OTHER_KEY = re.compile(r'\["(?:[^"\\]|\\.)*"\]')
_INDEX = re.compile(r"\[\d+\]")
_MAX_KEY = 40
"""Longer keys, and keys with other characters than those of a name, are not shown: they may be a user's data."""


_TYPE_NAMES: Mapping[type, str] = {
    dict: "object",
    list: "list",
    str: "text",
    bool: "boolean",
    int: "number",
    float: "number",
    type(None): "null",
}


class ManifestLine(JsonStruct, frozen=True):
    """
    What became of one workflow of the manifest.

    Attributes:
        name: The workflow's name.
        status: The status in the manifest.
        result: What became of it, and what to do, as the rest of a sentence that begins with its name.
        notebook: The notebook, or None.
        warnings: The manifest's warnings.
        lost: Whether the workflow has no notebook although the manifest has it as exported.
    """

    name: str
    status: str
    result: str
    notebook: Path | None = None
    warnings: tuple[str, ...] = ()
    lost: bool = False


class ArchiveResult(JsonStruct, frozen=True):
    """
    The result of an import of an archive.

    Attributes:
        archive: The archive's path.
        workflows: The result for each file.
        lines: The account of the manifest, line by line; empty without a manifest.
        notes: Sentences about the archive as a whole.
    """

    archive: Path
    workflows: tuple[ImportResult, ...]
    lines: tuple[ManifestLine, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def exit_status(self) -> int:
        """The highest status of the workflows' errors, or 2 if a workflow of the manifest is lost; else 0."""
        statuses = [one.error.exit_status for one in self.workflows if one.error is not None]
        return max([*statuses, *(2 for line in self.lines if line.lost)], default=0)

    def json_form(self) -> object:
        """Return `{"archive", "workflows", "lines", "notes"}`."""
        workflows = [one.json_form() for one in self.workflows]
        return {"archive": self.archive, "workflows": workflows, "lines": self.lines, "notes": self.notes}


def import_archive(
    path: Path,
    target: Path,
    options: ImportOptions,
    *,
    ignored: Sequence[str] = (),
    on_progress: Callable[[int, int, str], None] = lambda *_: None,
) -> ArchiveResult:
    """
    Import each workflow of the archive at *path* into the folder *target*, or its only workflow as the notebook *target*.

    A workflow's error is part of the result. Without *target*, the folder appears when every workflow has been read.

    Args:
        path: The archive.
        target: A folder, or a notebook for an archive with one workflow.
        options: How the workflows are imported.
        ignored: As for `read_workflow_json`.
        on_progress: Called before each workflow with its number, their number, and the name of its file.

    Raises:
        ArchiveError: The archive cannot be read; nothing was written.
        RequestError: *target* is one notebook for several workflows, or the folder cannot be written.
    """
    with Archive.open(path) as archive:
        archive.check()
        is_notebook = target.suffix == NOTEBOOK_SUFFIX
        if is_notebook and len(archive.files) > 1:
            raise RequestError(
                f"{path} holds {len(archive.files)} workflows, and {target} is one notebook.",
                fix="Give --to a folder's name.",
            )
        run = _ArchiveRun(archive, target, options, ignored, on_progress)
        try:
            results = run.import_all() if is_notebook or _has_content(target) else run.import_together()
        except OSError as error:
            raise RequestError(
                f"{target} cannot be written: {error.strerror or error}.", fix="Import into a writable folder."
            ) from None
        return ArchiveResult(
            path,
            tuple(results.values()),
            tuple(_account_for(archive.manifest, results)),
            tuple(_describe_archive(archive.manifest, results)),
        )


def _has_content(target: Path) -> bool:
    """Return whether *target* is something else than a missing or empty folder."""
    return target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir())))


@dataclass
class _ArchiveRun:
    """One import of an archive."""

    archive: Archive
    target: Path
    options: ImportOptions
    ignored: Sequence[str]
    on_progress: Callable[[int, int, str], None]
    _taken: dict[str, str] = field(default_factory=dict)

    def import_together(self) -> dict[str, ImportResult]:
        """Import all workflows into a folder beside the target, which gets the target's name at the end."""
        self.target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{self.target.name}.import-", dir=self.target.parent) as place:
            content = Path(place) / "content"
            content.mkdir()  # with the mode of other folders
            results = self.import_all(content)
            if any(one.error is None for one in results.values()):
                content.rename(self.target)  # an empty folder is replaced
        return results

    def import_all(self, staging: Path | None = None) -> dict[str, ImportResult]:
        """Import each workflow below *staging*, else at its place. Return the results by file."""
        results: dict[str, ImportResult] = {}
        for number, file in enumerate(self.archive.files, start=1):
            self.on_progress(number, len(self.archive.files), file)
            results[file] = self._import(file, staging)
        return results

    def _import(self, file: str, staging: Path | None) -> ImportResult:
        source = self.archive.path / file
        notebook = self.target if self.target.suffix == NOTEBOOK_SUFFIX else self.target / f"{file}{NOTEBOOK_SUFFIX}"
        try:
            archived = self.archive.read_workflow(file, ignored=self.ignored)
            name = Path(f"{archived.name}{NOTEBOOK_SUFFIX}")
            if self.target.suffix != NOTEBOOK_SUFFIX:
                notebook = self.target / name
                self._check_place(notebook, file, is_new=staging is not None)
        except PdkernelError as error:
            return ImportResult(source, notebook, error=error)
        return import_workflow(
            source,
            notebook,
            lambda earlier: build_archive_source(archived, self.archive.path, earlier_sidecar=earlier),
            options=self.options,
            staged=None if staging is None else staging / name,
        )

    def _check_place(self, notebook: Path, file: str, *, is_new: bool) -> None:
        """Check that no other workflow has the name of *notebook*, and that its folder is not a link out of the target."""
        other = self._taken.setdefault(str(notebook).casefold(), file)
        if other != file:
            raise NotebookError(
                f"{file} and {other} would both be {notebook}.", fix="Take one of them out of the archive."
            )
        if not is_new and not notebook.parent.resolve().is_relative_to(self.target.resolve()):
            raise RequestError(
                f"{notebook.parent} is a link that leads out of {self.target}.", fix="Choose another folder."
            )


def _account_for(manifest: Manifest | None, results: Mapping[str, ImportResult]) -> Iterator[ManifestLine]:
    """Yield what became of each workflow of the manifest, and of each file that it does not list."""
    if manifest is None:
        return
    for entry in manifest.entries:
        result = results.get(entry.file or "")
        yield ManifestLine(
            entry.name,
            entry.status,
            _describe_entry(entry, result),
            result.notebook if result is not None and result.error is None else None,
            entry.warnings,
            lost=entry.status == "exported" and result is None,
        )
    for file in manifest.unlisted:
        done = results[file]
        what = f"imported as {done.notebook}" if done.error is None else f"not imported: {done.error.message}"
        yield ManifestLine(file, "", f"is not in the manifest; {what}", done.notebook if done.error is None else None)


def _describe_entry(entry: ManifestEntry, result: ImportResult | None) -> str:
    if result is None:
        return entry.absence
    what = f"imported as {result.notebook}" if result.error is None else f"not imported: {result.error.message}"
    return what if entry.status == "exported" else f"has the status {entry.status!r}, but is in the archive; {what}"


def _describe_archive(manifest: Manifest | None, results: Mapping[str, ImportResult]) -> Iterator[str]:
    """Yield the sentences about the archive as a whole."""
    if manifest is None:
        yield (
            "The archive has no manifest.json, so missing workflows are not noticed. Compare the notebooks with the "
            "project at Pipedream."
        )
        return
    if manifest.schema != MANIFEST_SCHEMA:
        yield f"The manifest has the schema {manifest.schema!r}, and this version knows {MANIFEST_SCHEMA!r}: check the result."
    if manifest.is_truncated:
        reason = manifest.truncated_reason or "no reason is given"
        yield f"The export is truncated ({reason}): workflows of the project are missing. Move them to another project, and export that."
    if not manifest.entries and results:
        yield "The manifest lists no workflow in a form that this version reads. Compare the notebooks with the project at Pipedream."
    for warning in manifest.warnings:
        yield f"Pipedream's manifest: {warning}"


class UnknownShape(JsonStruct, frozen=True):
    """
    The shape of a part of the archive that was not understood, without values.

    Attributes:
        path: Its JSON path without indexes, `$.steps[].branches`.
        parts: How many such parts there are.
        workflows: In how many workflows, 0 for the manifest.
        fields: The types of the values in it, by their paths.
    """

    path: str
    parts: int
    workflows: int
    fields: Mapping[str, str]


def explain_archive(path: Path, *, ignored: Sequence[str] = ()) -> tuple[UnknownShape, ...]:
    """
    Return the keys and types of what is not understood in the archive at *path*, equal shapes once, and those of its manifest.

    There are no values in it, and no names of files. Keys that do not look like names of fields are `<key>`.

    Raises:
        ArchiveError: The archive cannot be read.
    """
    shapes: dict[tuple[str, tuple[tuple[str, str], ...]], list[int]] = {}
    with Archive.open(path) as archive:
        if archive.manifest is not None:
            shapes["manifest.json", tuple(_build_shape(archive.manifest.data).items())] = []
        for number, file in enumerate(archive.files):
            try:
                workflow = archive.read_workflow(file, ignored=ignored).workflow
            except NotebookError:
                content = _read_anyway(archive, file)
                shapes.setdefault(("$", tuple(_build_shape(content).items())), []).append(number)
                continue
            for place, value in _iter_unknown(workflow):
                shapes.setdefault((place, tuple(_build_shape(value).items())), []).append(number)
    return tuple(
        UnknownShape(place, max(len(numbers), 1), len(set(numbers)), dict(fields))
        for (place, fields), numbers in shapes.items()
    )


def _read_anyway(archive: Archive, file: str) -> JSON:
    try:
        return archive.read_json(file)
    except NotebookError:
        return None


def _iter_unknown(workflow: Workflow) -> Iterator[tuple[str, object]]:
    """Yield path and value of what was not read of a workflow."""
    for entry in workflow.unsupported_entries:
        kept = entry.entry
        yield _strip_indexes(entry.path or ""), kept["value"] if list(kept) == ["value"] else kept
    for place, value in _get_unread(workflow.extra):
        yield _strip_indexes(place), value
    for step in workflow.steps:
        for key, value in _get_unread(step.extra):
            yield f"$.steps[].{_show_key(key)}", value


def _get_unread(extra: Mapping[str, JSON]) -> Sequence[tuple[str, JSON]]:
    kept = extra.get(ROUND_TRIP_KEY)
    unread = kept.get(UNREAD_KEY) if isinstance(kept, dict) else None
    return tuple(unread.items()) if isinstance(unread, dict) else ()


def _build_shape(value: object) -> dict[str, str]:
    """Return the types in *value* by path, in the order in which they come; items of a list have one path, and steps no documented keys."""
    types: dict[str, dict[str, None]] = {}
    waiting: list[tuple[str, object]] = [("", value)]
    while waiting:
        path, item = waiting.pop()
        if isinstance(item, dict) and is_step_json(item):
            types.setdefault(path or "(itself)", {})["step"] = None
            item = {key: each for key, each in item.items() if key not in STEP_KEYS}
            waiting += [(f"{path}.{_show_key(key)}", each) for key, each in reversed(item.items())]
            continue
        inner = read_json_text(item) if isinstance(item, str) and item[:1] in ("{", "[") else None
        name = _TYPE_NAMES[type(item)] if inner is None else "text of JSON"
        types.setdefault(path or "(itself)", {})[name] = None
        found = item if inner is None else inner
        if isinstance(found, dict):
            waiting += [(f"{path}.{_show_key(key)}", each) for key, each in reversed(found.items())]
        elif isinstance(found, list):
            waiting += [(f"{path}[]", each) for each in reversed(found)]
    return {path: " or ".join(sorted(names)) for path, names in types.items()}


def _show_key(key: str) -> str:
    return key if len(key) <= _MAX_KEY and _PLAIN_KEY.match(key) else "<key>"


def _strip_indexes(path: str) -> str:
    """Return a JSON path without its indexes and without keys that may be a user's data."""
    plain = _OTHER_KEY.sub(".<key>", _INDEX.sub("[]", path))
    return ".".join(part if len(part) <= _MAX_KEY else "<key>" for part in plain.split("."))

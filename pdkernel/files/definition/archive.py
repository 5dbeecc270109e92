"""
Reads the official archive of a project, `project_export-....zip`: one JSON file a workflow, and `manifest.json`.

An archive is untrusted. Its directory, the number of its entries, each entry and their sum have limits, entries are unpacked one after
the other, and no entry's name becomes a path before it was checked. Nothing is extracted to disk.
"""

from __future__ import annotations

import io
import json
import math
import re
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any, Self, cast

from pdkernel.errors import ArchiveError, NotebookError
from pdkernel.files.definition.api_workflow import build_secret, read_workflow_json
from pdkernel.model import JSON, ROUND_TRIP_KEY, Workflow

MANIFEST = "manifest.json"
MANIFEST_SCHEMA = "project-export/2026.01"
MAX_WORKFLOWS = 500
"""The documented number of workflows in an archive."""
MAX_ARCHIVE_BYTES = 256 * 1024 * 1024
"""The documented size of an archive; also the limit for all of its unpacked files."""
MAX_FILE_BYTES = 16 * 1024 * 1024
_MAX_ENTRIES = 10_000
_MAX_DIRECTORY_BYTES = 8 * 1024 * 1024
_CHUNK = 1 << 20
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_DAMAGE = (
    zipfile.BadZipFile,
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    NotImplementedError,
    OverflowError,
    zlib.error,
)
"""What `zipfile` raises for a damaged archive."""
_IGNORED = ("__MACOSX/", ".DS_Store")
"""What file managers add to an archive that they pack again."""
_ENCRYPTED, _UTF8 = 0x1, 0x800
_MAX_NAME_BYTES = 200
"""Size limit of one part of an entry's name; a notebook's `pdkernel.yaml` has a longer name."""
_SECRET_WARNING = re.compile(r"step (\w{1,200}): secret prop ([^\n]{1,200}?) was omitted")
_WORD = re.compile(r"p_[A-Za-z0-9]{4,}")
_WORKFLOW_ID = re.compile(r"p_[A-Za-z0-9]{4,}\Z")

ABSENCES: Mapping[str, str] = {
    "exported": "exported, says the manifest, but its file is not in the archive. Export the project again",
    "skipped_never_deployed": "skipped: it was never deployed. Deploy it at Pipedream and export again, if you need it",
    "skipped_export_limit": "skipped: the export reached its limit. Move it to another project at Pipedream, and export that",
}
"""What each documented status of the manifest says about a workflow without a file, and what to do."""


@dataclass(frozen=True, slots=True)
class ManifestEntry:
    """
    A workflow of the manifest.

    Attributes:
        name: The workflow's name, else its id or the number of the entry.
        id: The platform's id, or None.
        status: The status as it was read; empty if there is none.
        warnings: Warnings about the workflow.
        file: The name of the workflow's file in the archive, or None if it is not there.
    """

    name: str
    id: str | None
    status: str
    warnings: tuple[str, ...] = ()
    file: str | None = None

    @property
    def absence(self) -> str:
        """Why the workflow's file is not in the archive, and what to do, as the rest of a sentence that begins with its name."""
        return ABSENCES.get(self.status, f"has the unknown status {self.status!r}")


@dataclass(frozen=True, slots=True)
class Manifest:
    """
    The content of `manifest.json`.

    Attributes:
        schema: The version of the format.
        entries: Every workflow of the project.
        is_truncated: Whether the export left workflows out because of a limit.
        truncated_reason: Why, or None.
        warnings: Warnings that name no workflow.
        unlisted: Names of workflow files that the manifest does not list.
        data: The file's JSON.
    """

    schema: str
    entries: tuple[ManifestEntry, ...]
    is_truncated: bool
    truncated_reason: str | None
    warnings: tuple[str, ...]
    unlisted: tuple[str, ...]
    data: Mapping[str, JSON]


@dataclass(frozen=True, slots=True)
class ArchivedWorkflow:
    """
    A workflow of the archive.

    Attributes:
        file: The name of its file in the archive.
        name: The path of a notebook for it, without suffix: its folders, and its name with the platform's id.
        workflow: The workflow.
        warnings: The manifest's warnings about it.
    """

    file: str
    name: PurePosixPath
    workflow: Workflow
    warnings: tuple[str, ...] = ()


class Archive:
    """
    An archive that is open for reading; a context manager.

    Attributes:
        path: The archive's path.
        files: The names of the workflows' files, in order.
        manifest: The manifest, or None if there is none.
    """

    def __init__(self, path: Path, packed: zipfile.ZipFile, stream: IO[bytes]) -> None:
        self.path = path
        self._packed = packed
        self._stream = stream
        self._infos = dict(_check_entries(path, packed.infolist()))
        self.files = tuple(name for name in self._infos if name != MANIFEST)
        if len(self.files) > MAX_WORKFLOWS:
            raise _refuse(path, f"it has {len(self.files)} files, and an export has at most {MAX_WORKFLOWS} workflows")
        if not self.files and MANIFEST not in self._infos:
            raise _refuse(path, "it has no workflow: no JSON file is in it")
        self.manifest = self._read_manifest()

    @classmethod
    def open(cls, path: Path) -> Self:
        """
        Open the archive at *path*.

        Raises:
            ArchiveError: It is not an archive that may be read.
        """
        try:
            found = path.stat()
            if not stat.S_ISREG(found.st_mode):
                raise ArchiveError(f"{path} is not a file.", fix="Name the downloaded ZIP.")
            if found.st_size > MAX_ARCHIVE_BYTES:
                raise _refuse(path, f"it has {found.st_size} bytes, and an export has at most {MAX_ARCHIVE_BYTES}")
            stream = cast("IO[bytes]", _BoundedFile(path))
        except OSError as fault:
            raise ArchiveError(
                f"{path} cannot be read: {fault.strerror or fault}.", fix="Name the downloaded ZIP."
            ) from None
        try:
            return cls(path, zipfile.ZipFile(stream), stream)
        except BaseException as fault:
            stream.close()
            if isinstance(fault, _TooLargeError):
                raise _refuse(path, f"its directory has more than {_MAX_DIRECTORY_BYTES} bytes") from None
            if isinstance(fault, _DAMAGE):
                raise _build_damage_error(path, fault) from None
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._packed.close()
        self._stream.close()

    def check(self) -> None:
        """
        Unpack every file once, in bounded memory, and compare its checksum.

        Raises:
            ArchiveError: A file is damaged or too large.
        """
        for name in self._infos:
            for _ in self._iter_chunks(name):
                pass

    def read_json(self, file: str) -> JSON:
        """
        Return the content of *file*.

        Raises:
            ArchiveError: It is damaged, or too large.
            NotebookError: It is not JSON.
        """
        content = b"".join(self._iter_chunks(file))
        try:
            found = json.loads(content.decode("utf-8-sig"), parse_float=_parse_float, parse_constant=_refuse_constant)
        except UnicodeDecodeError as fault:
            raise NotebookError(f"{self._place(file)} is not UTF-8 text (byte {fault.start + 1}).") from None
        except ValueError as fault:
            line = getattr(fault, "lineno", None)
            where = f" (line {line})" if line else ""
            raise NotebookError(f"{self._place(file)} is not JSON{where}.", line=line) from None
        except RecursionError:
            raise NotebookError(f"{self._place(file)} is nested too deeply.") from None
        return cast("JSON", found)

    def read_workflow(self, file: str, *, ignored: Sequence[str] = ()) -> ArchivedWorkflow:
        """
        Return the workflow in *file*. Secrets that the manifest names, and that the file leaves out, are secret props.

        Args:
            file: One of `files`.
            ignored: As for `read_workflow_json`.

        Raises:
            ArchiveError: The file is damaged or too large.
            NotebookError: The file is not a workflow.
        """
        document = self.read_json(file)
        entry = self._get_entry(file)
        path = PurePosixPath(file).with_suffix("")
        named = next((part for part in reversed(path.name.split("-")) if _WORKFLOW_ID.match(part)), None)
        known_id = named or (entry.id if entry is not None else None)
        try:
            workflow = read_workflow_json(
                document, entry.name if entry is not None else path.name, workflow_id=known_id, ignored=ignored
            )
        except NotebookError as error:
            raise NotebookError(f"{self._place(file)} {error.message}", fix=error.fix, line=error.line) from None
        kept = workflow.extra.get(ROUND_TRIP_KEY)
        workflow_id = kept.get("id") if isinstance(kept, dict) else None
        if isinstance(workflow_id, str) and not path.name.endswith(workflow_id):
            path = path.with_name(f"{path.name}-{workflow_id}")
        warnings = entry.warnings if entry is not None else ()
        source = str(workflow_id or workflow.name)
        return ArchivedWorkflow(file, path, _with_omitted_secrets(workflow, warnings, source), warnings)

    def _get_entry(self, file: str) -> ManifestEntry | None:
        entries = self.manifest.entries if self.manifest is not None else ()
        return next((entry for entry in entries if entry.file == file), None)

    def _place(self, file: str) -> str:
        return f"{self.path}/{file}"

    def _iter_chunks(self, name: str) -> Iterator[bytes]:
        """Yield the unpacked content of an entry, in parts; at most the size that `_check_entries` has accepted."""
        try:
            with self._packed.open(self._infos[name]) as stream:
                while chunk := stream.read(_CHUNK):
                    yield chunk
        except _TooLargeError:
            raise _refuse(self.path, f"the header of {name} is too large") from None
        except _DAMAGE as fault:
            raise _build_damage_error(self.path, fault, name) from None

    def _read_manifest(self) -> Manifest | None:
        if MANIFEST not in self._infos:
            return None
        data = self.read_json(MANIFEST)
        if not isinstance(data, dict):
            raise ArchiveError(f"{self._place(MANIFEST)} is not an object.", fix="Download the archive again.")
        return _read_manifest(self.path, data, self.files)


class _TooLargeError(Exception):
    """A read of the archive's directory would be larger than its limit."""


class _BoundedFile(io.FileIO):
    """A file whose reads are limited, because `zipfile` reads the whole directory that an archive announces."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "rb")

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            size = _MAX_DIRECTORY_BYTES  # of the end of the archive, about 64 KB
        if size > _MAX_DIRECTORY_BYTES:
            raise _TooLargeError
        return super().read(size) or b""


def is_archive(path: Path) -> bool:
    """Return whether *path* is a file that is named or begins like a ZIP."""
    if not path.is_file():
        return False
    if path.suffix.lower() == ".zip":
        return True
    with suppress(OSError), path.open("rb") as stream:
        return stream.read(4) == b"PK\x03\x04"
    return False


def _refuse(path: Path, why: str) -> ArchiveError:
    return ArchiveError(
        f"{path} is not read: {why}.",
        fix="Download the archive from the project's File Store again, and pass it unchanged.",
    )


def _build_damage_error(path: Path, fault: Exception, name: str | None = None) -> ArchiveError:
    what = " ".join(str(fault).split()) or type(fault).__name__
    part = f"its file {name} " if name is not None else ""
    return ArchiveError(
        f"{path} is damaged or not whole: {part}({what}).",
        fix="Download the archive from the project's File Store again, and compare its size.",
    )


def _check_entries(path: Path, infos: Sequence[zipfile.ZipInfo]) -> Iterator[tuple[str, zipfile.ZipInfo]]:
    """Yield the files of an archive with their checked names."""
    if len(infos) > _MAX_ENTRIES:
        raise _refuse(path, f"it has {len(infos)} entries, and may have {_MAX_ENTRIES}")
    if sum(info.file_size for info in infos) > MAX_ARCHIVE_BYTES:
        raise _refuse(path, f"its files unpack to more than {MAX_ARCHIVE_BYTES} bytes")
    seen: dict[str, str] = {}
    for info in infos:
        name = _check_name(path, info)
        if name.startswith(_IGNORED[0]) or name.endswith(_IGNORED[1]):
            continue
        if info.is_dir() or name.endswith("/"):
            continue
        mode = info.external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise _refuse(path, f"{name} is a link or a special file")
        if info.flag_bits & _ENCRYPTED:
            raise _refuse(path, f"{name} is encrypted")
        if info.compress_type not in _METHODS:
            raise _refuse(path, f"{name} is compressed by method {info.compress_type}, which an export does not use")
        if info.file_size > MAX_FILE_BYTES:
            raise _refuse(path, f"{name} unpacks to more than {MAX_FILE_BYTES} bytes")
        if not name.lower().endswith(".json"):
            kind = (
                "an archive in an archive" if name.lower().endswith((".zip", ".gz", ".tar", ".7z")) else "no JSON file"
            )
            raise _refuse(path, f"{name} is {kind}, and an export has one JSON file a workflow")
        key = unicodedata.normalize("NFC", name).casefold()
        if key in seen:
            raise ArchiveError(
                f"{path} is not read: {seen[key]} and {name} are the same name on some machines.",
                fix=f"Rename one of the two workflows at Pipedream and export again, or take one out of the archive: zip -d {path.name} NAME",
            )
        seen[key] = name
        yield name, info


def _check_name(path: Path, info: zipfile.ZipInfo) -> str:
    """Return the name of an entry, if it is a path inside of the archive."""
    raw = info.orig_filename
    if not info.flag_bits & _UTF8:
        with suppress(UnicodeError):  # names in UTF-8 without the flag are common
            raw = raw.encode("cp437").decode("utf-8")
    shown = raw.encode("unicode_escape").decode()[:200]
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in raw):
        raise _refuse(path, f"the name {shown} has a control character")
    name = raw.replace("\\", "/")
    parts = name.removesuffix("/").split("/")
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        raise _refuse(path, f"the name {shown} is an absolute path")
    if ".." in parts:
        raise _refuse(path, f"the name {shown} leads out of the archive")
    if "" in parts or "." in parts:
        raise _refuse(path, f"the name {shown} is not a path")
    if any(len(part.encode()) > _MAX_NAME_BYTES for part in parts):
        raise _refuse(path, f"the name {shown} is longer than {_MAX_NAME_BYTES} bytes")
    return name


def _parse_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is too large")
    return value


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def _with_omitted_secrets(workflow: Workflow, warnings: Sequence[str], source: str) -> Workflow:
    """Return *workflow* with a secret prop for each one that *warnings* name and that the archive left out."""
    omitted: dict[str, list[str]] = {}
    for warning in warnings:
        for found in _SECRET_WARNING.finditer(warning):
            omitted.setdefault(found[1], []).append(found[2])
    if not omitted:
        return workflow
    steps = []
    for step in workflow.steps:
        named = {app.prop for app in step.apps} | {store.prop for store in step.stores} | step.props.keys()
        missing = {prop: build_secret(source) for prop in omitted.get(step.name, ()) if prop not in named}
        steps.append(replace(step, props={**step.props, **missing}) if missing else step)
    return replace(workflow, steps=tuple(steps))


def _read_manifest(path: Path, data: dict[str, Any], files: Sequence[str]) -> Manifest:
    listed = data.get("workflows")
    if isinstance(listed, list | dict) and len(listed) > _MAX_ENTRIES:
        raise _refuse(path, f"its manifest lists {len(listed)} workflows, and may list {_MAX_ENTRIES}")
    raw_entries = [raw for raw in (listed if isinstance(listed, list) else ()) if isinstance(raw, dict)]
    if isinstance(listed, dict):  # by id, by name or by file
        raw_entries = [{"key": key, **raw} for key, raw in listed.items() if isinstance(raw, dict)]
    unclaimed = {file: (stem := PurePosixPath(file).stem, _slug(stem)) for file in files}
    entries = [_read_entry(raw, number, unclaimed) for number, raw in enumerate(raw_entries, start=1)]
    owners = {
        text: place
        for place, (raw, entry) in enumerate(zip(raw_entries, entries, strict=True))
        for text in (entry.name, raw.get("path"), raw.get("file"), entry.file, entry.id)
        if isinstance(text, str)
    }
    rest: list[str] = []
    by_owner: dict[int, list[str]] = {}
    for warning in _list_warnings(data):
        texts = _WORD.findall(warning) if isinstance(warning, str) else warning.values()
        owner = next((owners[text] for text in texts if isinstance(text, str) and text in owners), None)
        message = warning if isinstance(warning, str) else _find_message(warning)
        (rest if owner is None else by_owner.setdefault(owner, [])).append(message)
    for place, messages in by_owner.items():
        entries[place] = replace(entries[place], warnings=(*entries[place].warnings, *messages))
    if rest and len(files) == 1 and len(entries) == 1:
        entries[0], rest = replace(entries[0], warnings=(*entries[0].warnings, *rest)), []
    reason = data.get("truncated_reason")
    return Manifest(
        schema=str(data.get("schema") or ""),
        entries=tuple(entries),
        is_truncated=data.get("truncated") not in (None, False),
        truncated_reason=None if reason is None else str(reason),
        warnings=tuple(rest),
        unlisted=tuple(unclaimed),
        data=data,
    )


_FileIndex = dict[str, tuple[str, str]]
"""Files with their stems, and these in lower case without punctuation."""


def _read_entry(raw: Mapping[str, Any], number: int, unclaimed: _FileIndex) -> ManifestEntry:
    """Return the entry *raw*; its file is taken from *unclaimed*."""
    texts = [value for value in raw.values() if isinstance(value, str) and value]
    workflow_id = next((text for text in texts if _WORKFLOW_ID.match(text)), None)
    names = [raw[key] for key in ("name", "title", "workflow", "key") if isinstance(raw.get(key), str) and raw[key]]
    file = _find_file(texts, workflow_id, names, unclaimed)
    if file is not None:
        del unclaimed[file]
    warnings = tuple(each if isinstance(each, str) else _find_message(each) for each in _list_warnings(raw))
    name = str(names[0]) if names else workflow_id or file or f"workflow {number}"
    return ManifestEntry(name, workflow_id, str(raw.get("status") or ""), warnings, file)


def _find_file(texts: Sequence[str], workflow_id: str | None, names: Sequence[str], files: _FileIndex) -> str | None:
    """Return the file that a manifest's entry means: by its path, by the id in its name, else by the workflow's name."""
    for text in texts:
        path = text.replace("\\", "/").removeprefix("./").removeprefix("/")
        for wanted in (path, f"{path}.json" if "/" in path else ""):
            if wanted in files:
                return wanted
    if workflow_id is not None:
        for file, (stem, _) in files.items():
            if stem == workflow_id or stem.endswith((f"-{workflow_id}", f"_{workflow_id}")):
                return file
    slugs = {_slug(name) for name in names}
    found = [file for file, (_, slug) in files.items() if slug in slugs]
    return found[0] if len(found) == 1 else None


def _slug(name: str) -> str:
    return re.sub(r"\W+|_", "-", name.lower()).strip("-")


def _list_warnings(raw: Mapping[str, Any]) -> list[str | dict[str, Any]]:
    found = raw.get("warnings")
    return [each for each in found if isinstance(each, str | dict)] if isinstance(found, list) else []


def _find_message(warning: Mapping[str, Any]) -> str:
    texts = [value for value in warning.values() if isinstance(value, str)]
    return next(
        (text for text in texts if " " in text and ":" in text), max(texts, key=len, default=json.dumps(dict(warning)))
    )

"""
Runs that were recorded at Pipedream, sealed in files of the project.

    records/inbox/       entries as they arrive: one start, one end and one end of a branch are up to three entries of a run
    records/WORKFLOW/    NAME.event.sealed and NAME.expected.sealed: what a run got, and what it did;
                         NAME.compared.sealed: the result of `migrate shadow`

The files are encrypted with a key of their own, which the project's database holds sealed, so a rotation of the project's key leaves
them readable.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from pdkernel.common.clock import SYSTEM_CLOCK, Clock
from pdkernel.common.encode import JsonStruct
from pdkernel.common.identity import DEFAULT_ENVIRONMENT
from pdkernel.errors import DamagedRecordError, EventError, RequestError
from pdkernel.event import Event
from pdkernel.model import JSON
from pdkernel.storage import Project, Vault

T = TypeVar("T")
RECORDS_FOLDER = "records"
_INBOX = "inbox"
_KEY_NAME = "records/key"
_KEY_BYTES = 32
_EXPECTED = ".expected.sealed"
_COMPARED = ".compared.sealed"
_RULES_FILE = "not-comparable.json"
RECOUNT_S = 60.0
"""Seconds after which the entries of a full archive are counted again."""
_SAFE = re.compile(r"[^A-Za-z0-9_-]+")
RecordStatus = Literal["recorded", "not recorded to the end"]
OMITTED = "$pdkernel_omitted"
"""The key of a value that was too large for the record."""


class RecordedRun(JsonStruct, frozen=True):
    """
    One run at Pipedream.

    Attributes:
        name: The name of the run's files: time and a part of the run's hash.
        run: The run's id at Pipedream.
        workflow: Pipedream's id of the workflow.
        version: The version of the workflow's files, or None if the step was pasted.
        at: When the run began, as ISO 8601.
        status: Whether the record has the end of the run; without it the run was ended by a step, or by an error.
        event: The event, which may be any JSON.
        context: The `steps.trigger.context` of the run.
        steps: The exports of the steps, by name; without an end, those that the ends of branches recorded.
        branches: Branches whose end was recorded.
        known_branches: All branches that have a recording step at their end.
        lost: Records that could not be stored before this one, as far as the step knows.
    """

    name: str
    run: str
    workflow: str
    version: str | None
    at: str
    status: RecordStatus
    event: Any
    context: dict[str, Any]
    steps: dict[str, dict[str, Any]]
    branches: tuple[str, ...] = ()
    known_branches: tuple[str, ...] = ()
    lost: int = 0

    @property
    def started_at(self) -> datetime:
        """When the run began."""
        return datetime.fromisoformat(self.at)

    @property
    def external_user_id(self) -> str | None:
        """The external user of the run, or None."""
        found = self.context.get("external_user_id")
        return found if isinstance(found, str) and found else None

    @property
    def environment(self) -> str:
        """The environment of the external user."""
        found = self.context.get("external_user_environment")
        return found if isinstance(found, str) and found else DEFAULT_ENVIRONMENT

    def build_event(self, *, is_http: bool = True) -> Event:
        """
        Return the event for a run here; *is_http* is whether it is an HTTP request.

        Raises:
            EventError: The event is not an object, or was too large for the record.
        """
        if isinstance(self.event, dict) and OMITTED in self.event:
            raise EventError("The event was too large for the record.")
        return Event.from_value(self.event, is_http=is_http)


class ArchiveFullError(RequestError):
    """An entry is not stored, because the entries that arrived would have more bytes than permitted."""


class RecordArchive:
    """
    The records of a project.

    Args:
        folder: The folder of the files.
        vault: Seals them.
        max_entry_bytes: The bytes of all entries that arrived and are kept, or None for no limit.
        clock: For the time between two counts of a full archive.
    """

    def __init__(
        self, folder: Path, vault: Vault, *, max_entry_bytes: int | None = None, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self.folder = folder
        self._vault = vault
        self._clock = clock
        self._max_entry_bytes = max_entry_bytes
        self._lock = threading.Lock()
        self._entry_bytes = 0
        self._counted_at: float | None = None

    # ── entries as they arrive ─────────────────────────────────────────────────────

    def add_entry(self, entry: Mapping[str, Any], *, first_a_day: int | None = None) -> bool:
        """
        Store an entry of a recording step; an entry of the same run and part is replaced.

        Args:
            entry: The entry.
            first_a_day: The number of runs of the workflow that are stored a day, or None.

        Returns:
            Whether the entry was stored: False if it is a start and the day has enough.

        Raises:
            ArchiveFullError: There would be more bytes than permitted.
        """
        day = self.folder / _INBOX / _SAFE.sub("_", str(entry["workflow"])) / _SAFE.sub("_", str(entry["at"])[:10])
        digest = hashlib.sha256(str(entry["run"]).encode()).hexdigest()[:24]
        part = _SAFE.sub("_", str(entry["part"]))
        path = day / f"{digest}.{part}.sealed"
        if part == "start" and first_a_day is not None and not path.exists():
            stored = sum(1 for _ in day.glob("*.start.sealed")) if day.is_dir() else 0
            if stored >= first_a_day:
                return False
        sealed = self._seal(path, dict(entry))
        self._reserve(len(sealed))
        self._write(path, sealed)
        return True

    def iter_entries(self, start: int = 0) -> Iterator[dict[str, Any]]:
        """Yield the entries that arrived, from number *start* on, in an order of their files' names."""
        for path in self._entry_paths()[start:]:
            yield self._read(path)

    def list_entries(self) -> dict[tuple[str, str], tuple[Path, ...]]:
        """Return the files of the entries that arrived, by the folder of the workflow and a hash of the run."""
        found: dict[tuple[str, str], tuple[Path, ...]] = {}
        for path in self._entry_paths():
            key = (path.parts[-3], path.name.partition(".")[0])
            found[key] = (*found.get(key, ()), path)
        return found

    def read_entry(self, path: Path) -> dict[str, Any]:
        """Return one entry of `list_entries`. Raises `DamagedRecordError`."""
        found: dict[str, Any] = self._read(path)
        return found

    # ── recorded runs ──────────────────────────────────────────────────────────────

    def save(self, run: RecordedRun) -> tuple[Path, Path]:
        """Write the event and the expected result of *run*; returns both files."""
        base = self.folder / _SAFE.sub("_", run.workflow)
        event, expected = (base / f"{run.name}.{kind}.sealed" for kind in ("event", "expected"))
        content: dict[str, Any] = msgspec.to_builtins(run)
        for path, value in ((event, content.pop("event")), (expected, content)):
            self._write(path, self._seal(path, value))
        return event, expected

    def load(self, workflow_id: str) -> tuple[RecordedRun, ...]:
        """Return the recorded runs of a workflow, the oldest first."""
        found = (self.load_run(path) for path in self.list_runs(workflow_id))
        return tuple(sorted(found, key=lambda run: (run.at, run.run)))

    def list_runs(self, workflow_id: str) -> list[Path]:
        """Return the files of the expected results of a workflow's recorded runs; the names begin with the time."""
        return sorted((self.folder / _SAFE.sub("_", workflow_id)).glob(f"*{_EXPECTED}"))

    def load_run(self, path: Path) -> RecordedRun:
        """Return one run of `list_runs`. Raises `DamagedRecordError`."""
        content = self._read(path)
        content["event"] = self._read(path.with_name(path.name.replace(".expected.", ".event.")))
        return msgspec.convert(content, RecordedRun)

    def workflow_ids(self) -> list[str]:
        """Return the ids of the workflows that have recorded runs."""
        folders = self.folder.iterdir() if self.folder.is_dir() else ()
        return sorted(each.name for each in folders if each.is_dir() and each.name != _INBOX)

    def save_result(self, run: RecordedRun, result: JsonStruct) -> None:
        """Store the *result* of a comparison with *run*; an earlier result is replaced at once."""
        path = self.folder / _SAFE.sub("_", run.workflow) / f"{run.name}{_COMPARED}"
        self._write(path, self._seal(path, msgspec.to_builtins(result)))

    def remove_result(self, run: RecordedRun) -> None:
        """Remove the result of a comparison with *run*, if there is one."""
        (self.folder / _SAFE.sub("_", run.workflow) / f"{run.name}{_COMPARED}").unlink(missing_ok=True)

    def load_results(self, workflow_id: str, kind: type[T]) -> dict[str, T]:
        """Return the stored results by the names of the runs; a result that cannot be read as *kind* is left out."""
        found = {}
        for path in (self.folder / _SAFE.sub("_", workflow_id)).glob(f"*{_COMPARED}"):
            with suppress(DamagedRecordError, msgspec.ValidationError):
                found[path.name.removesuffix(_COMPARED)] = msgspec.convert(self._read(path), kind)
        return found

    # ── rules of a person ──────────────────────────────────────────────────────────

    def load_rules(self, workflow_id: str) -> dict[str, str]:
        """Return the places that a person declared not comparable: `STEP.PATH` with the reason."""
        path = self.folder / _SAFE.sub("_", workflow_id) / _RULES_FILE
        try:
            return {str(place): str(reason) for place, reason in json.loads(path.read_bytes()).items()}
        except FileNotFoundError:
            return {}
        except (ValueError, AttributeError):
            raise RequestError(
                f"{path} is not a JSON object of places and reasons.", fix="Correct or remove the file."
            ) from None

    def add_rule(self, workflow_id: str, place: str, reason: str) -> Path:
        """Declare `STEP.PATH` not comparable; returns the file of the rules, which a person may edit."""
        path = self.folder / _SAFE.sub("_", workflow_id) / _RULES_FILE
        rules = {**self.load_rules(workflow_id), place: reason}
        _make_folder(path.parent)
        path.write_text(json.dumps(rules, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return path

    # ── files ──────────────────────────────────────────────────────────────────────

    def _reserve(self, size: int) -> None:
        """Count *size* bytes of an entry to come. Raises `ArchiveFullError`."""
        if self._max_entry_bytes is None:
            return
        now = self._clock.monotonic()
        with self._lock:
            # a full archive is counted again now and then: a person may have removed files
            is_full = self._entry_bytes + size > self._max_entry_bytes
            if self._counted_at is None or (is_full and now - self._counted_at > RECOUNT_S):
                self._entry_bytes = sum(path.stat().st_size for path in self._entry_paths())
                self._counted_at = now
            if self._entry_bytes + size <= self._max_entry_bytes:
                self._entry_bytes += size
                return
        raise ArchiveFullError(
            f"The records in {self.folder} have {self._entry_bytes:,} bytes, and {self._max_entry_bytes:,} are permitted.",
            fix="Remove records that you no longer need, or start the receiver with a larger --max-size.",
        )

    def _entry_paths(self) -> list[Path]:
        return sorted((self.folder / _INBOX).glob("*/*/*.sealed"))

    def _seal(self, path: Path, value: JSON) -> bytes:
        return self._vault.seal_json(value, self._locate(path))

    def _write(self, path: Path, sealed: bytes) -> None:
        _make_folder(path.parent)
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(sealed)
            part.replace(path)
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise

    def _read(self, path: Path) -> Any:
        try:
            return self._vault.unseal_json(path.read_bytes(), self._locate(path), Any)
        except DamagedRecordError:
            raise DamagedRecordError(
                f"{path} cannot be decrypted: it is damaged, or belongs to another project.",
                fix="Remove the file, and collect the records again.",
            ) from None

    def _locate(self, path: Path) -> str:
        return f"records/{path.relative_to(self.folder).as_posix()}"


def open_records(project: Project, *, max_entry_bytes: int | None = None) -> RecordArchive:
    """Return the records of *project*; a key for them is made at the first call. *max_entry_bytes* is as in `RecordArchive`."""
    stored = project.secrets.get_or_set(_KEY_NAME, base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode())
    vault = Vault(base64.b64decode(stored))
    return RecordArchive(project.folder / RECORDS_FOLDER, vault, max_entry_bytes=max_entry_bytes, clock=project.clock)


def _make_folder(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)

"""
Brings records home: the endpoint that receives and seals entries (`pdkernel migrate receive`), and entries paired to recorded runs.

    POST /records   adds an entry; needs the token that the recording steps have, which permits nothing else
    GET /records    a page of entries for `pdkernel migrate collect --from URL`; needs another token

A start without an end is a run that did not reach its last step: a step ended it (`$.flow.exit`, a filter), or an error did.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pdkernel.annex.migration.record_steps import RECORD_FORMAT, create_token
from pdkernel.annex.proof.recorded_runs import ArchiveFullError, RecordArchive, RecordedRun, open_records
from pdkernel.common.blocking import run_blocking
from pdkernel.errors import ProjectError, RequestError, describe_fault
from pdkernel.operations.stores import TOTAL_KEY
from pdkernel.storage import Project

RECORDS_PATH: Final = "/records"
TOKEN_HEADER: Final = "x-pdkernel-token"  # noqa: S105 - the name of a header
MAX_ENTRY_BYTES = 8 * 1024 * 1024
MAX_PAGE_BYTES = 4 * 1024 * 1024
_YEARS = range(2000, 2200)
"""Years of runs; the comparison computes with the time of a run, and its ends have no room for that."""
_WRITE_TOKEN = "records/write_token"  # noqa: S105 - the name of a secret
_READ_TOKEN = "records/read_token"  # noqa: S105


def get_write_token(project: Project) -> str:
    """Return the token with which recording steps add entries; made at the first call."""
    return project.secrets.get_or_set(_WRITE_TOKEN, create_token())


def get_read_token(project: Project) -> str:
    """Return the token with which entries are read; made at the first call."""
    return project.secrets.get_or_set(_READ_TOKEN, create_token())


def is_entry(value: object) -> bool:
    """Return whether *value* is an entry of a recording step."""
    if not isinstance(value, dict) or value.get("format") != RECORD_FORMAT:
        return False
    texts = [value.get(key) for key in ("run", "workflow", "at", "part")]
    if not all(isinstance(text, str) and 0 < len(text) <= 200 and text.isprintable() for text in texts):
        return False
    if not _is_moment(value["at"]) or not isinstance(value.get("lost", 0), int):
        return False
    if value["part"] == "start":
        return (
            isinstance(value.get("context"), dict) and "event" in value and isinstance(value.get("branches", []), list)
        )
    is_end = value["part"] == "end" or value["part"].startswith("branch/")
    steps = value.get("steps")
    return is_end and isinstance(steps, dict) and all(isinstance(each, dict) for each in steps.values())


def _is_moment(text: str) -> bool:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return False
    return found.tzinfo is not None and found.year in _YEARS


def build_receiver(project: Project, *, max_bytes: int | None = None, report: Callable[[str], None]) -> Starlette:
    """
    Return the application that stores entries in the records of *project*.

    Args:
        project: The project.
        max_bytes: The size limit of all stored entries, or None.
        report: Receives why entries cannot be stored, once until an entry is stored again.
    """
    archive = open_records(project, max_entry_bytes=max_bytes)
    return _Receiver(archive, get_write_token(project), get_read_token(project), report).app


class _Receiver:
    def __init__(
        self, archive: RecordArchive, write_token: str, read_token: str, report: Callable[[str], None]
    ) -> None:
        self._archive = archive
        self._write_token = write_token
        self._read_token = read_token
        self._report = report
        self._has_reported = False
        self.app = Starlette(
            routes=[
                Route(RECORDS_PATH, self._add, methods=["POST"]),
                Route(RECORDS_PATH, self._list, methods=["GET"]),
            ]
        )

    async def _add(self, request: Request) -> Response:
        if not _has_token(request, self._write_token):
            return _refuse(403, "The token is not that of the recording steps of this project.")
        content = bytearray()
        async for chunk in request.stream():
            content += chunk
            if len(content) > MAX_ENTRY_BYTES:
                return _refuse(413, f"An entry has at most {MAX_ENTRY_BYTES} bytes.")
        try:
            entry = json.loads(content)
        except (ValueError, RecursionError):
            entry = None
        if not is_entry(entry):
            return _refuse(400, "The body is not an entry of a recording step.")
        limit = entry.get("first_a_day")
        first_a_day = limit if isinstance(limit, int) else None
        try:
            stored = await run_blocking(lambda: self._archive.add_entry(entry, first_a_day=first_a_day))
        except (ArchiveFullError, OSError) as fault:
            return self._refuse_full(fault)
        self._has_reported = False
        return JSONResponse({"recorded": stored})

    def _refuse_full(self, fault: ArchiveFullError | OSError) -> Response:
        """Answer that the entry is not stored, and report it once: the steps count it as lost."""
        why = str(fault) if isinstance(fault, ArchiveFullError) else f"A record cannot be written: {fault.strerror}."
        if not self._has_reported:
            self._has_reported = True
            self._report(why)
        return _refuse(507, "The entry is not stored: the space for records is used up, or the disk refuses it.")

    async def _list(self, request: Request) -> Response:
        if not _has_token(request, self._read_token):
            return _refuse(403, "The token is not that of this project.")
        after = request.query_params.get("after", "0")
        if not after.isdigit():
            return _refuse(400, "after is not a number.")
        return JSONResponse(await run_blocking(self._read_page, int(after)))

    def _read_page(self, after: int) -> Mapping[str, Any]:
        entries: list[Any] = []
        size = 0
        for number, entry in enumerate(self._archive.iter_entries(after), start=after):
            if entries and size > MAX_PAGE_BYTES:
                return {"entries": entries, "next": number}
            entries.append(entry)
            size += len(json.dumps(entry))
        return {"entries": entries, "next": None}


def _has_token(request: Request, token: str) -> bool:
    given = request.headers.get(TOKEN_HEADER, "")
    return hmac.compare_digest(given.encode(), token.encode())


def _refuse(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status_code=status)


_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Collection:
    """
    The result of a collection.

    Attributes:
        runs: The recorded runs by the id of their workflow, the oldest first.
        orphans: The number of ends without a start.
        lost: The number of entries that recording steps could not store, as far as later ones report it.
        skipped: The number of entries that are not those of a recording step.
    """

    runs: Mapping[str, tuple[RecordedRun, ...]]
    orphans: int
    lost: int
    skipped: int


def collect(entries: Iterable[object], archive: RecordArchive) -> Collection:
    """Return the pair *entries* and write the runs to *archive*; runs that are there are written again."""
    starts: dict[tuple[str, str], dict[str, Any]] = {}
    ends: dict[tuple[str, str], list[dict[str, Any]]] = {}
    lost = skipped = 0
    for entry in entries:
        if not isinstance(entry, dict) or not is_entry(entry):
            skipped += 1
            continue
        key = (entry["workflow"], entry["run"])
        lost += int(entry.get("lost") or 0)
        if entry["part"] == "start":
            starts[key] = entry
        else:
            ends.setdefault(key, []).append(entry)
    runs: dict[str, list[RecordedRun]] = {}
    for key, start in sorted(starts.items(), key=lambda item: (item[1]["at"], item[0])):
        run = _pair(start, ends.get(key, []))
        archive.save(run)
        runs.setdefault(run.workflow, []).append(run)
    orphans = len(ends.keys() - starts.keys())
    return Collection({name: tuple(found) for name, found in runs.items()}, orphans, lost, skipped)


def _pair(start: dict[str, Any], ends: list[dict[str, Any]]) -> RecordedRun:
    steps: dict[str, dict[str, Any]] = {}
    for end in sorted(
        ends, key=lambda each: (each["part"] == "end", each["at"])
    ):  # the end last: it has the blocks' exports
        steps.update(end["steps"])
    digest = hashlib.sha256(f"{start['workflow']}/{start['run']}".encode()).hexdigest()[:8]
    moment = re.sub(r"[^0-9]", "", start["at"])[:14]
    version = start.get("version")
    return RecordedRun(
        name=f"{moment}-{digest}",
        run=start["run"],
        workflow=start["workflow"],
        version=version if isinstance(version, str) else None,
        at=start["at"],
        status="recorded" if any(end["part"] == "end" for end in ends) else "not recorded to the end",
        event=start["event"],
        context=start["context"],
        steps=steps,
        branches=tuple(sorted(end["part"].removeprefix("branch/") for end in ends if end["part"] != "end")),
        known_branches=tuple(sorted({each for each in start.get("branches") or () if isinstance(each, str)})),
        lost=int(start.get("lost") or 0),
    )


def read_dump(path: Path) -> Iterator[object]:
    """
    Yield the entries in a data store that `migrate data` downloaded (`stores/NAME.jsonl`).

    Raises:
        RequestError: The file cannot be read, or is not that of a data store.
    """
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if not line.strip():
                    continue
                record = json.loads(line)
                if not isinstance(record, dict) or not (record.keys() == {TOTAL_KEY} or "key" in record):
                    raise RequestError(f"{path} is not the file of a data store (line {number}).")
                if str(record.get("key", "")).startswith("record/"):
                    value = record.get("value")
                    yield json.loads(value) if isinstance(value, str) else value
    except OSError as fault:
        raise RequestError(
            f"{path} cannot be read: {fault.strerror}.",
            fix="Download the store first: pdkernel migrate data ds_... --to FOLDER",
        ) from None
    except ValueError:
        raise RequestError(f"{path} is not the file of a data store.") from None


def fetch_entries(url: str, token: str) -> Iterator[object]:
    """
    Yield the entries of the receiver at *url*.

    Raises:
        RequestError: The address is not that of a receiver of this project.
        ProjectError: It does not respond.
    """
    import httpx

    after: int | None = 0
    with httpx.Client(timeout=_TIMEOUT_S) as http:
        while after is not None:
            try:
                response = http.get(url, params={"after": after}, headers={TOKEN_HEADER: token})
                page = response.json() if response.status_code == 200 else {}
            except httpx.InvalidURL as fault:
                raise RequestError(f"{url!r} is not a URL: {fault}.") from None
            except httpx.HTTPError as fault:
                raise ProjectError(
                    f"{url} does not respond: {describe_fault(fault)}", fix="Start it: pdkernel migrate receive"
                ) from None
            except ValueError:
                page = {}
            if not isinstance(page, dict) or not isinstance(page.get("entries"), list):
                raise RequestError(
                    f"{url} is not the receiver of this project: it responds with status {response.status_code}.",
                    fix="Run the receiver and this command in the same project, and pass the URL of its records.",
                )
            yield from page["entries"]
            following = page.get("next")
            if following is not None and (not isinstance(following, int) or following <= after):
                raise RequestError(f"{url} is not the receiver of this project: its page has no next entry.")
            after = following

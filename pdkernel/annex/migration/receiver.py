"""
The endpoint that receives the entries of recording steps and seals them: `pdkernel migrate receive`.

    POST /records   adds an entry; needs the token that the recording steps have, which permits nothing else
    GET /records    a page of entries for `pdkernel migrate collect --from URL`; needs the token of the project
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pdkernel.annex.migration.record_steps import RECORD_FORMAT, create_token
from pdkernel.annex.proof.recorded_runs import ArchiveFullError, RecordArchive, open_records
from pdkernel.common.blocking import run_blocking
from pdkernel.storage import Project

RECORDS_PATH: Final = "/records"
TOKEN_HEADER: Final = "x-pdkernel-token"  # noqa: S105 - the name of a header
MAX_ENTRY_BYTES = 8 * 1024 * 1024
MAX_PAGE_BYTES = 4 * 1024 * 1024
_WRITE_TOKEN = "records/write_token"  # noqa: S105 - the name of a secret
_READ_TOKEN = "records/read_token"  # noqa: S105


def get_write_token(project: Project) -> str:
    """The token with which recording steps add entries; made at the first call."""
    return project.secrets.get_or_set(_WRITE_TOKEN, create_token())


def get_read_token(project: Project) -> str:
    """The token with which entries are read; made at the first call."""
    return project.secrets.get_or_set(_READ_TOKEN, create_token())


def is_entry(value: object) -> bool:
    """Whether *value* is an entry of a recording step."""
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
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def build_receiver(project: Project, *, max_bytes: int | None = None, report: Callable[[str], None]) -> Starlette:
    """
    The application that stores entries in the records of *project*.

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

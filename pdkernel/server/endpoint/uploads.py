"""
Files of requests, stored for 30 minutes as on the platform, at URLs that cannot be guessed.

A file is served as a download, never rendered as a page.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response

from pdkernel.clock import Clock

UPLOAD_LIFETIME_S = 30 * 60
"""Seconds until a file expires (platform documentation)."""
UPLOADS_PATH = "/-/uploads"
_NAME_BYTES = 32
_SWEEP_INTERVAL_S = 60.0
"""Seconds between two searches for expired files."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A stored file."""

    filename: str
    mimetype: str
    url: str


class UploadFolder:
    """
    The stored files of one project.

    Args:
        folder: Folder of the files, created with the first file.
        url: Base of the files' URLs.
        clock: For the age of files.
    """

    def __init__(self, folder: Path, url: str, clock: Clock) -> None:
        self._folder = folder
        self._url = url
        self._clock = clock
        self._swept = -_SWEEP_INTERVAL_S

    async def store_stream(self, chunks: AsyncIterator[bytes], *, filename: str = "", mimetype: str) -> StoredFile:
        """Stream *chunks* into a new file."""
        name = await asyncio.to_thread(self._new_name)
        place = self._folder / name
        try:
            with place.open("xb") as file:
                async for chunk in chunks:
                    await asyncio.to_thread(file.write, chunk)
        except BaseException:
            place.unlink(missing_ok=True)
            raise
        return await asyncio.to_thread(self._write_metadata, name, filename, mimetype)

    async def store_copy(self, file: IO[Any], *, filename: str, mimetype: str) -> StoredFile:
        """Store a copy of *file*."""

        def copy() -> StoredFile:
            name = self._new_name()
            file.seek(0)
            try:
                with (self._folder / name).open("xb") as place:
                    shutil.copyfileobj(file, place)
            except BaseException:
                (self._folder / name).unlink(missing_ok=True)
                raise
            return self._write_metadata(name, filename, mimetype)

        return await asyncio.to_thread(copy)

    def find(self, name: str) -> tuple[Path, str, str] | None:
        """Path, filename and media type of the stored file, or None if it does not exist or has expired."""
        if not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
            return None
        try:
            metadata = json.loads((self._folder / f"{name}.json").read_text())
        except (OSError, ValueError):
            return None
        if metadata["made"] + UPLOAD_LIFETIME_S < self._clock.now().timestamp():
            return None
        return self._folder / name, metadata["filename"], metadata["mimetype"]

    def _new_name(self) -> str:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._delete_expired()
        return secrets.token_urlsafe(_NAME_BYTES)

    def _write_metadata(self, name: str, filename: str, mimetype: str) -> StoredFile:
        metadata = {"filename": filename, "mimetype": mimetype, "made": self._clock.now().timestamp()}
        (self._folder / f"{name}.json").write_text(json.dumps(metadata))
        return StoredFile(filename, mimetype, f"{self._url}{UPLOADS_PATH}/{name}")

    def _delete_expired(self) -> None:
        now = self._clock.monotonic()
        if now - self._swept < _SWEEP_INTERVAL_S:
            return
        self._swept = now
        expired_before = self._clock.now().timestamp() - UPLOAD_LIFETIME_S
        for place in self._folder.iterdir():
            # a file without metadata is the partial upload of a killed process
            with suppress(OSError):
                if (
                    not place.suffix
                    and place.stat().st_mtime < expired_before
                    and not place.with_suffix(".json").exists()
                ):
                    place.unlink()
        for metadata in self._folder.glob("*.json"):
            with suppress(OSError, ValueError, KeyError):
                if json.loads(metadata.read_text())["made"] < expired_before:
                    metadata.with_suffix("").unlink(missing_ok=True)
                    metadata.unlink()


async def serve_upload(request: Request) -> Response:
    """GET `/-/uploads/{name}`: the file."""
    uploads: UploadFolder = request.app.state.uploads
    found = await asyncio.to_thread(uploads.find, request.path_params["name"])
    if found is None:
        return PlainTextResponse("There is no such file, or its 30 minutes are expired_before.\n", status_code=404)
    place, filename, mimetype = found
    headers = {
        "content-disposition": f"attachment; filename*=UTF-8''{quote(filename or 'body', safe='')}",
        "content-security-policy": "sandbox; default-src 'none'",
        "x-content-type-options": "nosniff",
    }
    plain = mimetype.isascii() and mimetype.isprintable() and "/" in mimetype
    return FileResponse(place, media_type=mimetype if plain else "application/octet-stream", headers=headers)

"""
Files that came with requests, kept for the platform's thirty minutes under a URL that nobody guesses.

Knows where they are and how long. What is in them is the workflow's affair: they are given out as data, never as a page.
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
"""Seconds for which a file's URL is good (platform documentation)."""
UPLOADS_PATH = "/-/uploads"
_NAME_BYTES = 32
_SWEEP_INTERVAL_S = 60.0
"""Seconds between two searches for files whose time is over."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file that is kept."""

    filename: str
    mimetype: str
    url: str


class UploadFolder:
    """
    The files of one project.

    Args:
        folder: Made when the first one comes.
        url: The base of their URLs.
        clock: Says when their time is over.
    """

    def __init__(self, folder: Path, url: str, clock: Clock) -> None:
        self._folder = folder
        self._url = url
        self._clock = clock
        self._swept = -_SWEEP_INTERVAL_S

    async def store_stream(self, chunks: AsyncIterator[bytes], *, filename: str = "", mimetype: str) -> StoredFile:
        """Keep what *chunks* give, as it comes."""
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
        """Keep a copy of *file*."""

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
        """Place, filename and media type of the file of that name, or None if there is none any more."""
        if not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
            return None
        try:
            told = json.loads((self._folder / f"{name}.json").read_text())
        except (OSError, ValueError):
            return None
        if told["made"] + UPLOAD_LIFETIME_S < self._clock.now().timestamp():
            return None
        return self._folder / name, told["filename"], told["mimetype"]

    def _new_name(self) -> str:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._forget_old()
        return secrets.token_urlsafe(_NAME_BYTES)

    def _write_metadata(self, name: str, filename: str, mimetype: str) -> StoredFile:
        told = {"filename": filename, "mimetype": mimetype, "made": self._clock.now().timestamp()}
        (self._folder / f"{name}.json").write_text(json.dumps(told))
        return StoredFile(filename, mimetype, f"{self._url}{UPLOADS_PATH}/{name}")

    def _forget_old(self) -> None:
        now = self._clock.monotonic()
        if now - self._swept < _SWEEP_INTERVAL_S:
            return
        self._swept = now
        over = self._clock.now().timestamp() - UPLOAD_LIFETIME_S
        for place in self._folder.iterdir():
            # what a process that was killed had not yet received whole is described by nothing
            with suppress(OSError):
                if not place.suffix and place.stat().st_mtime < over and not place.with_suffix(".json").exists():
                    place.unlink()
        for told in self._folder.glob("*.json"):
            with suppress(OSError, ValueError, KeyError):
                if json.loads(told.read_text())["made"] < over:
                    told.with_suffix("").unlink(missing_ok=True)
                    told.unlink()


async def serve_upload(request: Request) -> Response:
    """GET `/-/uploads/{name}`: the file."""
    uploads: UploadFolder = request.app.state.uploads
    found = await asyncio.to_thread(uploads.find, request.path_params["name"])
    if found is None:
        return PlainTextResponse("There is no such file, or its thirty minutes are over.\n", status_code=404)
    place, filename, mimetype = found
    headers = {
        "content-disposition": f"attachment; filename*=UTF-8''{quote(filename or 'body', safe='')}",
        "content-security-policy": "sandbox; default-src 'none'",
        "x-content-type-options": "nosniff",
    }
    plain = mimetype.isascii() and mimetype.isprintable() and "/" in mimetype
    return FileResponse(place, media_type=mimetype if plain else "application/octet-stream", headers=headers)

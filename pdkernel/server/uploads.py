"""
Files of requests: stored for 30 minutes, as on the platform, at URLs that cannot be guessed.

A browser downloads a file and never renders the file as a page.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from starlette.responses import FileResponse, PlainTextResponse, Response

from pdkernel.common.blocking import run_blocking
from pdkernel.common.clock import Clock

UPLOAD_LIFETIME_S = 30 * 60
"""Seconds until a file expires (platform documentation)."""
UPLOADS_PATH = "/-/uploads"
_NAME_BYTES = 32
_RESERVED_BYTES, _RESERVED_SHARE = 1024**3, 0.05
"""Free bytes that files of requests leave on a disk, at most this share of it: the project's database needs them."""
_CHECKED_BYTES = 1024**2
"""Bytes of a request after which the free space is checked again."""
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
        disk_usage: Returns total, used and free bytes of the disk with a folder.
    """

    def __init__(
        self,
        folder: Path,
        url: str,
        clock: Clock,
        *,
        disk_usage: Callable[[Path], tuple[int, int, int]] = shutil.disk_usage,
    ) -> None:
        self._disk_usage = disk_usage
        self._folder = folder
        self._url = url
        self._clock = clock
        self._swept = -_SWEEP_INTERVAL_S

    async def watch_room(self, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """
        Yield *chunks*, which become files here or in the folder for temporary files.

        Raises:
            OSError: A disk is almost full.
        """
        unchecked = 0
        async for chunk in chunks:
            unchecked += len(chunk)
            if unchecked >= _CHECKED_BYTES:
                unchecked = 0
                self._check_room(Path(tempfile.gettempdir()))
                self._check_room(self._folder)
            yield chunk

    async def store_stream(self, chunks: AsyncIterator[bytes], *, filename: str = "", mimetype: str) -> StoredFile:
        """Stream *chunks* into a new file. Raises `OSError`, also if the disk is almost full."""
        name = await run_blocking(self._new_name)
        path = self._folder / name
        try:
            with path.open("xb") as file:
                async for chunk in self.watch_room(chunks):
                    await run_blocking(file.write, chunk)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return await run_blocking(self._write_metadata, name, filename, mimetype)

    async def store_copy(self, file: IO[Any], *, filename: str, mimetype: str) -> StoredFile:
        """Store a copy of *file*."""

        def copy() -> StoredFile:
            name = self._new_name()
            file.seek(0)
            try:
                with (self._folder / name).open("xb") as target:
                    shutil.copyfileobj(file, target)
            except BaseException:
                (self._folder / name).unlink(missing_ok=True)
                raise
            return self._write_metadata(name, filename, mimetype)

        return await run_blocking(copy)

    def find(self, name: str) -> tuple[Path, str, str] | None:
        """Return the path, filename and media type of the stored file, or None if the file does not exist or has expired."""
        if not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
            return None
        try:
            metadata = json.loads((self._folder / f"{name}.json").read_text())
        except (OSError, ValueError):
            return None
        if metadata["made"] + UPLOAD_LIFETIME_S < self._clock.now().timestamp():
            return None
        return self._folder / name, metadata["filename"], metadata["mimetype"]

    async def respond(self, name: str) -> Response:
        """Return the response with the stored file *name*, or 404."""
        found = await run_blocking(self.find, name)
        if found is None:
            text = "There is no such file. Files of requests expire after 30 minutes.\n"
            return PlainTextResponse(text, status_code=404)
        path, filename, mimetype = found
        headers = {
            "content-disposition": f"attachment; filename*=UTF-8''{quote(filename or 'body', safe='')}",
            "content-security-policy": "sandbox; default-src 'none'",
            "x-content-type-options": "nosniff",
        }
        is_valid = mimetype.isascii() and mimetype.isprintable() and "/" in mimetype
        return FileResponse(path, media_type=mimetype if is_valid else "application/octet-stream", headers=headers)

    def _new_name(self) -> str:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._delete_expired()
        self._check_room(self._folder)
        return secrets.token_urlsafe(_NAME_BYTES)

    def _check_room(self, folder: Path) -> None:
        """Raise `OSError` if the disk with *folder* is almost full."""
        total, _, free = self._disk_usage(folder if folder.exists() else folder.parent)
        if free < min(_RESERVED_BYTES, total * _RESERVED_SHARE):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

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
        for path in self._folder.iterdir():
            # a file without metadata is the partial upload of a killed process
            with suppress(OSError):
                if not path.suffix and path.stat().st_mtime < expired_before and not path.with_suffix(".json").exists():
                    path.unlink()
        for metadata in self._folder.glob("*.json"):
            with suppress(OSError, ValueError, KeyError):
                if json.loads(metadata.read_text())["made"] < expired_before:
                    metadata.with_suffix("").unlink(missing_ok=True)
                    metadata.unlink()

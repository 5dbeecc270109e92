"""Stored files of requests, and their expiry."""

from __future__ import annotations

import asyncio
import io
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.requests import ClientDisconnect

from pdkernel.common.clock import ManualClock
from pdkernel.server.endpoint.request_body import BodyTooLargeError
from pdkernel.server.uploads import UPLOAD_LIFETIME_S, UploadFolder


async def test_a_file_expires_after_thirty_minutes(tmp_path: Path) -> None:
    """A file has a name that cannot be guessed; an expired one is not found, and the next upload removes it from disk."""
    clock = ManualClock()
    uploads = UploadFolder(tmp_path, "http://localhost", clock)
    stored = await uploads.store_copy(io.BytesIO(b"mine"), filename="a.txt", mimetype="text/plain")
    name = stored.url.rpartition("/")[2]
    clock.advance(UPLOAD_LIFETIME_S)
    there = uploads.find(name)
    clock.advance(0.001)
    gone = uploads.find(name)
    await uploads.store_copy(io.BytesIO(b"other"), filename="b.txt", mimetype="text/plain")

    assert len(name) == 43
    assert there == (tmp_path / name, "a.txt", "text/plain")
    assert gone is None
    assert not (tmp_path / name).exists()
    assert len(list(tmp_path.iterdir())) == 2


async def test_only_expired_files_are_removed(tmp_path: Path) -> None:
    """An upload removes the files that have expired from disk, and keeps the younger ones."""
    clock = ManualClock()
    uploads = UploadFolder(tmp_path, "http://localhost", clock)
    names = []
    for _ in range(3):
        stored = await uploads.store_copy(io.BytesIO(b"mine"), filename="a.txt", mimetype="text/plain")
        names.append(stored.url.rpartition("/")[2])
        clock.advance(UPLOAD_LIFETIME_S * 0.6)

    assert [(tmp_path / name).exists() for name in names] == [False, True, True]
    assert [(tmp_path / f"{name}.json").exists() for name in names] == [False, True, True]


async def test_partial_uploads_of_a_killed_server_are_removed(tmp_path: Path) -> None:
    """A file without metadata is removed after the lifetime of a file; a younger one stays."""
    clock = ManualClock()
    uploads = UploadFolder(tmp_path, "http://localhost", clock)
    for name, age in (("partial", UPLOAD_LIFETIME_S + 1), ("in_progress", 1)):
        (tmp_path / name).write_bytes(b"half")
        written = clock.now().timestamp() - age
        os.utime(tmp_path / name, (written, written))
    await uploads.store_copy(io.BytesIO(b"other"), filename="b.txt", mimetype="text/plain")

    assert not (tmp_path / "partial").exists()
    assert (tmp_path / "in_progress").exists()


@pytest.mark.parametrize("reason", [ConnectionResetError, ClientDisconnect, BodyTooLargeError, asyncio.CancelledError])
async def test_an_interrupted_upload_leaves_nothing(tmp_path: Path, reason: type[BaseException]) -> None:
    """A body that breaks off, for whatever *reason*, and a file that cannot be read leave no file in the private folder."""

    async def broken_body() -> AsyncIterator[bytes]:
        yield b"half"
        raise reason

    class BrokenFile(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise reason

    uploads = UploadFolder(tmp_path / "uploads", "http://localhost", ManualClock())
    with pytest.raises(reason):
        await uploads.store_stream(broken_body(), mimetype="text/plain")
    with pytest.raises(reason):
        await uploads.store_copy(BrokenFile(), filename="a", mimetype="text/plain")

    assert list((tmp_path / "uploads").iterdir()) == []
    assert stat.S_IMODE((tmp_path / "uploads").stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("filename", "mimetype", "shown_name", "shown_type"),
    [
        ("a é.txt", "text/plain", "a%20%C3%A9.txt", "text/plain; charset=utf-8"),
        ("a/b", "image/png", "a%2Fb", "image/png"),
        ("", "image/png", "body", "image/png"),
        ("a", "image", "a", "application/octet-stream"),
        ("a", "image/é", "a", "application/octet-stream"),
        ("a", "image/png\r\nset-cookie: x", "a", "application/octet-stream"),
    ],
)
async def test_the_headers_of_a_file_prevent_its_rendering(
    tmp_path: Path, filename: str, mimetype: str, shown_name: str, shown_type: str
) -> None:
    """A browser downloads the file, by its encoded name or as `body`; an invalid media type is replaced."""
    uploads = UploadFolder(tmp_path, "http://localhost", ManualClock())
    stored = await uploads.store_copy(io.BytesIO(b"mine"), filename=filename, mimetype=mimetype)

    answer = await uploads.respond(stored.url.rpartition("/")[2])

    names = ("content-disposition", "content-security-policy", "x-content-type-options", "content-type")
    assert answer.status_code == 200
    assert [answer.headers[name] for name in names] == [
        f"attachment; filename*=UTF-8''{shown_name}",
        "sandbox; default-src 'none'",
        "nosniff",
        shown_type,
    ]


@pytest.mark.parametrize("name", ["unknown", "..", "a.json", "é"])
async def test_an_unknown_file_is_not_found(tmp_path: Path, name: str) -> None:
    """The answer for a name without a stored file, or outside of the names' alphabet, is 404."""
    (tmp_path / "a.json.json").write_text('{"made": 9e9, "filename": "", "mimetype": "text/plain"}')

    assert (await UploadFolder(tmp_path, "http://localhost", ManualClock()).respond(name)).status_code == 404


@pytest.mark.parametrize("fills", [False, True], ids=["full before", "filled meanwhile"])
async def test_files_leave_room_on_the_disk(tmp_path: Path, *, fills: bool) -> None:
    """A file that would fill the disk, where the database is, is refused and removed; others are stored."""
    free = iter([2 * 1024**3] * 3 if fills else [])
    uploads = UploadFolder(
        tmp_path / "uploads",
        "http://site",
        ManualClock(),
        disk_usage=lambda _: (100 * 1024**3, 0, next(free, 1024**3 - 1)),
    )

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(8):
            yield bytes(1024**2)

    with pytest.raises(OSError, match="No space left"):
        await uploads.store_stream(chunks(), mimetype="text/plain")

    assert list((tmp_path / "uploads").iterdir()) == []

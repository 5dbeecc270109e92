"""Stored files of requests, and their expiry."""

from __future__ import annotations

import io
import os
from pathlib import Path

from pdkernel.clock import ManualClock
from pdkernel.server.uploads import UPLOAD_LIFETIME_S, UploadFolder


async def test_a_file_expires_after_thirty_minutes(tmp_path: Path) -> None:
    """An expired file is not found, and the next upload removes the file from disk."""
    clock = ManualClock()
    uploads = UploadFolder(tmp_path, "http://localhost", clock)
    stored = await uploads.store_copy(io.BytesIO(b"mine"), filename="a.txt", mimetype="text/plain")
    name = stored.url.rpartition("/")[2]
    clock.advance(UPLOAD_LIFETIME_S - 1)
    there = uploads.find(name)
    clock.advance(2)
    gone = uploads.find(name)
    await uploads.store_copy(io.BytesIO(b"other"), filename="b.txt", mimetype="text/plain")

    assert there == (tmp_path / name, "a.txt", "text/plain")
    assert gone is None
    assert not (tmp_path / name).exists()
    assert len(list(tmp_path.iterdir())) == 2


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

"""Opens a new project by a copy of an empty one, which takes a third of the time that its creation takes."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from pdkernel.common.clock import Clock, ManualClock
from pdkernel.storage import Project


@cache
def _empty_project() -> Path:
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    Project.open(folder / ".pdkernel", clock=ManualClock()).close()
    return folder / ".pdkernel"


def open_project(
    folder: Path, *, database_url: str | None = None, key_file: Path | None = None, clock: Clock
) -> Project:
    """Open the project in *folder*, or at *database_url*; all new projects of this process have one id and one key."""
    if database_url is None and key_file is None and not folder.exists():
        shutil.copytree(_empty_project(), folder)
    return Project.open(folder, database_url=database_url, key_file=key_file, clock=clock)

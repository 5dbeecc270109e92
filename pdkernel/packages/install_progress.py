"""Progress of an installation: each second a line with what is installed so far; and the lock of a folder of packages."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pdkernel.common.blocking import run_blocking
from pdkernel.errors import format_count

ProgressCallback = Callable[[str], None]

UPDATE_INTERVAL_S = 1.0
_MAX_MEASURING_SHARE = 0.1
"""The share of the time that is spent on measuring: a large folder is measured less often."""


class ProgressUpdate(str):
    """A line of progress that replaces the update before it."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Measurement:
    """
    The state of an installation.

    Attributes:
        what: What is being done: `installing axios`.
        noun: What is counted: `package`.
        done: The number of installed packages, or None if it is not known.
        total: The number of all packages, or None.
        done_bytes: The bytes on disk or downloaded so far.
        total_bytes: The bytes of all packages, or None.
    """

    what: str
    noun: str = "package"
    done: int | None = None
    total: int | None = None
    done_bytes: int = 0
    total_bytes: int | None = None

    def describe(self, elapsed_s: float) -> str:
        """Return the state in one line: `installing axios: 3 of 9 packages, 1.2 MB, 4 s, about 8 s left`."""
        facts = []
        if self.total is not None:
            facts.append(f"{self.done or 0:,} of {format_count(self.total, self.noun)}")
        elif self.done:
            facts.append(format_count(self.done, self.noun))
        if self.total_bytes:
            facts.append(f"{self.done_bytes / 1e6:.1f} of {self.total_bytes / 1e6:.1f} MB")
        elif self.done_bytes:
            facts.append(f"{self.done_bytes / 1e6:.1f} MB")
        facts.append(f"{elapsed_s:.0f} s")
        done, total = (self.done_bytes, self.total_bytes) if self.total_bytes else (self.done, self.total)
        if done and total and done < total:
            facts.append(f"about {max(1, round(elapsed_s * (total - done) / done))} s left")
        return f"{self.what}: {', '.join(facts)}"


@contextlib.asynccontextmanager
async def report_each_second(
    measure: Callable[[], Measurement], report: ProgressCallback, *, interval_s: float = UPDATE_INTERVAL_S
) -> AsyncIterator[None]:
    """Report the state of an installation while the body of `async with` runs; *measure* is called in a thread."""
    began = time.monotonic()

    async def repeat() -> None:
        pause_s = interval_s
        while True:
            await asyncio.sleep(pause_s)
            started = time.monotonic()
            measured = await run_blocking(measure)
            pause_s = max(interval_s, (time.monotonic() - started) / _MAX_MEASURING_SHARE)
            report(ProgressUpdate(measured.describe(time.monotonic() - began)))

    task = asyncio.create_task(repeat())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


@contextlib.asynccontextmanager
async def installation_lock(folder: Path, progress: ProgressCallback) -> AsyncIterator[None]:
    """Lock *folder*, which is created if it is missing, against installations by other processes and tasks."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        is_reported = False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not is_reported:
                    progress("Waiting for another process that installs packages")
                is_reported = True
                await asyncio.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


def measure_node_modules(folder: Path, what: str, *, total: int | None) -> Measurement:
    """Measure the packages that npm has written to *folder*."""
    count = size = 0
    for place, folders, files in os.walk(folder / "node_modules"):
        parent = os.path.basename(place)  # noqa: PTH119 - a path object for each folder would double the time
        if parent == "node_modules":
            count += sum(not name.startswith(("@", ".")) for name in folders)
        elif parent.startswith("@"):
            count += len(folders)
        size += sum(_sizes(place, files))
    return Measurement(what, done=count, total=total, done_bytes=size)


def measure_go_modules(folder: Path, what: str) -> Measurement:
    """Measure the archives of modules in *folder*, Go's cache of downloads."""
    count = size = 0
    for place, _, files in os.walk(folder):
        archives = [name for name in files if name.endswith(".zip")]
        count += len(archives)
        size += sum(_sizes(place, archives))
    return Measurement(what, "module", done=count, done_bytes=size)


def _sizes(place: str, names: list[str]) -> Iterator[int]:
    for name in names:
        with contextlib.suppress(OSError):  # npm and Go move files while they work
            yield os.lstat(f"{place}/{name}").st_size

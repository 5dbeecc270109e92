"""Lines about an installation: what is installed so far, the elapsed time, and the time left where it is known."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pdkernel.packages.install_progress import (
    Measurement,
    ProgressUpdate,
    installation_lock,
    measure_go_modules,
    measure_node_modules,
    report_each_second,
)


@pytest.mark.parametrize(
    ("measured", "line"),
    [
        (Measurement("resolving six"), "resolving six: 8 s"),
        (Measurement("installing got", total=9), "installing got: 0 of 9 packages, 8 s"),
        (
            Measurement("installing got", done=3, total=9, done_bytes=1_230_000),
            "installing got: 3 of 9 packages, 1.2 MB, 8 s, about 16 s left",
        ),
        (Measurement("installing got", done=9, total=9), "installing got: 9 of 9 packages, 8 s"),
        (Measurement("installing got", done=1), "installing got: 1 package, 8 s"),
        (
            Measurement("downloading b", done=1, total=2, done_bytes=30_000_000, total_bytes=40_000_000),
            "downloading b: 1 of 2 packages, 30.0 of 40.0 MB, 8 s, about 3 s left",
        ),
    ],
)
def test_a_line_has_what_is_known(measured: Measurement, line: str) -> None:
    """A line has the packages and bytes so far, of how many, the elapsed time and the time left, as far as they are known."""
    assert measured.describe(8.0) == line


async def test_updates_are_reported_until_the_end() -> None:
    """While the installation goes on, updates are reported; none after its end or its failure."""
    lines: list[str] = []
    enough = asyncio.Event()

    def report(line: str) -> None:
        lines.append(line)
        if len(lines) == 2:
            enough.set()

    async def install() -> None:
        async with report_each_second(lambda: Measurement("installing got"), report, interval_s=0.01):
            await enough.wait()
            raise ValueError("failed")

    with pytest.raises(ValueError, match="failed"):
        await install()
    count = len(lines)
    await asyncio.sleep(0.05)

    assert len(lines) == count
    assert all(isinstance(line, ProgressUpdate) and line.startswith("installing got: ") for line in lines)


def test_packages_of_npm_are_counted(tmp_path: Path) -> None:
    """Packages with and without a scope, and packages of packages, are counted; npm's own folders are not."""
    for package in ("got", "@slack/web-api", "@slack/types", "got/node_modules/form-data", ".bin"):
        folder = tmp_path / "node_modules" / package
        folder.mkdir(parents=True)
        (folder / "index.js").write_text("x" * 10)

    measured = measure_node_modules(tmp_path, "installing got", total=None)

    assert (measured.done, measured.done_bytes) == (4, 50)


def test_modules_of_go_are_counted(tmp_path: Path) -> None:
    """The archives of downloaded modules are counted, with their sizes."""
    place = tmp_path / "download" / "example.org" / "text" / "@v"
    place.mkdir(parents=True)
    (place / "v1.0.0.zip").write_bytes(b"x" * 10)
    (place / "v1.0.0.mod").write_bytes(b"x")

    measured = measure_go_modules(tmp_path, "compiling one.go")

    assert measured.describe(2.0) == "compiling one.go: 1 module, 0.0 MB, 2 s"


async def test_an_installation_says_once_that_it_waits(tmp_path: Path) -> None:
    """A task that waits for the folder's lock reports one line, and gets the lock when the first one has ended."""
    order: list[str] = []

    async def install() -> None:
        async with installation_lock(tmp_path / "packages", order.append):
            order.append("second")

    async with installation_lock(tmp_path / "packages", order.append):
        waiting = asyncio.create_task(install())
        await asyncio.sleep(0.3)
        order.append("first")
    await waiting

    assert order == ["Waiting for another process that installs packages", "first", "second"]

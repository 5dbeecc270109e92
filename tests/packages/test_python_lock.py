"""The lock file of Python packages: reading, choosing and writing blocks."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pdkernel.errors import ProjectError
from pdkernel.packages.python_lock import LockBlock, Pin, PythonLock, describe_machine, describe_python, parse_pins

HASH = "a" * 64
EARLIER = f"Python {sys.version_info[0]}.{sys.version_info[1] - 1} or later"
LATER = f"Python {sys.version_info[0]}.{sys.version_info[1] + 1} or later"


def block(machine: str, version: str = "1.0") -> LockBlock:
    """A block with one package."""
    return LockBlock("tiny for tiny", machine, (Pin("tiny", version, (HASH, "b" * 64), "sys_platform != 'win32'"),))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Versions, markers and all hashes are read as they were written."""
    lock = PythonLock(tmp_path / "lock")
    blocks = {block(describe_python()), block("Python 3.9, moon m1", "2.0")}
    for each in blocks:
        lock.write(each)

    assert set(lock.read()) == blocks


@pytest.mark.parametrize(
    ("machines", "chosen"),
    [
        ([LATER, "Python 3.11, moon m1"], None),
        ([EARLIER], EARLIER),
        ([EARLIER, LATER, describe_python()], describe_python()),
        ([describe_python(), describe_machine()], describe_machine()),
    ],
)
def test_the_best_block_for_this_machine_is_found(tmp_path: Path, machines: list[str], chosen: str | None) -> None:
    """A block for this machine only precedes one for all platforms, and a later version of Python an earlier one."""
    lock = PythonLock(tmp_path / "lock")
    for machine in machines:
        lock.write(block(machine))

    found = lock.find("tiny for tiny")

    assert (found.machine if found else None) == chosen


def test_a_merge_marker_between_hashes_is_named(tmp_path: Path) -> None:
    """The error has the number of the marker's line."""
    lock = PythonLock(tmp_path / "lock")
    lock.write(block(describe_python()))
    lines = lock.path.read_text().splitlines()
    number = next(index for index, line in enumerate(lines) if "--hash" in line) + 1
    lock.path.write_text("\n".join([*lines[:number], "=======", *lines[number:]]))

    with pytest.raises(ProjectError, match=f"line {number + 1},"):
        lock.read()


def test_the_file_has_a_limited_number_of_blocks(tmp_path: Path) -> None:
    """Beyond the limit, a new block replaces another one; a block that is written again replaces itself."""
    lock = PythonLock(tmp_path / "lock")
    blocks = [replace(block(describe_python()), requirements=f"tiny{number:03}") for number in range(62)]
    for each in blocks:
        lock.write(each)
    full = lock.read()
    newer = replace(blocks[-1], pins=block(describe_python(), "2.0").pins)

    lock.write(newer)

    assert len(full) == 60
    assert blocks[-1] in full
    assert set(lock.read()) == {*full, newer} - {blocks[-1]}


def test_a_package_without_a_hash_is_refused() -> None:
    """A registry that publishes no hashes gives lines without one, which are named."""
    with pytest.raises(ValueError, match=r"'tiny==1\.0' is not a package with its version and SHA-256"):
        parse_pins("tiny==1.0\n")

"""Programs that see certain files only."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pdkernel.runtimes import confine, isolation

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")

LOOK = """
import os
import sys
from pdkernel.runtimes.confine import confine
read, write, closed, landlock = sys.argv[1:]
confine([read, *{path for path in sys.path if path.startswith("/") and os.path.exists(path)}], [write], landlock=landlock == "True")
for path in (read + "/file", write + "/file", closed, "/proc/self/environ"):
    try:
        print(len(open(path).read()) > 0, end=" ")
    except OSError:
        print(False, end=" ")
for path in (write + "/made", read + "/made"):
    try:
        open(path, "w").write("made")
        print(True, end=" ")
    except OSError:
        print(False, end=" ")
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with the folders `read` and `write` and the file `closed`."""
    with tempfile.TemporaryDirectory(prefix="pdkernel-test-", dir="/var/tmp") as folder:
        for name in ("read", "write"):
            Path(folder, name).mkdir()
            Path(folder, name, "file").write_text("open")
        Path(folder, "closed").write_text("closed")
        yield Path(folder)


@pytest.mark.parametrize("landlock", [True, False])
def test_process_sees_its_files_only(place: Path, landlock: bool) -> None:
    """A confined process reads and changes the files that it is given, and neither others nor its environment."""
    if landlock and not isolation.landlock_version():
        pytest.skip("NOT RUN: Landlock is not available")
    arguments = [str(place / "read"), str(place / "write"), str(place / "closed"), str(landlock)]

    done = subprocess.run([sys.executable, "-c", LOOK, *arguments], capture_output=True, text=True, check=False)

    assert (done.stdout.split(), done.stderr) == (["True", "True", "False", "False", "True", "False"], "")


def test_program_is_executed(place: Path) -> None:
    """A program starts with its arguments, and an error of the system ends it."""
    files = f'{{"read": [], "write": ["{place}/write"]}}'
    command = [
        sys.executable,
        "-I",
        "-S",
        confine.__file__,
        files,
        "/bin/sh",
        "-c",
        f"echo made > {place}/write/made; cat {place}/closed",
    ]

    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))

    assert (done.returncode, done.stdout) == (1, "")
    assert (place / "write" / "made").read_text() == "made\n"

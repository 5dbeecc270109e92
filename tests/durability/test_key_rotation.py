"""A rotation of the project's key that is killed at any point leaves a project that opens with one of the two keys."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from pdkernel.storage import Project
from tests.cli.fork_server import ForkServer
from tests.durability.faults import KILL_IN_ROTATION

MAX_POINTS = 40


def test_a_killed_rotation_leaves_one_key(fork_server: ForkServer, tmp_path: Path) -> None:
    """
    Whatever the point of the kill, the next command opens the project, and reads and writes every value with the key file.

    Before the commit the old key stays, after it the new one is used. No second file with a key is left.
    """
    folder = tmp_path / ".pdkernel"
    with Project.open(folder) as project:
        project.variables.set("A", "1")
        project.variables.set("B", "2")
    replaced = []
    for number in range(1, MAX_POINTS):
        before = (folder / "key").read_bytes()
        done = fork_server.run(
            ["keys", "rotate", "--yes"],
            folder=tmp_path,
            environ={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
            before=(KILL_IN_ROTATION, number),
        )
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr

        with Project.open(folder) as project:
            project.variables.set("LAST", str(number))
            values = project.variables.values()

        assert values == {"A": "1", "B": "2", "LAST": str(number)}
        assert not list(folder.glob("*.new"))
        assert (folder / "key").stat().st_mode & 0o777 == 0o600
        replaced.append((folder / "key").read_bytes() != before)
    else:
        raise AssertionError("the rotation never ended")

    assert replaced == sorted(replaced)  # once a kill is late enough, the new key stays
    assert replaced.count(False) >= 6
    assert replaced.count(True) >= 3

"""Ending process trees."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from pdkernel.runtimes import process_tree


def test_members_are_found_by_group_parent_and_mark() -> None:
    """Group, parent or tag finds each process; this process is never included."""
    mark = f"test-{os.getpid()}"
    shell = "setsid sleep 1000 & env -i sleep 1000 & sleep 1000 & echo up; wait"
    with subprocess.Popen(
        ["sh", "-c", shell],
        env={**os.environ, process_tree.PROCESS_TAG_VARIABLE: mark},
        start_new_session=True,
        stdout=subprocess.PIPE,
    ) as root:
        assert root.stdout is not None
        root.stdout.readline()

        found = process_tree.find_processes([root.pid], [mark])
        process_tree.kill_processes([root.pid], [mark])
        root.stdout.close()

    assert len(found) == 4
    assert os.getpid() not in found
    assert process_tree.find_processes([root.pid], [mark]) == set()


def test_the_mark_finds_a_daemon() -> None:
    """A daemon that has forked twice is found by its environment."""
    mark = f"orphan-{os.getpid()}"
    said = subprocess.run(
        ["sh", "-c", "(setsid sleep 1000 >/dev/null 2>&1 & sleep 0.2; echo $!)"],
        env={**os.environ, process_tree.PROCESS_TAG_VARIABLE: mark},
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    found = process_tree.find_processes([], [mark])
    process_tree.kill_processes([], [mark])

    assert len(found) == 1
    assert said.strip()
    assert process_tree.find_processes([], [mark]) == set()


def test_programs_for_other_interpreters_import_only_the_standard_library() -> None:
    """A worker's Python has only its standard library."""
    script = (
        "import sys, pathlib, ast\n"
        "for path in pathlib.Path(sys.argv[1]).glob('*.py'):\n"
        "    for node in ast.parse(path.read_text()).body:\n"
        "        names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ''] if isinstance(node, ast.ImportFrom) else []\n"
        "        assert not any(name.startswith('pdkernel') for name in names), (path, names)\n"
        "print('clean')"
    )
    folder = str(Path(process_tree.__file__).parent)

    said = subprocess.run(
        [sys.executable, "-I", "-c", script, folder], capture_output=True, text=True, check=True
    ).stdout

    assert said == "clean\n"

"""Ending process trees."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from pdkernel.runtimes import process_tree, warden


def test_members_are_found_by_group_parent_and_mark() -> None:
    """Group, parent or tag finds each process; this process is never included."""
    mark = secrets.token_hex(16)  # no other mark begins with it
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


def test_the_session_finds_a_job_with_a_group_of_its_own() -> None:
    """A background job that has its own group, lost its parent and cleared its environment is found by its session."""
    shell = "set -m; (env -i sleep 1000 & echo $!); read"
    with subprocess.Popen(
        ["bash", "-c", shell], start_new_session=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as root:
        assert root.stdout is not None
        job = psutil.Process(int(root.stdout.readline()))
        while psutil.Process(root.pid).children() or job.name() != "sleep":  # its parent has not ended yet
            pass

        found = process_tree.find_processes([root.pid])
        process_tree.kill_processes([root.pid])

    assert found == {root.pid, job.pid}
    assert process_tree.find_processes([root.pid]) == set()


def test_the_mark_finds_a_daemon() -> None:
    """A daemon that has forked twice is found by its environment."""
    mark = secrets.token_hex(16)
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


def test_signals_do_not_end_the_warden() -> None:
    """A service manager signals the warden, too: the warden stays until its owner ends, then ends the steps."""
    command = ["sh", "-c", 'exec "$0" -I -S "$1" 3<&0', sys.executable, str(warden.__file__)]
    with (
        subprocess.Popen(["sleep", "1000"], start_new_session=True) as step,
        subprocess.Popen(command, stdin=subprocess.PIPE) as guard,
    ):
        try:
            assert guard.stdin is not None
            # more than a pipe holds: the write ends when the warden reads, and so ignores signals already
            guard.stdin.write(f"+ {step.pid} none\n".encode() * 20_000)

            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                guard.send_signal(number)
            guard.stdin.close()
            status = guard.wait()
        finally:
            step.terminate()  # without effect on a step that the warden has ended

    assert (status, step.returncode) == (0, -signal.SIGKILL)


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

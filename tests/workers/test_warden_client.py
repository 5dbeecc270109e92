"""The warden ends the processes of steps when their owner ends."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pdkernel.model import Language
from pdkernel.runtimes import process_tree

ROOT = Path(__file__).parents[2]
SAY = process_tree.PROCESS_TAG_VARIABLE
STEPS: dict[str, dict[Language, str]] = {
    "busy": {
        "python": f"import os\ndef handler(pd):\n    print(os.environ['{SAY}'])\n    while True: pass\n",
        "node": f"export default {{ run() {{ console.log(process.env.{SAY}); for (;;); }} }}",
        "bash": f"echo ${SAY}; while :; do :; done",
    },
    "grandchildren": {
        "python": "import subprocess\ndef handler(pd):\n"
        f"    subprocess.run('setsid sleep 1000 & (sleep 1000 & sleep 1000) & sleep 0.2; echo ${SAY}; sleep 1000', shell=True)\n",
        "node": "import { spawnSync } from 'child_process';\nexport default { run() {\n"
        f"spawnSync('setsid sleep 1000 & (sleep 1000 & sleep 1000) & sleep 0.2; echo ${SAY}; sleep 1000', {{ shell: true, stdio: 'inherit' }}) }} }}",
        "bash": f"setsid sleep 1000 & (sleep 1000 & sleep 1000) & sleep 0.2; echo ${SAY}; sleep 1000",
    },
}


def processes_of(mark: str, count: int) -> set[int]:
    """The processes with *mark*, when there are *count* of them: a shell starts some in the background."""
    deadline = time.monotonic() + 60
    while len(found := process_tree.find_processes([], [mark])) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


def left_of(mark: str) -> set[int]:
    """The processes with *mark* that do not end; without the warden they would last a thousand seconds."""
    deadline = time.monotonic() + 60
    while (left := process_tree.find_processes([], [mark])) and time.monotonic() < deadline:
        time.sleep(0.01)
    return left


@pytest.mark.parametrize("kind", ["busy", "grandchildren"])
@pytest.mark.parametrize("language", ["python", "node", "bash"])
def test_kill_9_of_the_owner_ends_the_processes_of_the_step(tmp_path: Path, language: Language, kind: str) -> None:
    """The warden sees the end of the pipe and ends every process, in any process group."""
    owner = subprocess.Popen(
        [sys.executable, "-m", "tests.workers.owner", json.dumps([language, STEPS[kind][language], str(tmp_path)])],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    with owner:
        assert owner.stdout is not None
        mark = owner.stdout.readline().strip()
        during = processes_of(mark, 1 if kind == "busy" else 5)

        os.kill(owner.pid, signal.SIGKILL)
        owner.wait()
        left = left_of(mark)

    assert len(during) >= (1 if kind == "busy" else 5)
    assert left == set()


def test_sigterm_of_the_owner_ends_the_processes_of_the_step(tmp_path: Path) -> None:
    """SIGTERM, which runs no cleanup, has the same effect."""
    owner = subprocess.Popen(
        [sys.executable, "-m", "tests.workers.owner", json.dumps(["node", STEPS["busy"]["node"], str(tmp_path)])],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    with owner:
        assert owner.stdout is not None
        mark = owner.stdout.readline().strip()

        owner.terminate()
        owner.wait()
        left = left_of(mark)

    assert left == set()


def test_registered_folders_are_removed(tmp_path: Path) -> None:
    """A folder that is still registered is removed at the end of its owner, also with an unusual name."""
    doomed, kept = tmp_path / "with blank\nand line", tmp_path / "kept"
    for folder in (doomed, kept):
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "file").write_text("x")
    program = (
        "import os, sys, pathlib\nfrom pdkernel.workers import WARDEN\n"
        "doomed, kept = map(pathlib.Path, sys.argv[1:])\n"
        "WARDEN.register_folder(doomed)\nWARDEN.register_folder(kept)\nWARDEN.unregister_folder(kept)\n"
        "os.kill(os.getpid(), 9)\n"
    )

    subprocess.run([sys.executable, "-c", program, doomed, kept], cwd=ROOT, check=False)
    deadline = time.monotonic() + 60
    while doomed.exists() and time.monotonic() < deadline:
        time.sleep(0.01)

    assert not doomed.exists()
    assert (kept / "deep" / "file").exists()


def test_files_behind_a_mount_stay_when_the_owner_is_killed(tmp_path: Path, apart: tuple[str, ...]) -> None:
    """The warden removes files beside a mount, and no file behind the mount."""
    doomed, outside = tmp_path / "doomed", tmp_path / "outside"
    for file in (doomed / "beside", doomed / "mounted" / "below", outside / "file"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")
    program = (
        "import os, sys, pathlib, subprocess\nfrom pdkernel.workers import WARDEN\n"
        "doomed, outside = map(pathlib.Path, sys.argv[1:])\n"
        "subprocess.run(['mount', '--bind', outside, doomed / 'mounted'], check=True)\n"
        "WARDEN.register_folder(doomed)\nos.kill(os.getpid(), 9)\n"
    )

    subprocess.run([*apart, sys.executable, "-c", program, doomed, outside], cwd=ROOT, check=False)
    deadline = time.monotonic() + 60
    while (doomed / "beside").exists() and time.monotonic() < deadline:
        time.sleep(0.01)

    assert not (doomed / "beside").exists()
    assert (outside / "file").exists()


def wait_until_removed(*folders: Path) -> list[Path]:
    """Return which of *folders* the warden does not remove."""
    deadline = time.monotonic() + 60
    while (left := [folder for folder in folders if folder.exists()]) and time.monotonic() < deadline:
        time.sleep(0.01)
    return left


def test_warden_that_was_killed_is_replaced(tmp_path: Path) -> None:
    """The next warden ends the processes and removes the folders that were registered with the warden before."""
    before, after, tag = tmp_path / "before", tmp_path / "after", secrets.token_hex(16)
    for folder in (before, after):
        folder.mkdir()
    program = (
        "import os, sys, pathlib, psutil, subprocess\nfrom pdkernel.workers import WARDEN\n"
        "before, after = map(pathlib.Path, sys.argv[1:3])\nprocess = subprocess.Popen(['sleep', '1000'], "
        f"env={{**os.environ, {SAY!r}: sys.argv[3]}}, start_new_session=True)\n"
        "WARDEN.register(process.pid, sys.argv[3])\nWARDEN.register_folder(before)\n"
        "[warden] = [each for each in psutil.Process().children() if 'warden.py' in each.cmdline()[-1]]\n"
        "count = len(os.listdir('/proc/self/fd'))\n"
        "warden.kill()\nwarden.wait()\nWARDEN.register_folder(after)\n"
        "print(len(os.listdir('/proc/self/fd')) - count, flush=True)\nos.kill(os.getpid(), 9)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, before, after, tag], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )

    assert wait_until_removed(before, after) == []
    assert left_of(tag) == set()
    assert done.stdout == "0\n"  # the pipe to the first warden is closed


def test_warden_does_not_wait_for_a_fork_of_its_owner(tmp_path: Path) -> None:
    """The folders of a process that is killed are removed while its fork goes on; the fork removes what it registered itself."""
    doomed, later = tmp_path / "doomed", tmp_path / "later"
    for folder in (doomed, later):
        folder.mkdir()
    program = (
        "import os, pathlib, signal, sys\nfrom pdkernel.workers import WARDEN\n"
        "doomed, later = map(pathlib.Path, sys.argv[1:])\nWARDEN.register_folder(doomed)\n"
        "WARDEN._lock.acquire()  # as another thread does\nchild = os.fork()\nsignal.alarm(30)\n"
        "if child == 0:\n    WARDEN.register_folder(later)\n    print(flush=True)\n"
        "sys.stdin.read()\nos._exit(0)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, doomed, later], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdin is not None
        assert owner.stdout is not None
        owner.stdout.readline()
        owner.kill()
        left, stayed = wait_until_removed(doomed), later.exists()
        owner.stdin.close()

    assert left == []
    assert stayed
    assert wait_until_removed(later) == []

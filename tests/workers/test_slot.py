"""The folder of a slot: the files of one run at a time."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from pdkernel.workers import WorkerPool
from pdkernel.workers.calls import WorkerKey
from pdkernel.workers.isolation import IsolationPlan, StepAccess, write_account
from pdkernel.workers.slot import WorkerSlot
from pdkernel.workers.warden_client import WARDEN
from tests.workers.conftest import OpenRun


async def test_files_of_a_run_are_removed_with_the_run(open_run: OpenRun, names_in_tmp: frozenset[str]) -> None:
    """The next run in the same processes finds an empty working folder."""
    first = await open_run()
    await first.run("bash", "mkdir -p a/b; touch .hidden a/b/c; ln -s /nowhere link")
    folder = first.workers.ensure_tmp_folder()
    await first.workers.release()
    after_release = set(folder.rglob("*"))

    second = await open_run()
    listed = await second.run("bash", "echo all=$(LC_ALL=C ls -A) >> $PIPEDREAM_EXPORTS")

    assert after_release == {folder / name for name in names_in_tmp}
    assert second.workers.ensure_tmp_folder() == folder
    assert listed.exports == {"all": " ".join(sorted(names_in_tmp))}


async def test_file_beside_the_working_folder_is_removed(open_run: OpenRun) -> None:
    """A step that writes into the folder of its slot, outside of the working folder, leaves no file."""
    first = await open_run()
    await first.run("bash", "mkdir ../mine; touch ../mine/file")
    folder = first.workers.ensure_tmp_folder().parent

    await first.workers.release()

    assert not (folder / "mine").exists()


async def test_run_without_files_keeps_the_working_folder(open_run: OpenRun) -> None:
    """A run that writes no file costs no removal and no creation of a folder."""
    first = await open_run()
    await first.run("python", "def handler(pd):\n    return 1\n")
    folder = first.workers.ensure_tmp_folder()

    await first.workers.release()

    assert folder.is_dir()


@pytest.mark.parametrize("files", [[], ["file"]])
async def test_step_may_replace_its_working_folder(open_run: OpenRun, tmp_path: Path, files: list[str]) -> None:
    """A link in place of the working folder is removed with the run; its target stays."""
    target = tmp_path / "target"
    target.mkdir()
    for name in files:
        (target / name).touch()
    first = await open_run()
    await first.run("bash", f"cd {first.workers.ensure_tmp_folder().parent}; mv tmp old; ln -s {target} tmp")
    was_replaced = first.workers.ensure_tmp_folder().is_symlink()
    await first.workers.release()

    second = await open_run()
    folder = second.workers.ensure_tmp_folder()

    assert was_replaced
    assert [path.name for path in target.iterdir()] == files
    assert not folder.is_symlink()
    assert list(folder.iterdir()) == []


async def test_concurrent_runs_have_separate_folders(open_run: OpenRun, names_in_tmp: frozenset[str]) -> None:
    """A run does not find the files of another run that executes at the same time, not even of the same user."""
    one, other = await open_run(external_user="ada"), await open_run(external_user="ada")
    await one.run("bash", "touch mine")

    assert {path.name for path in one.workers.ensure_tmp_folder().iterdir()} == {"mine", *names_in_tmp}
    assert list(other.workers.ensure_tmp_folder().iterdir()) == []


async def test_pool_removes_every_folder(open_run: OpenRun) -> None:
    """The end of the pool removes the folders of idle slots, and of a run that did not end; until then, the warden would."""
    pool = WorkerPool()
    folders = []
    for user in ("ada", "grace"):
        bench = await open_run(of=pool, external_user=user)
        await bench.run("bash", "touch file")
        folders.append(bench.workers.ensure_tmp_folder().parent)
        if user == "ada":
            await bench.workers.release()

    was_registered = folders[0].parent in WARDEN._folders
    await pool.close()

    assert [folder.exists() for folder in folders] == [False, False]
    assert was_registered
    assert folders[0].parent not in WARDEN._folders


async def test_only_the_worker_reads_the_files_of_a_run(open_run: OpenRun) -> None:
    """Other users of this machine do not enter the folder of a slot, and cannot list the folder of the pool."""
    bench = await open_run()
    tmp = bench.workers.ensure_tmp_folder()

    modes = [stat.S_IMODE(folder.stat().st_mode) for folder in (tmp, tmp.parent, tmp.parent.parent)]

    assert modes == [0o700, 0o700, 0o711]


@pytest.mark.parametrize("in_its_place", ["folder", "link", "file", "nothing"])
def test_replaced_tmp_folder_is_not_used_again(tmp_path: Path, in_its_place: str) -> None:
    """Workers with a private `/tmp` keep the folder that they have mounted: a slot with another one is not clean."""
    key = WorkerKey("development", None, None, is_sandboxed=False, public_only=False)
    slot = WorkerSlot(key, tmp_path / "slot", StepAccess(), IsolationPlan(namespaces=True))
    slot.folder.mkdir()
    folder = slot.ensure_tmp_folder()
    before = slot.is_empty()

    folder.rename(tmp_path / "moved")
    if in_its_place == "folder":
        slot.ensure_tmp_folder()
    elif in_its_place == "link":
        folder.symlink_to(tmp_path / "moved")
    elif in_its_place == "file":
        folder.touch()

    assert before
    assert not slot.is_empty()
    assert not slot.clear()


def test_closed_slot_leaves_no_file(tmp_path: Path) -> None:
    """The folder of a slot and the accounts that its processes see are removed with the slot."""
    key = WorkerKey("development", None, None, is_sandboxed=False, public_only=False)
    plan = IsolationPlan(namespaces=True, uid=os.getuid(), gid=os.getgid())
    slot = WorkerSlot(key, tmp_path / "slot", StepAccess(), plan)
    slot.folder.mkdir()
    slot.ensure_tmp_folder()
    write_account(plan, slot.folder)

    slot.remove_folder()

    assert list(tmp_path.iterdir()) == []

"""The folder of a slot: the files of one run at a time."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from pdkernel.workers import WorkerPool
from pdkernel.workers.warden_client import WARDEN
from tests.workers.conftest import OpenRun


async def test_files_of_a_run_are_removed_with_the_run(open_run: OpenRun, names_in_tmp: frozenset[str]) -> None:
    """The next run in the same processes finds an empty working folder."""
    first = await open_run()
    await first.run("bash", "mkdir -p a/b; touch .hidden a/b/c; ln -s /nowhere link")
    folder = first.tmp_folder
    await first.workers.release()
    after_release = set(folder.rglob("*"))

    second = await open_run()
    listed = await second.run("bash", "echo all=$(LC_ALL=C ls -A) >> $PIPEDREAM_EXPORTS")

    assert after_release == {folder / name for name in names_in_tmp}
    assert second.tmp_folder == folder
    assert listed.exports == {"all": " ".join(sorted(names_in_tmp))}


async def test_file_beside_the_working_folder_is_removed(open_run: OpenRun) -> None:
    """A step that writes into the folder of its slot, outside of the working folder, leaves no file."""
    pool = WorkerPool(zygotes=None)  # nothing protects the folder of the slot then
    first = await open_run(of=pool)
    await first.run("bash", "mkdir ../mine; touch ../mine/file")
    folder = first.tmp_folder.parent

    await first.workers.release()
    left = (folder / "mine").exists()
    await pool.close()

    assert not left


async def test_run_without_files_keeps_the_working_folder(open_run: OpenRun) -> None:
    """A run that writes no file costs no removal and no creation of a folder."""
    first = await open_run()
    await first.run("python", "def handler(pd):\n    return 1\n")
    folder = first.tmp_folder

    await first.workers.release()

    assert folder.is_dir()


@pytest.mark.parametrize("files", [[], ["file"]])
async def test_step_may_replace_its_working_folder(open_run: OpenRun, tmp_path: Path, files: list[str]) -> None:
    """A link in place of the working folder is removed with the run; its target stays."""
    target = tmp_path / "target"
    target.mkdir()
    for name in files:
        (target / name).touch()
    pool = WorkerPool(zygotes=None)  # nothing protects the folder of the slot then
    first = await open_run(of=pool)
    await first.run("bash", f"cd {first.tmp_folder.parent}; mv tmp old; ln -s {target} tmp")
    was_replaced = first.tmp_folder.is_symlink()
    await first.workers.release()

    second = await open_run(of=pool)
    folder = second.tmp_folder
    left = list(folder.iterdir())
    await pool.close()

    assert was_replaced
    assert [path.name for path in target.iterdir()] == files
    assert not folder.is_symlink()
    assert left == []


async def test_concurrent_runs_have_separate_folders(open_run: OpenRun, names_in_tmp: frozenset[str]) -> None:
    """A run does not find the files of another run that executes at the same time, not even of the same user."""
    one, other = await open_run(external_user="ada"), await open_run(external_user="ada")
    await one.run("bash", "touch mine")

    assert {path.name for path in one.tmp_folder.iterdir()} == {"mine", *names_in_tmp}
    assert list(other.tmp_folder.iterdir()) == []


async def test_pool_removes_every_folder(open_run: OpenRun) -> None:
    """The end of the pool removes the folders of idle slots, and of a run that did not end; until then, the warden would."""
    pool = WorkerPool()
    folders = []
    for user in ("ada", "grace"):
        bench = await open_run(of=pool, external_user=user)
        await bench.run("bash", "touch file")
        folders.append(bench.tmp_folder.parent)
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
    tmp = bench.tmp_folder

    modes = [stat.S_IMODE(folder.stat().st_mode) for folder in (tmp, tmp.parent, tmp.parent.parent)]

    of_slot = 0o700 if bench.workers._acquired_slot.plan.uid is None else 0o711
    assert modes == [0o700, of_slot, 0o711]

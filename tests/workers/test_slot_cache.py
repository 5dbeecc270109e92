"""Slots: their workers end when they are not clean. Idle workers end when the workers of a pool use more memory than the budget."""

from __future__ import annotations

import asyncio
import logging
import resource
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import psutil
import pytest

from pdkernel.workers import WorkerPool
from pdkernel.workers.calls import WorkerKey
from pdkernel.workers.isolation import NO_PLAN, StepAccess
from pdkernel.workers.process_memory import find_memory_limit
from pdkernel.workers.slot_cache import SlotCache, WorkerSlot, default_memory_budget, max_idle_processes
from pdkernel.workers.slot_folder import SlotFolder
from pdkernel.workers.warden_client import WARDEN
from pdkernel.workers.worker import Worker
from tests.workers.conftest import OpenRun
from tests.workers.test_pool import PID

MB = 1 << 20


class Sizes:
    """
    Measures each process as 100 MB, unless a test gives it another size.

    Attributes:
        by_pid: The size of a process in bytes.
        measured: The processes of each measurement.
    """

    def __init__(self) -> None:
        self.by_pid: dict[int, int] = {}
        self.measured: list[tuple[int, ...]] = []

    def __call__(self, pids: Sequence[int]) -> int:
        """Return the size of *pids*."""
        self.measured.append(tuple(pids))
        return sum(self.by_pid.get(pid, 100 * MB) for pid in pids)


async def run_for(open_run: OpenRun, pool: WorkerPool, user: str) -> Any:
    """Run a Python step for *user*, wait for the measurement of its process, and return the process id."""
    bench = await open_run(of=pool, external_user_id=user)
    pid = (await bench.run("python", PID["python"])).exports["$return_value"]
    await bench.workers.release()
    await measured(pool)
    return pid


async def measured(pool: WorkerPool) -> None:
    """Wait until the pool measures no memory."""
    while (measuring := pool._slots._measuring) is not None:
        await measuring


async def until(holds: Callable[[], bool]) -> None:
    """Wait until *holds* returns True. Raises `TimeoutError`."""
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.01)


async def test_oldest_idle_worker_ends_first(open_run: OpenRun, caplog: pytest.LogCaptureFixture) -> None:
    """Beyond the budget, the worker that was idle for the longest time ends, and the log says whose it was and why."""
    caplog.set_level(logging.INFO, "pdkernel")
    pool = WorkerPool(memory_budget=250 * MB, measure_memory=Sizes())
    ada, grace = [await run_for(open_run, pool, user) for user in ("ada", "grace")]
    before = list(caplog.messages)

    await run_for(open_run, pool, "linus")

    again = [await run_for(open_run, pool, user) for user in ("grace", "ada")]
    await pool.close()
    assert before == []
    assert caplog.messages[0] == (
        "The idle workers of external user 'ada' in development end: the workers use 300 MB, and the budget (--memory) is "
        "250 MB."
    )
    assert again[0] == grace
    assert again[1] != ada


async def test_slot_that_ends_leaves_nothing(open_run: OpenRun) -> None:
    """The processes of a slot that is beyond the budget end, and its folder is removed, without a wait of other runs."""
    pool = WorkerPool(memory_budget=50 * MB, measure_memory=Sizes())
    bench = await open_run(of=pool, external_user_id="ada")
    await bench.run("python", PID["python"])
    (slot,) = pool._slots._slots
    pid, folder = slot.workers["python"].process.child.pid or 0, bench.tmp_folder.parent
    await bench.workers.release()
    await measured(pool)

    await until(lambda: not folder.exists() and not psutil.pid_exists(pid))
    left = list(pool._slots._slots), folder.exists(), psutil.pid_exists(pid)
    await pool.close()

    assert left == ([], False, False)


async def test_worker_of_an_active_run_does_not_end(open_run: OpenRun) -> None:
    """The memory of active runs counts, but only idle workers end."""
    pool = WorkerPool(memory_budget=150 * MB, measure_memory=Sizes())
    await run_for(open_run, pool, "ada")
    active = await open_run(of=pool, external_user_id="ada")
    pid = (await active.run("python", PID["python"])).exports["$return_value"]

    await run_for(open_run, pool, "grace")

    again = (await active.run("python", PID["python"])).exports["$return_value"]
    await active.workers.release()
    await pool.close()
    assert again == pid


async def test_budget_below_one_run_is_reported_once(open_run: OpenRun, caplog: pytest.LogCaptureFixture) -> None:
    """A budget that the workers of the active runs exceed is a warning with the fix, not an error."""
    pool = WorkerPool(memory_budget=MB, measure_memory=Sizes())
    pids = [await run_for(open_run, pool, "ada") for _ in range(3)]
    await pool.close()

    assert len(set(pids)) == 3
    [warning] = caplog.messages
    assert warning.startswith("The memory budget of 1 MB (--memory) is less than the ")
    assert warning.endswith("Raise --memory, or lower --max-active-runs.")


async def test_new_slots_are_measured_sparingly(open_run: OpenRun) -> None:
    """Of eight users who call once, one is measured; the others count as much."""
    sizes = Sizes()
    pool = WorkerPool(measure_memory=sizes)
    for number in range(9):
        await run_for(open_run, pool, f"user-{number}")
    used = pool._slots._used
    await pool.close()

    assert len(sizes.measured) == 2
    assert used == 900 * MB


async def test_memory_is_measured_sparingly(open_run: OpenRun) -> None:
    """A process is measured after its first run, and later only after few runs."""
    sizes = Sizes()
    pool = WorkerPool(measure_memory=sizes)
    for _ in range(40):
        await run_for(open_run, pool, "ada")
    [slot] = pool._slots._slots
    slot.runs = 126
    for _ in range(3):
        await run_for(open_run, pool, "ada")
    await pool.close()

    assert len(sizes.measured) == 7  # after run 1, 2, 4, 8, 16, 32 and 128


async def test_new_process_of_a_slot_is_measured(open_run: OpenRun) -> None:
    """A worker that a later run starts counts after that run."""
    sizes = Sizes()
    pool = WorkerPool(measure_memory=sizes)
    for _ in range(2):
        await run_for(open_run, pool, "ada")
    bench = await open_run(of=pool, external_user_id="ada")
    await bench.run("node", PID["node"])
    await bench.workers.release()
    await measured(pool)
    await pool.close()

    assert [len(pids) for pids in sizes.measured] == [1, 1, 2]


async def test_count_of_idle_processes_has_a_limit(open_run: OpenRun, caplog: pytest.LogCaptureFixture) -> None:
    """Idle processes keep files open, so their number is limited, regardless of their memory."""
    caplog.set_level(logging.INFO, "pdkernel")
    pool = WorkerPool()
    pool._slots = SlotCache(max_processes=1)
    ada, grace, again = [await run_for(open_run, pool, user) for user in ("ada", "grace", "grace")]
    await pool.close()

    assert again == grace != ada
    [message] = caplog.messages
    assert message == (
        "The idle workers of external user 'ada' in development end: 2 processes are idle, and the limit of open files "
        "permits 1."
    )


async def test_slots_without_workers_are_limited_too(open_run: OpenRun) -> None:
    """A slot whose runs start no worker keeps files open; the slot that was used last serves the next run."""
    pool = WorkerPool()
    pool._slots = SlotCache(max_processes=2)
    benches = [await open_run(of=pool) for _ in range(3)]
    folders = [bench.tmp_folder for bench in benches]
    for bench in benches:
        await bench.workers.release()

    await until(lambda: not folders[0].exists())
    left = [folder.exists() for folder in folders]
    again = (await open_run(of=pool)).tmp_folder
    await pool.close()

    assert (left, again) == ([False, True, True], folders[2])


async def test_a_slot_that_ends_while_it_is_measured_does_not_count(open_run: OpenRun) -> None:
    """The memory of a slot is forgotten with the slot, which is not measured later, and a measurement of others goes on."""
    sizes, measures, goes_on = Sizes(), threading.Event(), threading.Event()

    def measure(pids: Sequence[int]) -> int:
        measures.set()
        assert goes_on.wait(120)
        return sizes(pids)

    pool = WorkerPool(measure_memory=measure)
    bench = await open_run(of=pool)
    await bench.run("python", PID["python"])
    slot = bench.workers._acquired_slot
    await bench.workers.release()
    await asyncio.to_thread(measures.wait, 120)
    later = await open_run(of=pool, external_user_id="grace")
    await later.run("node", PID["node"])
    waiting = later.workers._acquired_slot
    await later.workers.release()
    for each in (slot, waiting):
        pool._slots.discard_idle(each)
    goes_on.set()
    await measured(pool)
    await run_for(open_run, pool, "ada")
    used = pool._slots._used
    await pool.close()

    assert used == 100 * MB
    assert [len(pids) for pids in sizes.measured] == [1]


@dataclass
class FakeWorker:
    """
    A worker whose process records in what order it is ended.

    Attributes:
        calls: The calls of all workers.
    """

    user: str
    calls: list[tuple[str, str]]

    @property
    def process(self) -> Self:
        """This worker is its own process."""
        return self

    child = process
    pid = None

    def send_kill(self) -> None:
        """Record the signal."""
        self.calls.append(("signal", self.user))

    def kill(self, *, wait: bool) -> None:
        """Record a wait for the end."""
        self.calls.append(("wait" if wait else "go on", self.user))


async def test_new_slots_count_as_much_as_the_last_measured_one(tmp_path: Path) -> None:
    """One of eight new slots is measured, and later ones count as much: the workers of today may need more memory."""
    sizes = iter((100 * MB, 300 * MB))
    cache = SlotCache(max_processes=100, memory_budget=10_000 * MB, measure=lambda _: next(sizes))
    used = []
    for number in range(1, 10):
        slot = WorkerSlot(
            WorkerKey("", str(number), None, False, False), SlotFolder(tmp_path, number, NO_PLAN), StepAccess()
        )
        slot.workers["python"] = cast("Worker", FakeWorker(str(number), []))
        cache.add(slot)
        cache.put_back(slot)
        while (measuring := cache._measuring) is not None:
            await measuring
        used.append(cache._used // MB)

    assert used == [100, 200, 300, 400, 500, 600, 700, 1000, 1300]


def test_idle_workers_end_at_the_same_time(tmp_path: Path) -> None:
    """A pool that closes sends the signal to each idle worker before it waits for the end of the first one."""
    cache, calls = SlotCache(max_processes=2, memory_budget=200 * MB), list[tuple[str, str]]()
    for user in ("ada", "grace"):
        slot = WorkerSlot(
            WorkerKey("development", user, None, False, False), SlotFolder(tmp_path, len(user), NO_PLAN), StepAccess()
        )
        slot.workers["python"] = cast("Worker", FakeWorker(user, calls))
        cache.add(slot)
        cache.add_spare(slot)

    cache.close()

    assert calls == [("signal", "ada"), ("signal", "grace"), ("wait", "ada"), ("wait", "grace")]
    assert cache.take(slot.key, slot.access) is None


@pytest.mark.parametrize(
    ("budget_mb", "max_processes", "fits"), [(64, 2, True), (63, 2, False), (64, 1, False), (1000, 2, True)]
)
def test_room_for_workers_that_are_started_ahead(budget_mb: int, max_processes: int, fits: bool) -> None:
    """A Python and a Node.js worker count as 64 MB until they are measured, and as two processes."""
    cache = SlotCache(memory_budget=budget_mb * MB, max_processes=max_processes)

    assert cache.has_room(None, ["python", "node"]) is fits


def test_the_default_budget_is_half_of_the_memory() -> None:
    """Without `--memory`, the other half is for the runs' steps, the server and the system."""
    assert default_memory_budget() == find_memory_limit() // 2


def test_limit_of_idle_processes_follows_the_limit_of_open_files() -> None:
    """A lower `ulimit -n` permits fewer idle processes."""
    before = max_idle_processes()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        lower = max_idle_processes()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert lower == 74
    assert soft <= 1024 or before > lower


@pytest.mark.parametrize(("maximum", "soft"), [("", 2000), ("1000", 1000), ("200", 256)])
def test_soft_limit_of_open_files_is_raised(maximum: str, soft: int) -> None:
    """The server may open as many files as the hard limit permits, up to a maximum; no limit is lowered."""
    code = (
        "import resource as r\nfrom pdkernel.workers import raise_descriptor_limit\n"
        f"r.setrlimit(r.RLIMIT_NOFILE, (256, 2000))\nraise_descriptor_limit({maximum})\nprint(r.getrlimit(r.RLIMIT_NOFILE))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == f"({soft}, 2000)"


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
    one, other = await open_run(external_user_id="ada"), await open_run(external_user_id="ada")
    await one.run("bash", "touch mine")

    assert {path.name for path in one.tmp_folder.iterdir()} == {"mine", *names_in_tmp}
    assert list(other.tmp_folder.iterdir()) == []


async def test_pool_removes_every_folder(open_run: OpenRun) -> None:
    """The end of the pool removes the folders of idle slots, and of a run that did not end; until then, the warden would."""
    pool = WorkerPool()
    folders = []
    for user in ("ada", "grace"):
        bench = await open_run(of=pool, external_user_id=user)
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

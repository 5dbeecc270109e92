"""The processes that a zygote starts: their ends, what they inherit, and what is left when a process of ours is killed."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

import psutil
import pytest

from pdkernel.egress import Gateway
from pdkernel.egress.sandbox import SandboxKind, can_redirect, can_use_landlock
from pdkernel.model import Language
from pdkernel.runtimes import process_tree
from pdkernel.runtimes.seccomp import SandboxPlan
from pdkernel.workers import WorkerPool
from pdkernel.workers.child_process import ProcessRequest, open_pipes
from pdkernel.workers.isolation import IsolationPlan, Mount
from pdkernel.workers.warden_client import WARDEN
from pdkernel.workers.zygote import ZYGOTE_PROGRAM, ZYGOTES, Zygotes, _send_fds, start_process
from tests.process_states import has_ended
from tests.waiting import until
from tests.workers.conftest import Bench, OpenRun
from tests.workers.test_worker import python, run_until_up

ROOT = Path(__file__).parents[2]
GONE_WITHIN_S = 20.0
"""Seconds for a busy machine; the processes would last a thousand seconds."""
DAEMON = "setsid env -i setsid sleep {marker} > /dev/null 2>&1 &"
"""A process that left its session and cleared its environment: only its namespace leads to it."""
STEPS: dict[str, str] = {
    "python": "import subprocess\ndef handler(pd):\n    subprocess.run({daemon!r} + ' sleep {marker} &', shell=True)\n"
    "    print('up', flush=True)\n    while True: pass\n",
    "node": "import {{ execSync }} from 'child_process';\nexport default {{ run() {{\n"
    "  execSync({daemon!r} + ' sleep {marker} > /dev/null 2>&1 &'); console.log('up'); for (;;); }} }}",
    "bash": "{daemon} sleep {marker} & echo up; while :; do :; done",
}


@pytest.fixture(autouse=True)
def require_namespaces() -> None:
    """These tests need a system that permits process namespaces."""
    zygote = ZYGOTES.get()
    if zygote is None or not zygote.isolation.namespaces:
        pytest.skip("this system permits no process namespaces")


def processes_with(marker: str) -> list[int]:
    """Return the processes that sleep for *marker* seconds: not the programs that start them."""
    return [each.pid for each in psutil.process_iter(["cmdline"]) if each.info["cmdline"] == ["sleep", marker]]


def runs(process: psutil.Process) -> bool:
    """Whether *process* has not ended; the system's first process may reap it late."""
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def arguments(process: psutil.Process) -> list[str]:
    """Return the arguments of *process*, or nothing if it has ended."""
    with suppress(psutil.NoSuchProcess):
        return process.cmdline()
    return []


def wait_until_gone(find: Callable[[], Any]) -> Any:
    """Return what *find* still finds after `GONE_WITHIN_S` seconds, or nothing as soon as it finds nothing."""
    deadline = time.monotonic() + GONE_WITHIN_S
    while (left := find()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return left


def descendants(pid: int, program: str) -> list[psutil.Process]:
    """Return the descendants of *pid* that run *program*."""
    return [
        child
        for child in psutil.Process(pid).children(recursive=True)
        if any(program in part for part in arguments(child))
    ]


def find_zygote(owner: int) -> psutil.Process:
    """Return the zygote of the process *owner*."""
    return next(each for each in psutil.Process(owner).children() if str(ZYGOTE_PROGRAM) in arguments(each))


def find_victim(owner: int, which: str, language: str) -> int:
    """Return the process of the owner that a test kills."""
    if which == "server":
        return owner
    if which == "warden":
        return descendants(owner, "warden.py")[0].pid
    zygote = find_zygote(owner)
    if which == "zygote":
        return zygote.pid
    if language == "python":
        return descendants(zygote.pid, str(ZYGOTE_PROGRAM))[-1].pid
    program = {"node": "start.mjs", "bash": ".sh"}[language]
    return descendants(owner, program)[0].pid


@pytest.mark.parametrize(
    ("language", "which"),
    [*((language, which) for language in STEPS for which in ("worker", "zygote", "server")), ("python", "warden")],
)
def test_kill_9_in_mid_step_leaves_no_process(tmp_path: Path, language: str, which: str) -> None:
    """Whichever process is killed, no process of the step goes on, daemons without environment included."""
    marker = f"1000.{os.getpid()}{time.monotonic_ns() % 10**6:06}"
    source = STEPS[language].format(daemon=DAEMON.format(marker=marker), marker=marker)
    owner = subprocess.Popen(
        [sys.executable, "-m", "tests.workers.owner", json.dumps([language, source, str(tmp_path)])],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    with owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "up\n"
        while len(during := processes_with(marker)) < 2:
            time.sleep(0.01)
        os.kill(find_victim(owner.pid, which, language), signal.SIGKILL)
        if which == "warden":  # the step goes on; the server ends without a warden
            owner.kill()
        left = wait_until_gone(partial(processes_with, marker))
        tree = [] if which in ("server", "warden") else psutil.Process(owner.pid).children(recursive=True)
        owner.kill()
        survivors = wait_until_gone(lambda: [(each.pid, arguments(each)) for each in tree if runs(each)])

    assert len(during) == 2
    assert left == []
    assert survivors == []


async def test_zygote_that_was_killed_is_replaced(bench: Bench) -> None:
    """The step fails, and the next step runs in a process of another zygote."""
    task = await run_until_up(bench, "python", python("print('up', flush=True); time.sleep(1000)"))
    zygotes = list(descendants(os.getpid(), ZYGOTE_PROGRAM.name))  # of earlier tests, too
    for zygote in zygotes:
        with suppress(psutil.NoSuchProcess):  # it has ended with its launcher
            zygote.kill()
    outcome = await task
    await asyncio.to_thread(psutil.wait_procs, zygotes, 60)  # a killed process ends a moment later
    after = await bench.run("python", python("return 1"), name="after")

    assert outcome.error is not None
    assert outcome.error.code == "step_died"
    assert after.exports == {"$return_value": 1}


@pytest.mark.parametrize("which", ["starter", "launcher", "template"])
@pytest.mark.parametrize(
    ("language", "source"), [("python", python("return 1")), ("bash", "echo a=1 >> $PIPEDREAM_EXPORTS")]
)
async def test_start_that_a_killed_zygote_has_lost_is_repeated(
    open_run: OpenRun, own_pool: WorkerPool, language: Language, source: str, which: str
) -> None:
    """If a zygote is killed before it has started the process of a step, another zygote starts the process."""
    zygotes = own_pool.zygotes
    assert zygotes is not None
    zygote = zygotes.get(Path(sys.executable) if language == "python" else None)
    assert zygote is not None
    assert zygote.isolation.namespaces
    assert zygote._pid is not None
    launcher = psutil.Process(zygote._pid)
    (starter,) = launcher.children()
    (template,) = starter.children()
    bench = await open_run(of=own_pool)
    starter.suspend()
    while starter.status() != psutil.STATUS_STOPPED:
        await asyncio.sleep(0.01)
    task = asyncio.ensure_future(bench.run(language, source))
    async with asyncio.timeout(60):
        while zygote.is_unused:
            await asyncio.sleep(0.01)

    {"starter": starter, "launcher": launcher, "template": template}[which].kill()
    if which == "template":
        await until(lambda: has_ended(template.pid))  # its parent reaps it later if it was stopped early
    starter.resume()
    outcome = await task

    assert outcome.error is None
    assert list(outcome.exports.values()) in ([1], ["1"])


async def test_signal_ends_an_idle_worker(bench: Bench) -> None:
    """After the signal, the processes of a worker end before they are waited for."""
    await bench.run("python", python("return 1"))
    child = bench.workers._acquired_slot.workers["python"].process.child
    process = psutil.Process(child.pid)

    child.send_kill()

    assert wait_until_gone(lambda: runs(process)) is False
    child.kill()


@pytest.mark.parametrize(
    ("language", "source"),
    [
        ("python", python("subprocess.run({daemon!r}, shell=True)")),
        ("node", "import {{ execSync }} from 'child_process';\nexport default {{ run() {{ execSync({daemon!r}) }} }}"),
    ],
)
async def test_daemon_of_a_step_is_reported_and_ended(bench: Bench, language: Language, source: str) -> None:
    """A process without a parent counts as code that still runs: the step gets a warning, and the process ends with its worker."""
    marker = f"1000.{os.getpid()}{time.monotonic_ns() % 10**6:06}"

    outcome = await bench.run(language, source.format(daemon=DAEMON.format(marker=marker)))

    assert outcome.error is None
    assert any("still running" in warning for warning in outcome.warnings)
    assert wait_until_gone(partial(processes_with, marker)) == []


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (python("os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)"), "ended by SIGTERM"),
        (python("os._exit(3)"), "exit status 3"),
        (python("__import__('ctypes').string_at(0)"), "ended by SIGSEGV"),
        (python("os.kill(os.getpid(), signal.SIGKILL); time.sleep(9)"), "ended by SIGKILL"),
    ],
)
async def test_exit_of_a_forked_worker_is_reported(bench: Bench, source: str, message: str) -> None:
    """Signals and exit statuses of a forked process are those of a process of its own."""
    error = await bench.fail("python", source)

    assert message in error.message


FACTS = """
import json, os, random, signal, socket, sys, threading, uuid
def handler(pd):
    return {
        "descriptors": sorted(int(name) for name in os.listdir("/proc/self/fd"))[:-1],
        "random": [random.random(), uuid.uuid4().hex],
        "main": threading.current_thread() is threading.main_thread(),
        "native": threading.main_thread().native_id == threading.get_native_id(),
        "signals": [str(signal.getsignal(each)) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE)],
        "streams": [sys.stdout.name, sys.stdout.encoding, sys.stdout.errors, sys.stdout.seekable(), sys.stdin.name],
        "flags": [sys.flags.isolated, sys.flags.utf8_mode, sys.flags.safe_path],
        "names": sorted(vars(sys.modules["__main__"])),
        "path": sys.path,
        "gc": __import__("gc").isenabled(),
    }
"""


async def test_forked_worker_is_as_a_started_one(open_run: OpenRun) -> None:
    """Code finds the same descriptors, streams, signals and flags as in a process that was not forked; random numbers differ."""
    alone = WorkerPool(zygotes=None)
    found = []
    for pool in ({}, {}, {"of": alone}):
        bench = await open_run(**pool)
        found.append((await bench.run("python", FACTS)).exports["$return_value"])
    await alone.close()
    forked, again, started = found
    assert isinstance(forked, dict)
    assert isinstance(again, dict)
    assert isinstance(started, dict)

    assert forked.pop("random") != again.pop("random")
    started.pop("random")
    assert forked["descriptors"] == [0, 1, 2, 3, 4]
    started.pop("descriptors")  # with those that this process has inherited itself
    forked.pop("descriptors")
    again.pop("descriptors")
    assert forked == again == started


async def test_step_cannot_end_the_zygote_by_signals_to_init(bench: Bench) -> None:
    """The init process of a step has the memory of the zygote, and no signal of the step reaches either of them."""
    signals = (
        "import contextlib, os\ndef handler(pd):\n    for number in range(1, 65):\n"
        "        with contextlib.suppress(OSError):\n            os.kill(1, number)\n"
    )
    await bench.run("python", python("return 1"))
    zygote = find_zygote(os.getpid())

    await bench.run("python", signals, name="signals")
    await bench.run("bash", "for number in $(seq 64); do kill -$number 1; done", name="shell")
    after = await bench.run("python", python("return 1"), name="after")

    assert after.exports == {"$return_value": 1}
    assert find_zygote(os.getpid()) == zygote


async def test_ended_orphan_of_a_step_is_reaped(bench: Bench) -> None:
    """A process that lost its parent leaves no zombie to init."""
    looks = """
import contextlib, os, subprocess, time
subprocess.run("(sleep 0 &) ; true", shell=True)

def zombies():
    for number in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # it has been reaped meanwhile
            if " (sleep) Z" in open(f"/proc/{number}/stat").read():
                yield number

def handler(pd):
    while list(zombies()):
        time.sleep(0.01)
    return 1
"""

    outcome = await bench.run("python", looks, timeout_s=60)

    assert outcome.exports == {"$return_value": 1}


async def test_secrets_do_not_reach_the_zygote(bench: Bench) -> None:
    """Neither a variable of the workflow nor an account's field is in the memory of the zygote's two processes."""
    await bench.run("bash", "true", credentials={"slack": {"token": "xoxb-of-the-step"}})
    await bench.run("python", python("return 1"), name="other", credentials={"slack": {"token": "xoxb-of-the-step"}})
    first, *others = descendants(os.getpid(), str(ZYGOTE_PROGRAM))
    tag = first.environ()[process_tree.PROCESS_TAG_VARIABLE]  # other processes that it forked have other tags
    processes = [first.pid, *(each.pid for each in others if each.environ()[process_tree.PROCESS_TAG_VARIABLE] == tag)]

    memory = [b"".join(read_memory(pid)) for pid in processes]

    assert len(memory) >= 2
    assert all(b"PDKERNEL_STEP_PROCESS" in each for each in memory)
    assert not any(b"tok-123456" in each or b"xoxb-of-the-step" in each for each in memory)


def read_memory(pid: int) -> list[bytes]:
    """Return the writable memory of a process."""
    found = []
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            where, rights, *_ = line.split()
            if "w" in rights:
                start, end = (int(part, 16) for part in where.split("-"))
                memory.seek(start)
                found.append(memory.read(end - start))
    return found


async def test_process_that_was_killed_before_its_start_does_not_run(tmp_path: Path) -> None:
    """A process that is killed right after its request runs no code, though the zygote has not read it, and a fork holds its socket."""
    zygotes = Zygotes()
    zygote = zygotes.get()
    assert zygote is not None
    own_ends, child_ends = open_pipes("from", "from")
    mark, tag = tmp_path / "mark", secrets.token_hex(16)
    request = ProcessRequest(["/bin/sh", "-c", f"touch {mark}"], {"PATH": os.defpath}, tag)

    process = zygote.start(request, child_ends)
    assert process._status is not None
    held = os.dup(process._status.fileno())  # as in a fork of this process
    process.kill()
    for descriptor in (*own_ends, *child_ends):
        os.close(descriptor)
    assert zygote.isolation.namespaces  # the zygote has started
    await asyncio.sleep(0.1)

    assert not mark.exists()
    assert process_tree.find_processes([], [tag]) == set()
    os.close(held)
    zygote.close()


async def test_process_killed_while_it_enters_the_sandbox_has_ended(tmp_path: Path) -> None:
    """The descriptor that the process offered is gone; that is the end of the process, not an error of pdkernel."""
    zygote = Zygotes().get()
    assert zygote is not None
    own_ends, child_ends = open_pipes("from", "from")
    tag = secrets.token_hex(16)
    gateway = await Gateway.start(tmp_path / "ca")
    if gateway.sandbox_kind != "redirect":
        pytest.skip("NOT RUN: this system does not permit a seccomp listener")
    request = ProcessRequest(
        ["/bin/true"], {"PATH": os.defpath}, tag, sandboxed_by=gateway, caller_token=gateway.issue_token()
    )

    process = start_process(request, child_ends, zygote)
    while not process_tree.find_processes([], [tag]):  # without a turn of the event loop, which reads reports
        time.sleep(0.01)
    time.sleep(0.2)
    process_tree.kill_processes([], [tag])
    while not process.poll():
        await asyncio.sleep(0.01)

    assert (process.exit_code, process.start_error) == (-signal.SIGKILL, None)
    process.kill()
    for descriptor in (*own_ends, *child_ends):
        os.close(descriptor)
    zygote.close()
    await gateway.close()


async def test_process_that_cannot_enter_the_sandbox_ends(open_run: OpenRun, tmp_path: Path) -> None:
    """If the system does not let pdkernel supervise a process, no code of the step runs, and the error names the reason."""
    gateway = await Gateway.start(tmp_path / "ca")
    if gateway.sandbox_kind != "redirect":
        pytest.skip("NOT RUN: this system does not permit a seccomp listener")

    class Forbidding:
        """The gateway, but the notifications of a filter cannot be received."""

        def __getattr__(self, name: str) -> Any:
            return getattr(gateway, name)

        def plan_sandbox(self, token: str) -> SandboxPlan | None:
            def attach(descriptor: int) -> None:
                os.close(descriptor)
                raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

            plan = gateway.plan_sandbox(token)
            assert plan is not None
            return SandboxPlan(plan.filter, attach, plan.port)

    pool = WorkerPool(gateway=Forbidding())
    bench = await open_run(of=pool, guarded=True)

    outcomes = [
        await bench.run("python", python("print('ran')"), name="forked"),
        await bench.run("bash", "echo ran", name="program"),
    ]
    printed = bench.printed()
    await pool.close()
    await gateway.close()

    messages = [outcome.error.message for outcome in outcomes if outcome.error is not None]
    assert len(messages) == 2
    assert all("its outbound calls cannot be supervised: Operation not permitted" in each for each in messages)
    assert printed == ""


@pytest.mark.parametrize(
    ("program", "folder", "reason"),
    [("/bin/true", "/nowhere", "No such file or directory"), ("/etc/passwd", "/", "Permission denied")],
)
async def test_end_of_a_process_that_does_not_start_has_its_reason(program: str, folder: str, reason: str) -> None:
    """When the end of a process is reported, it is known why its program was not started."""
    zygote = ZYGOTES.get()
    assert zygote is not None
    own_ends, child_ends = open_pipes("from", "from")
    reasons: list[str | None] = []
    request = ProcessRequest([program], {"PATH": os.defpath}, secrets.token_hex(16), folder=folder)

    process = zygote.start(request, child_ends)
    process.watch_exit(lambda: reasons.append(process.start_error))
    async with asyncio.timeout(60):
        while not reasons:
            await asyncio.sleep(0.001)
    process.kill()
    for descriptor in (*own_ends, *child_ends):
        os.close(descriptor)

    assert len(reasons) == 1
    assert reason in str(reasons[0])


async def test_end_of_each_process_is_reported() -> None:
    """No end is lost when processes end while others start."""
    zygote = Zygotes().get()
    assert zygote is not None
    processes = []
    for _ in range(30):
        own_ends, child_ends = open_pipes("from", "from")
        request = ProcessRequest(["/bin/true"], {"PATH": os.defpath}, secrets.token_hex(16))
        processes.append(start_process(request, child_ends, zygote))
        for descriptor in (*own_ends, *child_ends):
            os.close(descriptor)

    async with asyncio.timeout(60):
        while not all(process.poll() for process in processes):
            await asyncio.sleep(0.01)

    assert [process.exit_code for process in processes] == [0] * 30
    for process in processes:
        process.kill()
    zygote.close()


async def test_replaced_file_is_hidden_in_later_processes(tmp_path: Path) -> None:
    """Processes share the mounts of earlier ones; a file that replaces a hidden file is hidden as well."""
    zygote = ZYGOTES.get()
    assert zygote is not None
    secret = tmp_path / "secret"
    secret.write_text("old")
    hidden = IsolationPlan(namespaces=True, mounts=(Mount(str(secret), os.devnull, shared=True),))
    found = []
    for plan in (hidden, hidden, IsolationPlan(namespaces=True)):
        own_ends, child_ends = open_pipes("from", "from")
        request = ProcessRequest(["/bin/cat", str(secret)], {"PATH": os.defpath}, secrets.token_hex(16), plan=plan)
        process = start_process(request, child_ends, zygote)
        async with asyncio.timeout(60):
            while not process.poll():
                await asyncio.sleep(0.01)
        process.kill()
        os.close(child_ends[0])
        found.append((process.exit_code, os.read(own_ends[0], 100)))
        for descriptor in (*own_ends, child_ends[1]):
            os.close(descriptor)
        (tmp_path / "new").write_text("new")
        (tmp_path / "new").replace(secret)

    assert found == [(0, b""), (0, b""), (0, b"new")]


@pytest.fixture
async def own_pool() -> AsyncIterator[WorkerPool]:
    """A pool with zygotes of its own."""
    zygotes = Zygotes()
    pool = WorkerPool(zygotes=zygotes)
    yield pool
    await pool.close()
    zygotes.close()


async def test_variable_that_common_modules_read_prevents_a_fork(open_run: OpenRun) -> None:
    """A run that sets a variable of OpenSSL gets a worker that reads it: that of the zygote has loaded OpenSSL before."""
    forked, alone = await open_run(), await open_run(variables={"OPENSSL_CONF": "/nowhere"})

    found = []
    for bench in (forked, alone):
        await bench.run("python", python("return 1"))
        found.append(bench.workers._acquired_slot.workers["python"].read_variables)

    assert "OPENSSL_CONF" in found[0]
    assert found[1] == frozenset()


async def test_zygote_that_lost_a_start_ends_with_its_last_process() -> None:
    """A zygote that another one replaced serves its processes to their end, and then ends itself."""
    zygotes = Zygotes()
    first = zygotes.get()
    assert first is not None
    own_ends, child_ends = open_pipes("from", "from")
    one, other = [
        start_process(ProcessRequest(["/bin/sleep", "1000"], {"PATH": os.defpath}, tag), child_ends, first)
        for tag in (secrets.token_hex(16), secrets.token_hex(16))
    ]

    first.has_lost_start = True
    second = zygotes.get()
    assert second is not None
    one.kill()
    one.kill()  # ends no other process
    zygotes.get()
    stayed = first.is_alive and not other.poll()
    other.kill()
    zygotes.get()
    left = [first.is_alive, second.is_alive]
    zygotes.close()
    for descriptor in (*own_ends, *child_ends):
        os.close(descriptor)

    assert stayed
    assert left == [False, True]


def test_closed_zygote_leaves_nothing(tmp_path: Path) -> None:
    """The end of a zygote, whether it has started or not, closes its socket, and the warden does not look for it any more."""
    opened, registered = set(Path("/proc/self/fd").iterdir()), dict(WARDEN._registered)
    zygotes = Zygotes()

    zygote = zygotes.get()
    zygotes.close()
    with pytest.raises(FileNotFoundError) as caught:
        zygotes.get(tmp_path / "nothing")

    assert zygote is not None
    assert not zygote.is_alive
    assert caught.value.errno == errno.ENOENT
    assert set(Path("/proc/self/fd").iterdir()) <= opened  # what other tests have left may end meanwhile
    assert WARDEN._registered.items() <= registered.items()


def test_fork_has_zygotes_of_its_own() -> None:
    """A fork of this process starts another zygote, and leaves that of its parent alone, whatever threads did meanwhile."""
    program = (
        "import os, signal\nfrom pdkernel.workers.zygote import Zygotes\nzygotes = Zygotes()\nparents = zygotes.get()\n"
        "zygotes._lock.acquire()  # as another thread does\nchild = os.fork()\n"
        "if child == 0:\n    signal.alarm(30)\n    own = zygotes.get()\n    zygotes.close()\n"
        "    os._exit(own is parents or parents.is_alive)\n"
        "zygotes._lock.release()\nprint(os.waitpid(child, 0)[1], parents.is_alive)\nzygotes.close()\n"
    )

    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)

    assert (done.stdout, done.stderr) == ("0 True\n", "")


def test_environments_share_the_zygote_of_their_interpreter(tmp_path: Path) -> None:
    """An environment has no zygote of its own, whatever packages it has: the zygote reads nothing of an environment."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.symlink_to(os.path.realpath(sys.executable))
    (tmp_path / "pyvenv.cfg").write_text("home = /nowhere\n")
    (tmp_path / "lib" / "python3.11" / "site-packages" / "psutil").mkdir(parents=True)
    zygotes = Zygotes()

    is_shared = zygotes.get(python) is zygotes.get()
    zygotes.close()

    assert is_shared


CONNECT = "env -i bash -c 'exec 3<>/dev/tcp/192.0.2.1/7 && echo connected' 2>&1"
"""A program without variables connects to an address that is reserved for documentation: only the sandbox gets an answer."""


@pytest.mark.parametrize(("kind", "answer"), [("redirect", "connected"), ("landlock", "Permission denied")])
@pytest.mark.parametrize(
    ("language", "source"),
    [
        ("python", python(f"print(subprocess.run({CONNECT!r}, shell=True, capture_output=True, text=True).stdout)")),
        ("bash", CONNECT),
    ],
)
async def test_process_enters_the_sandbox_itself(
    open_run: OpenRun, tmp_path: Path, kind: SandboxKind, answer: str, language: Language, source: str
) -> None:
    """A forked worker and a program are in the sandbox of the gateway before code of the step runs."""
    if kind == "redirect" and not can_redirect():
        pytest.skip("this system does not permit a seccomp listener")
    if kind == "landlock" and not can_use_landlock():
        pytest.skip("this system has no Landlock for the network")
    gateway = await Gateway.start(tmp_path / "ca", sandbox_kind=kind)
    pool = WorkerPool(gateway=gateway)
    bench = await open_run(of=pool, guarded=True)

    outcome = await bench.run(language, source, timeout_s=60)
    await pool.close()
    await gateway.close()

    assert outcome.error is None
    assert answer in bench.printed()


@pytest.mark.parametrize(("number", "sent"), [(errno.ETOOMANYREFS, 3), (errno.EPIPE, 1)])
def test_start_waits_while_too_many_descriptors_are_under_way(number: int, sent: int) -> None:
    """The system limits how many descriptors wait for their receivers; another error is raised at once."""
    tries = 0

    class Socket:
        """A socket that accepts the third message."""

        def sendmsg(self, *_: object) -> int:
            nonlocal tries
            tries += 1
            if tries < 3:
                raise OSError(number, os.strerror(number))
            return 1

    with nullcontext() if sent == 3 else pytest.raises(BrokenPipeError):
        _send_fds(cast("socket.socket", Socket()), b"1", [])

    assert tries == sent


def test_trial_of_namespaces_gives_one_answer() -> None:
    """The check of what the system permits succeeds each time: its init process keeps its stack, however late it starts."""
    check = (
        "import runpy, sys\n"
        "sys.argv = ['zygote.py']\n"
        f"names = runpy.run_path({str(ZYGOTE_PROGRAM)!r}, run_name='check')\n"
        "for _ in range(40): names['_try_namespaces']()"
    )
    environ = {**os.environ, "PDKERNEL_STEP_PROCESS": "x" * 40}

    done = subprocess.run([sys.executable, "-c", check], env=environ, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")

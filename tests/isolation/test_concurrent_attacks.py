"""Attacks on a run of another user that executes at the same time, on its processes, files, sockets and shared memory."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pdkernel.model import Step
from tests.http_servers import AnsweringServer, serve
from tests.isolation.attacks import TOKEN, Attackers, new_token, processes_with

STEP = r'''
import ctypes, glob, os, pathlib, re, resource, signal, socket, subprocess, sys, time, urllib.request

libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
TOKEN = re.compile(rb"tok-[a-z]+-[0-9a-f]{8}")

# a program with its token wherever a program may have it; it prints a line when all is there
HOLD = """
import ctypes, os, pathlib, socket, sys, tempfile, threading, time
token, mark, port, key = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
held = (token + " ") * 1000
pathlib.Path("/tmp/held").write_text(token)
pathlib.Path("/dev/shm", mark + token).write_text(token)
opened = tempfile.TemporaryFile(dir="/tmp")
opened.write(token.encode())
opened.flush()
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
memory = libc.shmat(libc.shmget(key, 64, 0o1666), None, 0)
ctypes.memmove(memory, token.encode(), len(token))
libc.semget(key, 1, 0o1666)
libc.msgsnd(libc.msgget(key, 0o1666), (1).to_bytes(8, "little") + token.encode(), len(token), 0)
def serve(listening):
    while True:
        client = listening.accept()[0]
        client.send(token.encode())
        client.close()
for family, address in ((socket.AF_INET, ("127.0.0.1", port)), (socket.AF_UNIX, "\\0" + mark + token), (socket.AF_UNIX, "/tmp/held.sock")):
    listening = socket.socket(family)
    listening.bind(address)
    listening.listen()
    threading.Thread(target=serve, args=[listening], daemon=True).start()
print("held", flush=True)
time.sleep(60)
"""

def hold(token, mark, port, key):
    """Starts the program, with its token in the environment, too."""
    held = subprocess.Popen(
        [sys.executable, "-I", "-c", HOLD, token, mark, str(port), str(key)],
        env={"TOKEN": token}, stdout=subprocess.PIPE, text=True,
    )
    held.stdout.readline()
    return held

def tokens(data):
    return {found.decode() for found in TOKEN.findall(data if isinstance(data, bytes) else data.encode())}

def answer(family, address):
    with socket.socket(family) as client:
        client.settimeout(20)
        client.connect(address)
        return tokens(client.recv(100))

def each_process(look, pids, targets):
    """
    The tokens that *look* finds in other processes: those of the test and, in a name space of processes, all that are visible.

    In the name space of the machine, processes that the test has not started are left alone.
    """
    if os.readlink("/proc/self/ns/pid") != targets["pid_namespace"]:
        pids = {*pids, *map(int, filter(str.isdigit, os.listdir("/proc")))}
    found = set()
    for pid in set(pids) - {os.getpid()}:
        try:
            found |= look(pid)
        except (OSError, ValueError, OverflowError):
            continue
    return found

def regions(pid):
    """The first writable private parts of the memory of a process."""
    left = 8 << 20
    for line in pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines():
        start, end = (int(each, 16) for each in line.split()[0].split("-"))
        if "rw-p" in line and "/" not in line and end - start <= left:
            left -= end - start
            yield start, end - start

def memory(pid):
    found = set()
    with open(f"/proc/{pid}/mem", "rb", 0) as file:
        for start, size in regions(pid):
            found |= tokens(os.pread(file.fileno(), size, start))
    return found

def copied_memory(pid):
    found = set()
    for start, size in regions(pid):
        data = ctypes.create_string_buffer(size)
        local, remote = (ctypes.c_void_p * 2)(ctypes.addressof(data), size), (ctypes.c_void_p * 2)(start, size)
        if libc.process_vm_readv(pid, local, 1, remote, 1, 0) > 0:
            found |= tokens(data.raw)
    return found

def descriptors(pid):
    found = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        if "/tmp/" in os.readlink(f"/proc/{pid}/fd/{name}"):
            found |= tokens(pathlib.Path(f"/proc/{pid}/fd/{name}").read_bytes())
    return found

def taken_descriptors(pid):
    found, handle = set(), os.pidfd_open(pid)
    for number in range(3, 8):
        if (taken := libc.syscall(438, handle, number, 0)) >= 0:
            try:
                found |= tokens(os.pread(taken, 100, 0))
            except OSError:
                continue
    return found

def traced(pid):
    """The arguments of a process that a child, whose end detaches it, can trace."""
    if (child := os.fork()) == 0:
        os._exit(0 if libc.ptrace(0x4206, pid, None, None) == 0 else 1)
    can = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    return tokens(pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()) if can else set()

def named(pid, act):
    """The token of a process with a token in its arguments, if *act* succeeds."""
    found = tokens(pathlib.Path(f"/proc/{pid}/cmdline").read_bytes())
    if found:
        act(pid)
    return found

def files(*patterns):
    """The tokens in files."""
    found = set()
    for pattern in patterns:
        for path in glob.glob(pattern):
            found |= tokens(pathlib.Path(path).read_bytes())
    return found

def shared(key):
    number = libc.shmget(key, 64, 0)
    return tokens(ctypes.string_at(libc.shmat(number, None, 0), 64)) if number >= 0 else set()

def message(key):
    data = ctypes.create_string_buffer(100)
    number = libc.msgget(key, 0)
    return tokens(data.raw) if number >= 0 and libc.msgrcv(number, data, 92, 0, 0o4000) > 0 else set()

def both(look, *places):
    found = set()
    for place in places:
        try:
            found |= look(place)
        except OSError:
            continue
    return found

def looks(targets, own, other):
    """By name: the tokens that an attack finds. *own* and *other* have the port, the key and the pids of a program."""
    pids = [*own["pids"], *other["pids"]]
    process = lambda look: each_process(look, pids, targets)
    file = lambda name: process(lambda pid: tokens(pathlib.Path(f"/proc/{pid}/{name}").read_bytes()))
    return {
        "the environment of processes": lambda: file("environ"),
        "the arguments of processes": lambda: file("cmdline"),
        "the memory of processes": lambda: process(memory),
        "the memory of processes, by a system call": lambda: process(copied_memory),
        "the open files of processes": lambda: process(descriptors),
        "descriptors taken from processes": lambda: process(taken_descriptors),
        "the files of processes": lambda: process(lambda pid: tokens(pathlib.Path(f"/proc/{pid}/root/tmp/held").read_bytes())),
        "the working folder of processes": lambda: process(lambda pid: tokens(pathlib.Path(f"/proc/{pid}/cwd/held").read_bytes())),
        "tracing processes": lambda: process(traced),
        "the priority of processes": lambda: process(lambda pid: named(pid, lambda pid: os.setpriority(os.PRIO_PROCESS, pid, 10))),
        "the limits of processes": lambda: process(lambda pid: named(pid, lambda pid: resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0)))),
        "files in folders of runs": lambda: files("/tmp/held", *(f"/var/tmp/pdkernel-*/{depth}held" for depth in ("", "*/", "*/*/", "*/*/*/"))),
        "files of shared memory": lambda: files(f"/dev/shm/{targets['mark']}*"),
        "shared memory of System V": lambda: both(shared, own["key"], other["key"]),
        "messages of System V": lambda: both(message, own["key"], other["key"]),
        "abstract sockets": lambda: both(lambda name: answer(socket.AF_UNIX, "\0" + name), *re.findall("@(" + targets["mark"] + r"tok-\S+)", pathlib.Path("/proc/net/unix").read_text())),
        "sockets in /tmp": lambda: both(lambda pid: answer(socket.AF_UNIX, "/tmp/held.sock" if not pid else f"/proc/{pid}/root/tmp/held.sock"), 0, *other["pids"]),
        "ports of this machine": lambda: both(lambda port: answer(socket.AF_INET, ("127.0.0.1", port)), own["port"], other["port"]),
        "killing processes": lambda: process(lambda pid: named(pid, lambda pid: os.kill(pid, signal.SIGKILL))),
    }

def handler(pd):
    body = pd.steps["trigger"]["event"]["body"]
    token, targets = body["token"], body["targets"]
    own = body["own"]
    held = hold(token, targets["mark"], own["port"], own["key"])
    if "other" not in body:  # the run that is attacked: it waits until the test lets it go on
        urllib.request.urlopen(targets["url"] + "/reached", timeout=60).read()
        return {
            "running": held.poll() is None,
            "file": pathlib.Path("/tmp/held").read_text(),
            "priority": [*both(lambda pid: {os.getpriority(os.PRIO_PROCESS, pid) - os.getpriority(os.PRIO_PROCESS, 0)}, held.pid)],
            "answer": [*both(lambda port: answer(socket.AF_INET, ("127.0.0.1", port)), own["port"])],
        }
    found = {}
    for name, look in looks(targets, own | {"pids": [held.pid]}, body["other"]).items():
        try:
            found[name] = sorted(look())
        except OSError as error:
            found[name] = [f"{type(error).__name__}: {error}"]
    return found
'''
NAMES = [
    line.strip().split('"')[1]
    for line in STEP.split("return {\n        ")[1].split("\n    }\n", maxsplit=1)[0].splitlines()
]
PORTS = "ports of this machine"
UNAVAILABLE = {"the memory of processes, by a system call", "descriptors taken from processes", "tracing processes"}
"""Attacks by system calls that steps do not have."""


class Gate:
    """
    A place where a step waits, by a request to `url`.

    Attributes:
        url: Where the step sends the request.
    """

    def __init__(self) -> None:
        self._reached, self._opened = threading.Event(), threading.Event()

    def answer(self, _: object) -> tuple[int, Any]:
        """Answer when the gate is open."""
        self._reached.set()
        self._opened.wait(60)
        return 200, {}

    async def wait_until_reached(self) -> None:
        """Wait until the step waits."""
        assert await asyncio.to_thread(self._reached.wait, 60)

    def open(self) -> None:
        """Let the step go on."""
        self._opened.set()


@pytest.fixture(scope="module")
def gate() -> Gate:
    """The gate at which the attacked run waits."""
    return Gate()


@pytest.fixture(scope="module")
def receiver(gate: Gate) -> Iterator[AnsweringServer]:
    """The server of the gate."""
    with serve(AnsweringServer(gate.answer)) as server:
        yield server


@pytest.fixture(scope="module")
def attacked(base: Path, gate: Gate, receiver: AnsweringServer) -> dict[str, Any]:
    """Tokens of both runs, what the attacker has found, and the results of the run that was attacked."""

    async def attack() -> dict[str, Any]:
        async with Attackers.start(base, receiver) as attackers:
            step = Step("attack", "python", STEP)
            mine, yours = new_token("mallory"), new_token("bob")
            targets = attackers.targets
            own = {"port": targets["ports"][0], "key": targets["key"]}
            other = {"port": targets["ports"][1], "key": targets["key"] + 1}
            victim = asyncio.create_task(attackers.run(step, "bob", {"token": yours, "own": other}))
            try:
                await gate.wait_until_reached()
                pids = [*processes_with(yours)]
                attacker = await attackers.run(
                    step, "mallory", {"token": mine, "own": own, "other": {**other, "pids": pids}}
                )
            finally:
                gate.open()
                execution = await victim
            results = [each.step("attack").return_value for each in (attacker, execution)]
            assert all(isinstance(each, dict) for each in results), (attacker.error, execution.error, attacker.steps)
            return {"mine": mine, "yours": yours, "found": results[0], "result": results[1]}

    return asyncio.run(attack())


def test_attacks_find_their_own_processes(attacked: dict[str, Any]) -> None:
    """An attack works on a program that the attacker has started, unless steps have no such system call."""
    own = {name for name in NAMES if attacked["mine"] in attacked["found"][name]}

    assert own == set(NAMES) - UNAVAILABLE


def test_attacks_do_not_reach_another_run(attacked: dict[str, Any]) -> None:
    """An attack does not find what a program of another user's run holds at the same time."""
    reached = [name for name in NAMES if name != PORTS and attacked["yours"] in attacked["found"][name]]

    assert reached == []


def test_attacked_run_is_not_disturbed(attacked: dict[str, Any]) -> None:
    """The run that was attacked has its processes, its files, its priority and its port."""
    assert attacked["result"] == {
        "running": True,
        "file": attacked["yours"],
        "priority": [0],
        "answer": [attacked["yours"]],
    }


def test_attacks_find_nothing_else(attacked: dict[str, Any]) -> None:
    """All that the attacks find are tokens of the attacker: none of the server's memory, nor of earlier runs."""
    found = {
        token for name, each in attacked["found"].items() for token in each if name != PORTS and TOKEN.fullmatch(token)
    }

    assert found == {attacked["mine"]}


def test_ports_are_shared(attacked: dict[str, Any]) -> None:
    """Runs share the network of this machine, as in `docs/explanation/isolation.md`: a step reaches a port of another run."""
    assert attacked["yours"] in attacked["found"][PORTS]

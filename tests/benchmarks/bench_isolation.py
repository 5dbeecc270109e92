"""
What it costs that a process never serves two external users: users in turn, workflows in turn, changed texts, memory.

Every figure is a ratio of two measurements of one run on one machine. A request is a complete run over HTTP. "Never warm"
means that each user calls once, so no process can be ready for that user.

Prints figures and ratios of one run. `python tests/benchmarks/bench_isolation.py`
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import http.client
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from pdkernel.accounts import LocalDirectory
from pdkernel.egress import parse_policy
from pdkernel.engine.run_request import RunRequest
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.files.source import load_source
from pdkernel.storage import Project
from tests.benchmarks.bench_serve import CLIENTS
from tests.builders import an_event
from tests.notebook_files import notebook_of

WARM_CALLS = 200
USERS = 50
COLD_USERS = 500
COLD_MIXED_USERS = 100
TURN_WORKFLOWS = 50
MANY_WORKFLOWS = 200
EDITS = 40
_KCMP_VM = 1
HEADER = "%%pdworkflow\nname: {}\ntrigger:\n  type: http\n  auth: oauth\n  response: custom\n"
PYTHON = "%%pdstep one\ndef handler(pd):\n    pd.respond({'status': 200, 'body': {'ok': 1}})\n"
MIXED = (
    "%%pdstep one\ndef handler(pd):\n    return 1\n",
    "%%pdstep two --lang node\nexport default defineComponent({ async run({ steps }) { return steps.one.$return_value } })\n",
    "%%pdstep three\ndef handler(pd):\n    pd.respond({'status': 200, 'body': {'ok': pd.steps['two']['$return_value']}})\n",
)
EDITED = {
    "Python": "%%pdstep one\ndef handler(pd):\n    return {}\n",
    "Node.js": "%%pdstep one --lang node\nexport default defineComponent({{ run() {{ return {} }} }})\n",
}


class Client:
    """A client with a persistent connection, which calls any workflow of a server as any external user."""

    def __init__(self, server: Served) -> None:
        parts = urlsplit(server.urls[0])
        assert parts.hostname
        self._connection = http.client.HTTPConnection(parts.hostname, parts.port)
        self._server = server

    def call(self, user: str = "ada", workflow: int = 0) -> float:
        """Send one request; return the milliseconds until its response was read."""
        headers = {"authorization": f"Bearer {self._server.token}", "x-pd-external-user-id": user}
        began = time.perf_counter()
        self._connection.request("POST", urlsplit(self._server.urls[workflow]).path, b"{}", headers)
        answer = self._connection.getresponse()
        text = answer.read()
        assert answer.status == 200, text
        return (time.perf_counter() - began) * 1000


@dataclass
class Served:
    """A running `pdkernel serve`: the URLs of its workflows, a token, and its process."""

    urls: list[str]
    token: str
    process: psutil.Process

    def memory_mb(self) -> float:
        """The memory (PSS) of the server and all its processes. Processes that share all their memory count once."""
        total = 0.0
        for each in [self.process, *self.process.children(recursive=True)]:
            with contextlib.suppress(OSError, psutil.NoSuchProcess):
                if has_memory_of_parent(each):
                    continue
                lines = Path(f"/proc/{each.pid}/smaps_rollup").read_text().splitlines()
                total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return total / 1000


def has_memory_of_parent(process: psutil.Process) -> bool:
    """Whether *process* and its parent have one memory, as `kcmp` reports: the init processes of a zygote share its memory."""
    number = {"x86_64": 312, "aarch64": 272}[platform.machine()]
    arguments = (number, process.pid, process.ppid(), _KCMP_VM, 0, 0)
    return bool(ctypes.CDLL(None).syscall(*map(ctypes.c_long, arguments)) == 0)


@contextmanager
def served(place: Path, notebooks: Sequence[Sequence[str]]) -> Iterator[Served]:
    """Serve a new project with the *notebooks*, each a list of step cells, in a process of its own."""
    folder = Path(tempfile.mkdtemp(dir=place))
    for number, steps in enumerate(notebooks):
        notebook_of(folder / f"w{number:03}.ipynb", HEADER.format(f"W{number:03}"), *steps)
    with Project.open(folder / ".pdkernel") as project:
        token = project.access_tokens.issue(project.oauth_clients.create("bench").client.id, ("*",))
    with subprocess.Popen(
        [sys.executable, "-m", "pdkernel", "serve", ".", "--port", "0", "--json"],
        cwd=folder,
        env={**os.environ, "PDKERNEL_EGRESS": "deny"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout
        said = json.loads(process.stdout.readline())
        try:
            yield Served([each["url"] for each in said["workflows"]], token, psutil.Process(process.pid))
        finally:
            process.send_signal(signal.SIGTERM)
    shutil.rmtree(folder, ignore_errors=True)


def median_ms(server: Served, targets: Sequence[tuple[str, int]], calls: int = WARM_CALLS) -> float:
    """The median time of *calls* calls, whose targets (a user and a workflow) follow in turn."""
    client = Client(server)
    return statistics.median(client.call(*targets[number % len(targets)]) for number in range(calls))


def rate(server: Served, targets: Sequence[tuple[str, int]]) -> float:
    """The calls per second of one client that calls each target once."""
    client = Client(server)
    began = time.perf_counter()
    for target in targets:
        client.call(*target)
    return len(targets) / (time.perf_counter() - began)


def rate_together(server: Served, workflows: int, calls_each: int) -> float:
    """The calls per second of sixteen clients as one user; they call the first *workflows* workflows in turn."""

    def work(first: int) -> None:
        client = Client(server)
        for call in range(calls_each):
            client.call("ada", (first + call * CLIENTS) % workflows)

    threads = [threading.Thread(target=work, args=(client,)) for client in range(CLIENTS)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return CLIENTS * calls_each / (time.perf_counter() - began)


def bare_start_s(*commands: Sequence[str], times: int = 10) -> float:
    """The seconds that starting the programs one after another takes, without pdkernel: the median."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        for command in commands:
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def measure_users(place: Path) -> None:
    """Users in turn, warm and never warm."""
    node = shutil.which("node") or "node"
    with served(place, [[PYTHON]]) as server:
        one = median_ms(server, [("ada", 0)])
        users = [(f"user-{number}", 0) for number in range(USERS)]
        median_ms(server, users, USERS)
        many = median_ms(server, users)
        warm = rate(server, [("ada", 0)] * WARM_CALLS)
        cold = rate(server, [(f"new-{number}", 0) for number in range(COLD_USERS)])
    print(f"one user, warm                         {one:7.2f} ms")
    print(f"{USERS} users in turn, warm               {many:7.2f} ms      / one user  {many / one:5.2f}  (goal <= 3)")
    print(
        f"{COLD_USERS} users, never warm, Python        {cold:7.0f} runs/s  / warm      {cold / warm:5.2f}  (goal >= 0.4)"
    )
    starts = 1 / bare_start_s([node, "-e", "0"])
    with served(place, [MIXED]) as server:
        Client(server).call()
        mixed = rate(server, [(f"new-{number}", 0) for number in range(COLD_MIXED_USERS)])
    print(
        f"{COLD_MIXED_USERS} users, never warm, Py-Node-Py    {mixed:7.1f} runs/s  / bare starts of Node.js {mixed / starts:5.2f}  (goal >= 0.6)"
    )


def measure_workflows(place: Path) -> None:
    """Workflows in turn, and many workflows for sixteen clients."""
    with served(place, [[PYTHON]] * MANY_WORKFLOWS) as server:
        one = median_ms(server, [("ada", 0)])
        workflows = [("ada", number) for number in range(TURN_WORKFLOWS)]
        median_ms(server, workflows, TURN_WORKFLOWS)
        turns = median_ms(server, workflows)
        memory = server.memory_mb()
        rate_together(server, 1, 20)
        single = rate_together(server, 1, 50)
        rate_together(server, MANY_WORKFLOWS, 13)
        many = rate_together(server, MANY_WORKFLOWS, 50)
    print(
        f"{TURN_WORKFLOWS} workflows in turn                   {turns:7.2f} ms      / one workflow {turns / one:5.2f}  (goal <= 3)"
    )
    print(
        f"{MANY_WORKFLOWS} workflows, {CLIENTS} clients            {many:7.0f} runs/s  / one workflow {many / single:5.2f}  (goal >= 0.3)"
    )
    print(f"memory (PSS) with {TURN_WORKFLOWS} Python workflows {memory:7.0f} MB")


def measure_first_run(place: Path) -> None:
    """The first run on a new server, and the memory under sixteen clients."""
    node = shutil.which("node") or "node"
    bare = bare_start_s([sys.executable, "-I", "-c", "0"], [node, "-e", "0"])
    first = []
    for _ in range(5):
        with served(place, [MIXED]) as server:
            first.append(Client(server).call() / 1000)
    with served(place, [MIXED]) as server:
        rate_together(server, 1, 40)
        memory = server.memory_mb()
    cold = statistics.median(first)
    print(
        f"first run on a cold server             {cold * 1000:7.1f} ms      / bare starts of its languages {cold / bare:5.2f}  (goal <= 4)"
    )
    print(f"memory (PSS), Py-Node-Py, {CLIENTS} clients  {memory:7.0f} MB")


async def edited(project: Project, folder: Path, cell: str) -> tuple[float, float]:
    """The median times in ms of a run with an unchanged text, and with a text that no run has had before."""
    requests = []
    for number in range(EDITS):
        notebook = folder / f"e{number}.ipynb"
        notebook_of(notebook, cell.format(number))
        source = load_source(notebook)
        requests.append(
            RunRequest(
                source.workflow, an_event(), parse_policy("deny"), external_user_id="ada", folder=folder, test=True
            )
        )
    times: list[float] = []
    async with await WorkflowEngine.start(project, LocalDirectory(project)) as runtime:
        for request in [*[requests[0]] * EDITS, *requests[1:]]:
            began = time.perf_counter()
            execution = await runtime.run(request)
            times.append((time.perf_counter() - began) * 1000)
            assert execution.status == "success", execution.error
    return statistics.median(times[5:EDITS]), statistics.median(times[EDITS:])


def measure_edits(place: Path) -> None:
    """A changed text against an unchanged one."""
    with Project.open(place / "edits" / ".pdkernel") as project:
        for (language, cell), goal in zip(EDITED.items(), (2, 3), strict=True):
            warm, changed = asyncio.run(edited(project, place / "edits", cell))
            print(
                f"changed text, {language:<10}               {changed:7.2f} ms      / warm {changed / warm:5.2f}  (goal <= {goal})"
            )


def main() -> None:
    """Measure and print the figures."""
    with tempfile.TemporaryDirectory(prefix="pdkernel-bench-", dir=Path.home()) as name:
        place = Path(name)
        (place / "edits").mkdir()
        for measure in (measure_edits, measure_first_run, measure_users, measure_workflows):
            measure(place)


if __name__ == "__main__":
    main()

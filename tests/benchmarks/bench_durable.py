"""
A server with 100,000 paused runs, against the same server with none; restarts; limits.

Prints the start, the memory, the CPU time while nothing happens, and the time of a request; how late the last of 1,000
runs is that are due within a second; the time of a call that resumes a run, against a plain request; the time from the
restart of a killed server until a run goes on, against a plain start; and the runs of a workflow with a concurrency of 1 for
sixteen clients, against one client without a limit.

Prints figures and ratios of one run. `python tests/benchmarks/bench_durable.py`
"""

from __future__ import annotations

import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from pdkernel.engine.restored_run import seal_request
from pdkernel.storage import Project
from pdkernel.storage.sqlite import connect
from tests.notebook_files import notebook_of

PAUSED = 100_000
DUE = 1_000
CALLS = 200
IDLE_S = 5.0
DAY_S = 86_400.0
FLOW = (
    "%%pdworkflow\nname: Flow\n",
    "%%pdstep ask\ndef handler(pd):\n    return pd.flow.suspend(86_400_000)\n",
    "%%pdstep last\ndef handler(pd):\n    return 1\n",
)
CLIENTS = 16
CALLS_EACH = 20
LIMITED = (
    "%%pdworkflow\nname: Limited\nsettings: {concurrency: 1, queue: 1000}\n",
    "%%pdstep last\ndef handler(pd):\n    return 1\n",
)
CONTINUED = (
    "%%pdworkflow\nname: Continued\n",
    (
        "%%pdstep slow\nimport time\ndef handler(pd):\n    began = time.time()\n"
        "    if pd.context.get('attempt', 1) == 1:\n        time.sleep(60)\n    return began\n"
    ),
)
PLAIN = ("%%pdworkflow\nname: Plain\n", "%%pdstep last\ndef handler(pd):\n    return 1\n")


@dataclass
class Figures:
    """
    The figures of one server.

    Attributes:
        start_s: Seconds from the command to the first line.
        memory_mb: The resident memory after the start.
        idle_cpu: The share of one processor while nothing happens.
        call_ms: The median time of a request.
    """

    start_s: float
    memory_mb: float
    idle_cpu: float
    call_ms: float


class Server:
    """A running `pdkernel serve` with both workflows."""

    def __init__(self, process: psutil.Popen, said: dict[str, object], start_s: float) -> None:
        self.process = process
        self.start_s = start_s
        workflows = said["workflows"]
        assert isinstance(workflows, list)
        self._urls = {each["name"]: each["url"] for each in workflows}
        parts = urlsplit(str(said["url"]))
        assert parts.hostname
        assert parts.port
        self._address = (parts.hostname, parts.port)
        self._connection = self.connect()

    def connect(self) -> http.client.HTTPConnection:
        """A connection of its own."""
        return http.client.HTTPConnection(*self._address)

    def post(self, url: str, connection: http.client.HTTPConnection | None = None) -> tuple[float, str]:
        """Send a POST to a workflow or to the path of a URL; return the milliseconds and the text of the response."""
        began = time.perf_counter()
        connection = connection or self._connection
        path = urlsplit(self._urls.get(url, url)).path
        connection.request("POST", path, b"{}", {"content-type": "application/json"})
        answer = connection.getresponse()
        text = answer.read().decode()
        assert answer.status == 200, text
        return (time.perf_counter() - began) * 1000, text

    def measure(self) -> Figures:
        """The figures of this server."""
        self.post("Plain")
        calls = [self.post("Plain")[0] for _ in range(CALLS)]
        self._connection.close()  # the server closes idle connections; the next request opens another
        time.sleep(1)
        memory = self.process.memory_info().rss / 1e6
        before = self.process.cpu_times()
        time.sleep(IDLE_S)
        after = self.process.cpu_times()
        used = after.user + after.system - before.user - before.system
        return Figures(self.start_s, memory, used / IDLE_S, statistics.median(calls))


@contextmanager
def served(folder: Path, *notebooks: str) -> Iterator[Server]:
    """A server of notebooks of the project in *folder*, `flow.ipynb` and `plain.ipynb` by default."""
    began = time.perf_counter()
    with psutil.Popen(
        [
            sys.executable,
            "-m",
            "pdkernel",
            "serve",
            *(notebooks or ("flow.ipynb", "plain.ipynb")),
            "--port",
            "0",
            "--json",
        ],
        cwd=folder,
        env={**os.environ, "PDKERNEL_EGRESS": "deny"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            said = json.loads(process.stdout.readline())
            yield Server(process, said, time.perf_counter() - began)
        finally:
            process.terminate()


def pause_runs(folder: Path, count: int) -> None:
    """Insert paused runs of the step `ask`: copies of the only run, each with a request of its own."""
    with Project.open(folder / ".pdkernel") as project:
        assert project.sqlite_path is not None
        connection = connect(project.sqlite_path)
        connection.row_factory = None
        names = [row[1] for row in connection.execute("pragma table_info(runs)")]
        run = dict(zip(names, connection.execute("select * from runs where status = 'paused'").fetchone(), strict=True))
        wait = connection.execute("select * from waits where run_id = ?", (run["id"],)).fetchone()
        request = project.vault.unseal(run["request"], f"runs/{run['id']}/request")
        due = time.time() + DAY_S
        connection.execute("begin immediate")
        for number in range(count):
            copy = f"copy{number:023d}"
            sealed = seal_request(request, copy, project.vault)
            values = {**run, "id": copy, "trace_id": copy, "request": sealed, "wake_at": due}
            connection.execute(f"insert into runs values ({', '.join('?' * len(names))})", tuple(values.values()))
            # a delay: the run goes on at its end, without a call
            changed = (copy, *wait[1:5], "delay", due, *wait[7:])
            connection.execute(f"insert into waits values ({', '.join('?' * len(wait))})", changed)
        connection.execute("commit")
        connection.close()


def make_due(folder: Path) -> list[float]:
    """Let a thousand runs be due within one second; return the seconds by which each one began and ended late."""
    connection = connect(folder / ".pdkernel" / "project.db")
    due = time.time() + 2
    connection.execute("begin immediate")
    for number in range(DUE):
        at = (due + number / DUE, f"copy{number:023d}")
        connection.execute("update waits set wake_at = ? where run_id = ?", at)
        connection.execute("update runs set wake_at = ? where id = ?", at)
    connection.execute("commit")
    left = f"select count(*) from runs where id < 'copy{DUE:023d}' and id like 'copy%' and status <> 'success'"
    while connection.execute(left).fetchone()[0]:
        time.sleep(0.1)
    late = connection.execute(
        "select max(w.at - w.wake_at), max(r.ended - w.wake_at) from runs r join waits w on w.run_id = r.id"
        " where r.status = 'success' and r.id like 'copy%'"
    ).fetchone()
    connection.close()
    return list(late)


def resume_all(server: Server, folder: Path) -> float:
    """The median milliseconds of a call that resumes a run."""
    runs = [json.loads(server.post("Flow")[1])["event_id"] for _ in range(CALLS)]
    connection = connect(folder / ".pdkernel" / "project.db")
    times = []
    for run in runs:
        while not (row := connection.execute("select data from waits where run_id = ?", (run,)).fetchone()):
            time.sleep(0.01)
        times.append(server.post(json.loads(row[0])["exports"]["$return_value"]["resume_url"])[0])
        time.sleep(0.02)  # the run ends before the next call
    connection.close()
    return statistics.median(times)


def rows(folder: Path, query: str) -> list[tuple[object, ...]]:
    """The rows of a query."""
    with closing(connect(folder / ".pdkernel" / "project.db")) as connection:
        return connection.execute(query).fetchall()


def continue_after_kill(folder: Path) -> tuple[float, float]:
    """The seconds of a plain start, and from the start after a kill until the killed run's step begins again."""
    notebook_of(folder / "continued.ipynb", *CONTINUED)
    with served(folder, "continued.ipynb") as server:
        plain_s = server.start_s
        server.post("Continued")
        while not rows(folder, "select 1 from runs where status = 'running'"):
            time.sleep(0.01)
        time.sleep(1)  # the step begins
        server.process.kill()
    began = time.time()
    with served(folder, "continued.ipynb"):
        while not (found := rows(folder, "select data from steps where name = 'slow'")):
            time.sleep(0.01)
    again: float = json.loads(str(found[0][0]))["exports"]["$return_value"]
    return plain_s, again - began


def limited_rate(folder: Path) -> tuple[float, float]:
    """Runs per second of one client without a limit, and of many clients whose workflow has a concurrency of 1."""
    notebook_of(folder / "limited.ipynb", *LIMITED)

    def work(urls: Server, name: str, calls: int) -> None:
        with closing(urls.connect()) as connection:
            for _ in range(calls):
                urls.post(name, connection)

    def count(query: str) -> int:
        return int(str(rows(folder, query)[0][0]))

    def rate(workflow: str, clients: int) -> float:
        calls = CLIENTS * CALLS_EACH
        ended = f"select count(*) from runs where workflow = '{workflow}' and ended is not null"
        before = count(ended)
        began = time.perf_counter()
        threads = [
            threading.Thread(target=work, args=(server, workflow, calls // clients), daemon=True)
            for _ in range(clients)
        ]
        for thread in threads:
            thread.start()
        while count(ended) < before + calls:
            time.sleep(0.02)
        return calls / (time.perf_counter() - began)

    with served(folder, "plain.ipynb", "limited.ipynb") as server:
        for workflow in ("Plain", "Limited"):
            rate(workflow, 1)
        return rate("Plain", 1), rate("Limited", CLIENTS)


def main() -> None:
    """Measure, and print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        notebook_of(folder / "flow.ipynb", *FLOW)
        notebook_of(folder / "plain.ipynb", *PLAIN)
        with served(folder):  # reads the files that each start reads
            pass
        with served(folder) as server:
            none = server.measure()
            resume_ms = resume_all(server, folder)
            server.post("Flow")
            time.sleep(1)
        pause_runs(folder, PAUSED)
        with served(folder) as server:
            many = server.measure()
            woken_s, ended_s = make_due(folder)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        notebook_of(folder / "plain.ipynb", *PLAIN)
        plain, limited = limited_rate(folder)
        start_s, again_s = continue_after_kill(folder)
    print(f"{PAUSED:,} paused runs against none")
    print(f"  start        {many.start_s:6.2f} s   {many.start_s / none.start_s:5.2f} x")
    print(f"  memory       {many.memory_mb:6.0f} MB  {many.memory_mb / none.memory_mb:5.2f} x")
    print(f"  idle         {many.idle_cpu:6.1%}    {none.idle_cpu:.1%} of a processor with none")
    print(f"  request      {many.call_ms:6.2f} ms  {many.call_ms / none.call_ms:5.2f} x")
    print(f"{DUE:,} runs due in one second: the last woken {woken_s:.2f} s late, the last ended {ended_s:.2f} s late")
    print(f"resume URL     {resume_ms:6.2f} ms  {resume_ms / none.call_ms:5.2f} x a plain request")
    print(f"continued      {again_s:6.2f} s   {again_s / start_s:5.2f} x a plain start, after a kill")
    print(f"limit of 1     {limited:6.0f} runs/s {limited / plain:5.2f} x one client without a limit")


if __name__ == "__main__":
    main()

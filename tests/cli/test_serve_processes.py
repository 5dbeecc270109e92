"""`pdkernel serve --server-processes N`: a project on Postgres in several processes of one command."""

from __future__ import annotations

import codecs
import json
import os
import pty
import re
import select
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest

from pdkernel.common.blocking import FORBID_VARIABLE
from pdkernel.common.safe_files import STEP_PATHS_VARIABLE
from tests.cli.conftest import ROOT, Shell
from tests.cli.fork_server import ForkServer
from tests.notebook_files import notebook_of
from tests.postgres import PostgresServer

LIMIT_S = 60.0
FLOW = "%%pdworkflow\nname: Flow\ntrigger:\n  type: http\n"
WAIT = """%%pdstep wait
import os, time
def handler(pd):
    gate = pd.steps["trigger"]["event"]["body"]["gate"]
    with open(gate + ".begun", "a") as begun:
        begun.write(f"{pd.steps['trigger']['context']['id']}\\n")
    while not os.path.exists(gate):
        time.sleep(0.02)
    return pd.context.get("attempt", 1)
"""


@dataclass
class Processes:
    """
    `pdkernel serve` in several processes, whose messages are on a terminal.

    Attributes:
        pid: The id of the parent.
        url: The URL of the database.
        folder: The folder of the project.
        shown: What the terminal shows.
    """

    pid: int
    database: str
    folder: Path
    terminal: int
    shown: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _decoder: codecs.IncrementalDecoder = field(default_factory=codecs.getincrementaldecoder("utf-8"))

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The first match of *pattern* in what the terminal shows."""
        ends = time.monotonic() + LIMIT_S
        while (found := re.search(pattern, self.shown)) is None:
            assert time.monotonic() < ends, self.shown
            self.read(0.1)
        return found

    def read(self, wait_s: float) -> None:
        """Read what the terminal shows."""
        with self._lock:
            if select.select([self.terminal], [], [], wait_s)[0]:
                self.shown += self._decoder.decode(os.read(self.terminal, 65536))  # a piece may end within a character

    @property
    def base_url(self) -> str:
        """The URL of the server."""
        return self.wait_for(r"Serving at (\S+)")[1]

    @property
    def endpoint(self) -> str:
        """The URL of the workflow."""
        return self.wait_for(r"Flow +(http\S+)")[1]

    def children(self) -> list[int]:
        """The ids of the server processes."""
        parent = psutil.Process(self.pid)
        found = []
        for child in parent.children():
            with suppress(psutil.NoSuchProcess):
                found += [child.pid] if child.cmdline() == parent.cmdline() else []
        return found

    def rows(self, query: str, *values: object) -> list[Any]:
        """The rows of a query of the project's database."""
        with psycopg.connect(self.database, autocommit=True) as connection:
            return connection.execute(query, values).fetchall()  # type: ignore[call-overload, unused-ignore, no-any-return]

    def wait_for_rows(self, query: str, count: int, *values: object) -> list[Any]:
        """The rows of a query, as soon as there are *count*."""
        ends = time.monotonic() + LIMIT_S
        while len(rows := self.rows(query, *values)) != count:
            self.read(0.05)
            if time.monotonic() > ends:
                state = self.rows("select id, status, owner, attempt, output from runs where status <> 'success'")
                raise AssertionError((query, rows, state, self.rows("select * from executors"), self.shown))
        return rows

    def accept(self, gate: Path, count: int) -> list[str]:
        """Send *count* events, on a connection each, whose runs wait for the file *gate*; return the ids of the runs."""

        def call(_: int) -> str:
            answer = httpx.post(self.endpoint, json={"gate": str(gate)}, timeout=LIMIT_S)
            assert answer.status_code == 200, answer.text
            return str(answer.json()["event_id"])

        with ThreadPoolExecutor(count) as threads:
            return list(threads.map(call, range(count)))

    def accept_in_both(self, gate: Path) -> list[str]:
        """Send four events as `accept` does, and more until both processes execute some; return the ids of the runs."""
        runs = self.accept(gate, 4)
        ends = time.monotonic() + LIMIT_S
        while len(self.owners(runs)) < 2:  # the machine may let one process wait, which takes no connections then
            assert time.monotonic() < ends, self.shown
            self.read(0.05)
            if all(self.rows("select status = 'running' from runs where id = %s", run) == [(True,)] for run in runs):
                runs += self.accept(gate, 1)
        self.wait_for_rows("select id from runs where status = 'running' and id = any(%s)", len(runs), runs)
        return runs

    def owners(self, runs: list[str]) -> list[str]:
        """The executors that execute *runs*."""
        found = self.rows("select distinct owner from runs where status = 'running' and id = any(%s)", runs)
        return [owner for (owner,) in found]


@contextmanager
def processes_of(
    fork_server: ForkServer, folder: Path, database: str, *args: str, **environ: str
) -> Iterator[Processes]:
    """Serve `flow.ipynb` in *folder* in two processes."""
    notebook_of(folder / "flow.ipynb", FLOW, WAIT)
    ours, terminal = pty.openpty()
    started = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT),
        "PDKERNEL_DATABASE": database,
        FORBID_VARIABLE: "1",
    }
    started |= {"PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring", **environ}
    started[STEP_PATHS_VARIABLE] = os.environ[STEP_PATHS_VARIABLE]  # steps write files beside the project
    command = ("serve", "flow.ipynb", "--server-processes", "2", "--port", "0", *args)
    with Path(os.devnull).open("r+") as nothing:
        streams = (nothing.fileno(), nothing.fileno(), terminal)
        pid = fork_server.start(command, folder=folder, environ=started, streams=streams)
    os.close(terminal)
    family = [psutil.Process(pid)]
    running = Processes(pid, database, folder, ours)
    try:
        running.wait_for(r"Console: ")
        family += family[0].children()
        yield running
    finally:
        for process in family:
            if process.is_running():
                process.kill()
        os.close(ours)


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> Iterator[str]:
    """The URL of the project's database."""
    with postgres.new_database() as url:
        yield url


@pytest.fixture(scope="module")
def two(fork_server: ForkServer, database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Two server processes, which run until the end of the module."""
    folder = tmp_path_factory.mktemp("two")
    with processes_of(fork_server, folder, database, "-v", "--memory", "4G") as running:
        yield running


def test_the_processes_share_the_memory(two: Processes) -> None:
    """Each process takes its part of --memory for its workers."""
    assert two.wait_for(r"the workers of this process use more than (\d+) MB")[1] == "2048"


def test_both_processes_answer(two: Processes, tmp_path: Path) -> None:
    """Events that arrive together are run by two executors."""
    gate = tmp_path / "gate"
    runs = two.accept_in_both(gate)
    owners = two.owners(runs)
    gate.touch()

    assert len(owners) == 2
    two.wait_for_rows("select id from runs where status = 'success' and id = any(%s)", len(runs), runs)


def test_a_login_is_valid_at_both_processes(two: Processes) -> None:
    """The terminal shows one code; its session is open whichever process answers."""
    _, host, code = two.wait_for(r"Console: http://(\S+)/-/login\?code=(\S+)").group(0, 1, 2)
    form = {"secret": code, "next": "/-/"}
    answer = httpx.post(f"{two.base_url}/-/login", data=form, headers={"host": host}, timeout=LIMIT_S)
    cookies = answer.cookies
    connections = [httpx.Client(cookies=cookies, headers={"host": host}, timeout=LIMIT_S) for _ in range(4)]
    pages = [client.get(f"{two.base_url}/-/runs", headers={"accept": "text/html"}) for client in connections]
    for client in connections:
        client.close()
    two.read(0)

    assert answer.status_code == 303
    assert [page.status_code for page in pages] == [200] * 4
    assert two.shown.count("/-/login?code=") == 1
    assert two.shown.count("Serving at") == 1


def test_a_killed_process_loses_nothing(two: Processes, tmp_path: Path) -> None:
    """
    A process that is killed is replaced, and the events that it has accepted finish, as attempt 2 where a step was in progress.

    Its lease, which the test extends by an hour, does not delay that.
    """
    gate = tmp_path / "gate"
    runs = two.accept_in_both(gate)
    running = "select distinct owner from runs where status = 'running' and id = any(%s)"
    before = two.owners(runs)
    victim = two.children()[0]
    os.kill(victim, signal.SIGKILL)
    two.wait_for(rf"The server process {victim} has ended by signal SIGKILL\.")
    two.rows("update executors set lease_until = lease_until + 3600 where origin = 'serve' returning id")
    two.wait_for_rows(f"{running} and owner = any(%s)", 1, runs, before)
    two.wait_for_rows("select id from runs where status = 'running' and id = any(%s)", len(runs), runs)
    again = two.rows("select id from runs where attempt = 2 and id = any(%s)", runs)
    gate.touch()
    two.wait_for_rows("select id from runs where status = 'success' and id = any(%s)", len(runs), runs)
    two.wait_for_rows("select id from executors where origin = 'serve' and alive", 2)

    assert victim not in two.children()
    assert 1 <= len(again) < len(runs)


def test_other_commands_see_the_runs(two: Processes, pdkernel: Shell, tmp_path: Path) -> None:
    """Another terminal lists the runs, and cancels one that a process of the server executes."""
    (run_id,) = two.accept(tmp_path / "never", 1)
    two.wait_for_rows("select id from runs where status = 'running' and id = %s", 1, run_id)
    there = ("--project", str(two.folder), "--database", two.database)
    listed = pdkernel("runs", "list", "--status", "executing", "--json", *there)
    cancelled = pdkernel("runs", "cancel", run_id, "--json", *there)
    two.wait_for_rows("select id from runs where status = 'cancelled' and id = %s", 1, run_id)

    assert [run["id"] for run in listed.json] == [run_id]
    assert cancelled.status == 0


def test_sigterm_drains(fork_server: ForkServer, postgres_url: str, tmp_path: Path) -> None:
    """SIGTERM lets runs end in all processes, and refuses new connections; nothing is lost."""
    gate = tmp_path / "gate"
    with processes_of(fork_server, tmp_path, postgres_url) as running:
        runs = running.accept_in_both(gate)
        parent = os.pidfd_open(running.pid)
        os.kill(running.pid, signal.SIGTERM)
        refused = _until_refused(running.base_url)
        gate.touch()
        ended, _, _ = select.select([parent], [], [], LIMIT_S)
        os.close(parent)
        statuses = running.rows("select distinct status from runs where id = any(%s)", runs)

        assert (refused, len(ended)) == (True, 1)
        assert statuses == [("success",)]
        assert running.rows("select id from executors") == []


def _until_refused(url: str) -> bool:
    ends = time.monotonic() + LIMIT_S
    while time.monotonic() < ends:
        try:
            httpx.get(f"{url}/-/ready", timeout=LIMIT_S)
        except (httpx.NetworkError, httpx.RemoteProtocolError):
            return True
        time.sleep(0.05)
    return False


def test_sqlite_is_refused(pdkernel: Shell) -> None:
    """On SQLite several processes are refused with the reason."""
    pdkernel.notebook(FLOW)

    ended = pdkernel("serve", "--server-processes", "2", "--port", "0")

    assert ended.status == 2
    assert "Several server processes need a project on Postgres" in ended.stderr
    assert "--database postgresql://" in ended.stderr


def test_the_json_line_is_printed_once(
    pdkernel: Shell, fork_server: ForkServer, postgres_url: str, tmp_path: Path
) -> None:
    """With --json, standard output has one line, which names the database without its password."""
    pdkernel.notebook(FLOW)
    reads, writes = os.pipe()
    environ = {**pdkernel.environment(), "PDKERNEL_DATABASE": postgres_url.replace("postgres@", "postgres:pw-4711@")}
    args = ("serve", "work.ipynb", "--server-processes", "2", "--port", "0", "--json")
    with Path(os.devnull).open("r+") as nothing:
        streams = (nothing.fileno(), writes, nothing.fileno())
        pid = fork_server.start(args, folder=tmp_path, environ=environ, streams=streams)
    os.close(writes)
    with os.fdopen(reads) as lines:
        line = lines.readline()
        answer = httpx.get(f"{json.loads(line)['url']}/-/ready", timeout=LIMIT_S)
        os.kill(pid, signal.SIGTERM)
        rest = lines.read()

    assert answer.status_code == 200
    assert json.loads(line)["database"].startswith("postgresql://postgres:***@/")
    assert rest == ""


def test_a_start_that_fails_is_reported_once(pdkernel: Shell, postgres_url: str) -> None:
    """A server whose project cannot be served prints one error, and ends with its status."""
    ended = pdkernel(
        "serve", "missing.ipynb", "--server-processes", "2", "--port", "0", "--json", PDKERNEL_DATABASE=postgres_url
    )

    assert ended.status == 2
    assert "missing.ipynb" in ended.json["error"]["message"]

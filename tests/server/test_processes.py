"""Several server processes on one socket: who answers, who replaces whom, and how they end."""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from tests.waiting import wait_until

LIMIT_S = 60.0


@dataclass
class Example:
    """`processes_example` with its output."""

    process: subprocess.Popen[str]
    port: int
    errors: Path

    def connect(self) -> http.client.HTTPConnection:
        """A connection, which the first request opens."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT_S)

    def ask(self, connection: http.client.HTTPConnection, path: str = "/") -> int:
        """The id of the process that answers on *connection*."""
        connection.request("GET", path)
        return int(connection.getresponse().read())

    def ask_once(self) -> int:
        """The id of the process that answers on a new connection."""
        with closing(self.connect()) as connection:
            return self.ask(connection)

    def wait_for_counts(self, connection: http.client.HTTPConnection, expected: Iterable[int]) -> None:
        """Wait until the processes know of so many open connections of each, in any order."""
        found: list[int] = []

        def is_expected() -> bool:
            connection.request("GET", "/counts")
            found[:] = sorted(json.loads(connection.getresponse().read()))
            return found == sorted(expected)

        wait_until(is_expected, report=lambda: found)

    def wait_until_refused(self) -> None:
        """Wait until no process accepts connections."""
        ends = time.monotonic() + LIMIT_S
        with suppress(ConnectionRefusedError, ConnectionResetError):  # the socket may close while it is asked
            while True:
                assert time.monotonic() < ends, self.errors.read_text()
                socket.create_connection(("127.0.0.1", self.port), LIMIT_S).close()
                time.sleep(0.01)

    def children(self) -> list[int]:
        """The ids of the server processes."""
        return [child.pid for child in psutil.Process(self.process.pid).children()]

    def wait_for_error(self, text: str) -> str:
        """What is printed to standard error, as soon as it has *text*."""
        wait_until(lambda: text in self.errors.read_text(), report=self.errors.read_text)
        return self.errors.read_text()


@contextmanager
def example(folder: Path, count: int, *, failing: str = "") -> Iterator[Example]:
    """The example with *count* processes; those in *failing* cannot start. It has printed a line, or has ended."""
    (folder / "failing").write_text(failing)
    errors = folder / "errors"
    with (
        errors.open("w") as stream,
        subprocess.Popen(
            [sys.executable, "-m", "tests.server.processes_example", str(count), str(folder / "failing")],
            stdout=subprocess.PIPE,
            stderr=stream,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        try:
            assert select.select([process.stdout], [], [], LIMIT_S)[0]
            line = process.stdout.readline()
            yield Example(process, urlsplit(line).port or 0 if line.startswith("http") else 0, errors)
        finally:
            process.kill()


def wait_until_ended(pids: list[int]) -> None:
    """Wait until no process with one of *pids* lives."""
    left = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            left.append(psutil.Process(pid))
    gone, alive = psutil.wait_procs(left, LIMIT_S)
    assert not alive, gone


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    """Two processes."""
    with example(tmp_path_factory.mktemp("two"), 2) as started:
        yield started


def connect_until_even(
    started: Example, connections: list[http.client.HTTPConnection], answers: list[int], limit: int = 100
) -> None:
    """
    Add connections, and the processes that answer on them, until each of two processes has half of them.

    A process that the machine lets wait takes none for a moment; then it takes the next ones.
    """
    while 2 * max(Counter(answers).values()) > len(answers) + 1:
        assert len(connections) < limit, Counter(answers)
        connections.append(started.connect())
        answers.append(started.ask(connections[-1]))


def test_connections_are_shared_evenly(two: Example) -> None:
    """Clients that connect together, and stay connected, are shared evenly; each stays with its process."""
    connections = [two.connect() for _ in range(16)]
    threads = [threading.Thread(target=connection.connect) for connection in connections]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first = [two.ask(connection) for connection in connections]
    connect_until_even(two, connections, first)
    two.wait_for_counts(connections[0], Counter(first).values())
    second = [two.ask(connection) for connection in connections]
    for connection in connections:
        connection.close()

    assert sorted(Counter(first)) == sorted(two.children())
    assert second == first


def test_a_client_that_leaves_makes_room(two: Example) -> None:
    """New clients go to the process whose clients have left, until both processes have as many."""
    connections = [two.connect() for _ in range(8)]
    answers = [two.ask(connection) for connection in connections]
    connect_until_even(two, connections, answers)
    left = answers[0]
    stay = [place for place, pid in enumerate(answers) if pid != left]
    for connection, pid in zip(connections, answers, strict=True):
        if pid == left:
            connection.close()
    connections, answers = [connections[place] for place in stay], [answers[place] for place in stay]
    two.wait_for_counts(connections[0], [0, len(stay)])  # until the process has noticed
    connect_until_even(two, connections, answers)
    for connection in connections:
        connection.close()

    assert len(stay) > 2
    assert left in answers


def test_a_killed_process_is_replaced(two: Example) -> None:
    """A process that is killed is replaced at once, with a message; requests are answered meanwhile."""
    before = two.children()
    os.kill(before[0], signal.SIGKILL)
    answers = {two.ask_once() for _ in range(20)}
    printed = two.wait_for_error(f"predecessor executor-{before[0]}\n")

    assert before[0] not in answers
    assert f"The server process {before[0]} has ended by signal SIGKILL. Other processes continue its runs." in printed
    assert before[1] in two.children()


def test_a_stopped_process_takes_no_connections(two: Example) -> None:
    """If one process does not run, the other one accepts its connections."""
    stopped = two.children()[0]
    os.kill(stopped, signal.SIGSTOP)
    try:
        while psutil.Process(stopped).status() != psutil.STATUS_STOPPED:  # the signal takes effect later
            time.sleep(0.01)
        connections = [two.connect() for _ in range(3)]
        answers = [two.ask(connection) for connection in connections]
    finally:
        os.kill(stopped, signal.SIGCONT)
    for connection in connections:
        connection.close()

    assert stopped not in answers


def test_a_signal_ends_all_gracefully(tmp_path: Path) -> None:
    """A request that is in progress at SIGTERM is answered; then all processes end, with status 0."""
    with example(tmp_path, 2) as started, closing(started.connect()) as connection:
        pids = started.children()
        answers: list[int] = []
        gate = tmp_path / "gate"
        caller = threading.Thread(target=lambda: answers.append(started.ask(connection, f"/?gate={gate}")))
        caller.start()
        started.wait_for_error(f"waits for {gate}")
        started.process.send_signal(signal.SIGTERM)
        started.wait_until_refused()
        gate.touch()
        caller.join()

        assert started.process.wait(LIMIT_S) == 0
        assert answers[0] in pids
        assert not [pid for pid in pids if psutil.pid_exists(pid)]


def test_the_processes_end_with_their_parent(tmp_path: Path) -> None:
    """After a kill of the parent, its processes end too."""
    with example(tmp_path, 3) as started:
        pids = started.children()
        started.process.kill()
        started.process.wait(LIMIT_S)

        assert len(pids) == 3
        wait_until_ended(pids)


def test_a_start_that_fails_is_reported_once(tmp_path: Path) -> None:
    """If the first process cannot start, the others are not started; its output and status are those of the parent."""
    with example(tmp_path, 2, failing="01") as started:
        status = started.process.wait(LIMIT_S)
        assert started.process.stdout is not None
        rest = started.process.stdout.read()

    assert (status, rest) == (7, "")


def test_a_start_that_ends_without_a_failure_is_one(tmp_path: Path) -> None:
    """A process that ends with status 0 before it accepts requests has not served: the parent's status is not 0."""
    with example(tmp_path, 2, failing="0!") as started:
        assert started.process.wait(LIMIT_S) == 3


def test_a_later_start_that_fails_ends_all(tmp_path: Path) -> None:
    """If another process cannot start, the first one ends too, and no URL is printed."""
    with example(tmp_path, 2, failing="1") as started:
        status = started.process.wait(LIMIT_S)

        assert (status, started.port) == (7, 0)
        assert "cannot start" in started.errors.read_text()


def test_a_replacement_of_a_replacement_continues_the_first_runs(tmp_path: Path) -> None:
    """If a replacement dies before it is ready, the next one is told of the process that had runs."""
    with example(tmp_path, 2) as started:
        (tmp_path / "failing").write_text("0")
        victim = started.children()[0]
        os.kill(victim, signal.SIGKILL)
        started.wait_for_error("has ended with status 7")
        (tmp_path / "failing").write_text("")

        printed = started.wait_for_error(f"predecessor executor-{victim}\n")

        assert printed.count(f"predecessor executor-{victim}\n") == 1


def test_a_process_that_dies_again_and_again_is_replaced_later(tmp_path: Path) -> None:
    """The second death of a new process delays the next start; SIGTERM does not wait for it."""
    with example(tmp_path, 2) as started:
        (tmp_path / "failing").write_text("0")
        victim = started.children()[0]
        os.kill(victim, signal.SIGKILL)
        printed = started.wait_for_error("has ended with status 7")
        started.process.terminate()

        assert "A new process starts in 1 s." in printed
        assert started.process.wait(60) == 0

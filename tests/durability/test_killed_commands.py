"""A command that is killed in the middle of a run: the next one that reads runs sees that the run was interrupted."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from pdkernel.common.safe_files import STEP_PATHS_VARIABLE
from tests.cli.fork_server import ROOT, ForkServer
from tests.durability.server_process import ServerProcess, logging_step, new_project, server_of


def environ_of(folder: Path) -> dict[str, str]:
    """The environment of a command in *folder*."""
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(ROOT)}
    return {**environ, STEP_PATHS_VARIABLE: os.environ[STEP_PATHS_VARIABLE]}


def kill_a_run(fork_server: ForkServer, server: ServerProcess) -> str:
    """Kill a `pdkernel run` while its step executes; return the id of its run."""
    folder = server.folder
    words = ("run", "slow.ipynb", "--body", "{}")
    with fork_server.open(words, folder=folder, environ=environ_of(folder)) as command:
        server.wait_until(lambda: server.begun() or command.poll() is not None)
        [(run,)] = server.rows("select id from runs where status = 'running' and origin = 'terminal'")
        command.kill()
    return str(run)


@pytest.mark.parametrize(
    ("words", "is_served"),
    [
        (("runs", "list", "--json"), True),
        (("runs", "show", "{run}", "--json"), False),
        (("runs", "show", "--json"), True),
    ],
)
def test_a_killed_command_is_interrupted_for_the_next_one(
    fork_server: ForkServer, tmp_path: Path, words: Sequence[str], is_served: bool
) -> None:
    """Whether a server runs meanwhile or not, the run has ended with the reason, and one that still executes has not."""
    with server_of(fork_server, tmp_path / "project") as server:
        folder = server.folder
        new_project(folder, [logging_step("x", server.log)], slow=[logging_step("slow", server.log, "time.sleep(600)")])
        if is_served:
            server.start()
        run = kill_a_run(fork_server, server)

        done = fork_server.run([word.format(run=run) for word in words], folder=folder, environ=environ_of(folder))

        shown = json.loads(done.stdout)
        [shown] = shown if isinstance(shown, list) else [shown]
        assert (shown["id"], shown["status"], shown["error"]["name"]) == (run, "error", "Interrupted")
        assert "ended before the run did" in shown["error"]["message"]
        assert server.rows("select id from executors where origin = 'terminal'") == []


def test_a_command_that_runs_is_not_interrupted(fork_server: ForkServer, tmp_path: Path) -> None:
    """Other commands, also a frozen one, keep their runs, and the run of a killed server is left to the next server."""
    with server_of(fork_server, tmp_path / "project") as server:
        folder = server.folder
        slow = [logging_step("slow", server.log, "time.sleep(600)")]
        new_project(folder, slow, slow=slow)
        server.start()
        server.post(server.endpoint, {})
        server.wait_for("select 1 from runs where status = 'running'")
        server.kill()
        words = ("run", "slow.ipynb", "--body", "{}")
        with fork_server.open(words, folder=folder, environ=environ_of(folder)) as command:
            server.wait_for("select id from runs where status = 'running' and origin = 'terminal'")
            done = fork_server.run(["runs", "list", "--json"], folder=folder, environ=environ_of(folder))
            command.kill()

        assert [each["status"] for each in json.loads(done.stdout)] == ["executing", "executing"]


def test_a_server_notices_a_killed_command(fork_server: ForkServer, tmp_path: Path) -> None:
    """A server that runs ends the run soon, so that its console and its limits know."""
    with server_of(fork_server, tmp_path / "project") as server:
        slow = [logging_step("slow", server.log, "time.sleep(600)")]
        new_project(server.folder, [logging_step("x", server.log)], slow=slow)
        server.start()
        run = kill_a_run(fork_server, server)

        server.wait_for("select 1 from runs where id = ? and status = 'error'", run)

"""A server that dies around the end of a failed run: the workflow that listens to errors runs once."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from pdkernel.operations.triggers import enable_triggers
from pdkernel.storage import Project
from tests.cli.fork_server import ForkServer
from tests.durability.faults import KILL_AT_COMMIT
from tests.durability.server_process import logging_step, new_project, server_of

LISTENS = "%%pdworkflow\nname: Ears\ntrigger: {type: errors}"


@pytest.mark.parametrize(
    ("number", "side"), [(5, "after"), (6, "before"), pytest.param(8, "after", marks=pytest.mark.slow)]
)
def test_a_kill_loses_and_repeats_no_error(fork_server: ForkServer, tmp_path: Path, number: int, side: str) -> None:
    """
    A failed run starts one run of the workflow that listens, whichever of these commits was the last one.

    They are the end of the failed run with its event, the outcome of the delivery, and the start of the listener's run.
    """
    folder = tmp_path / "project"
    unfinished = (
        "select 1 from outbox where due is not null union select 1 from trigger_events"
        " union select 1 from runs where ended is null"
    )
    with server_of(fork_server, folder) as server:
        fails = logging_step("bad", server.log, "raise ValueError('no stock')")
        new_project(folder, [fails], ears=[LISTENS, logging_step("heard", server.log)])
        with Project.open(folder / ".pdkernel") as project:
            enable_triggers(project, "Ears", folder)
        server.more = ("ears.ipynb",)
        server.start(KILL_AT_COMMIT, number, side)
        server.post(server.endpoint, {"n": 1})

        def is_done() -> bool:
            if (
                not server.is_alive
            ):  # a busy process writes several rows in one commit, and may never reach the last number
                server.kill()
                with closing(sqlite3.connect(server.database)) as connection, connection:
                    # another process delivers the message after a minute
                    connection.execute("update outbox set due = 1 where due is not null")
                server.restart()
            return bool(server.rows("select 1 from runs where workflow = 'Ears'")) and not server.rows(unfinished)

        server.wait_until(is_done)

        ended = server.rows("select workflow, status from runs order by created")
        assert ended == [("flow", "error"), ("Ears", "success")]

"""A schedule for each external user, whose servers die: each user has one run, and none is lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pdkernel.accounts import LocalDirectory
from pdkernel.operations.triggers import enable_triggers
from pdkernel.storage import Project
from tests.cli.fork_server import ForkServer
from tests.durability.faults import ALL_OF, KILL_AT_EVENT, SHORT_PAGES
from tests.durability.hosts import hosts_of
from tests.durability.server_process import new_project, server_of
from tests.waiting import LIMIT_S

HEADER = "%%pdworkflow\nname: Each\ntrigger: {type: schedule, interval_seconds: 86400, for_each: external_user}\n"
CELLS = [HEADER, "%%pdstep done\ndef handler(pd):\n    return 1\n"]
PAGE_SIZE = 20
USERS = 2 * PAGE_SIZE + 5
NO_USER_TWICE = "select count(*), count(distinct external_user) from runs"
DONE = "select 1 from batches where state = 'done'"


def let_tick(project: Project, folder: Path, users: int) -> None:
    """Connect an account for each user, and let the schedule of the notebook be due now."""
    directory = LocalDirectory(project)
    for number in range(users):
        directory.add_account(app="slack", credentials={"token": "t"}, external_user_id=f"user-{number:04}")
    (view,) = enable_triggers(project, str(folder / "flow.ipynb"), folder)
    assert view.state is not None
    project.workflow_triggers.save([replace(view.state, due=project.clock.now())])


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize(
    "statement", ["INSERT INTO batches", "UPDATE batches SET listed_to", "UPDATE batches SET state"]
)
def test_a_kill_in_the_middle_loses_and_repeats_no_user(
    fork_server: ForkServer, tmp_path: Path, side: str, statement: str
) -> None:
    """The server dies on either side of the commit of the tick, of a page of users, or of the end of the list."""
    folder = tmp_path / "project"
    with server_of(fork_server, folder) as server:
        new_project(folder, CELLS)
        with Project.open(folder / ".pdkernel") as project:
            let_tick(project, folder, USERS)
        server.start(ALL_OF, (SHORT_PAGES, PAGE_SIZE), (KILL_AT_EVENT, side, statement))
        server.wait_until_ended()
        server.restart()
        server.wait_for(DONE, limit_s=2 * LIMIT_S)

        assert server.rows(NO_USER_TWICE) == [(USERS, USERS)]
        assert server.rows("select distinct status from runs") == [("success",)]
        assert server.rows("select count(*) from batches") == [(1,)]


def test_a_host_that_dies_is_followed_by_another(fork_server: ForkServer, tmp_path: Path, postgres_url: str) -> None:
    """Two hosts make one batch of a tick, and the one that survives records the rest."""
    with hosts_of(fork_server, tmp_path, [postgres_url] * 2, CELLS, faults=[(SHORT_PAGES, PAGE_SIZE)]) as hosts:
        dying, living = hosts.servers
        with Project.open(dying.folder / ".pdkernel", database_url=postgres_url, key_file=tmp_path / "key") as project:
            let_tick(project, dying.folder, USERS)
        hosts.reader.wait_for("select 1 from runs")
        dying.kill()
        living.wait_for(DONE, limit_s=2 * LIMIT_S)

        assert living.rows(NO_USER_TWICE) == [(USERS, USERS)]
        assert living.rows("select count(*) from batches") == [(1,)]

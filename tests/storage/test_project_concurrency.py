"""Several threads and several processes on one project."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pdkernel.accounts import LocalDirectory
from pdkernel.storage import Project
from tests.storage.processes import run_together, start_process

START = """
import json, sys
from pathlib import Path
from pdkernel.storage import Project
print("ready", flush=True)
sys.stdin.readline()
with Project.open(Path(sys.argv[1])) as project:
    project.variables.set(sys.argv[2], "from " + sys.argv[2])
    print(json.dumps([project.project_id, project.is_new]))
"""

WRITE = """
import sys
from pathlib import Path
from pdkernel.accounts import LocalDirectory
from pdkernel.storage import Project
with Project.open(Path(sys.argv[1])) as project:
    directory = LocalDirectory(project)
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(25):
        directory.add_account(app="slack", credentials={"t": sys.argv[2]}, external_user_id=f"u{number}",
                              account_id=f"apn_{sys.argv[2]}{number}")
        project.notebook_states.save("same", {"by": sys.argv[2], "number": number})
        project.data_stores.set("shared", f"{sys.argv[2]}-{number}", number)
        project.data_stores.set("shared", "last", sys.argv[2])
"""


def test_processes_that_start_together_agree(tmp_path: Path) -> None:
    """Processes that create a project at the same time share one id and one key, and all can write."""
    folder = tmp_path / ".pdkernel"
    processes = [start_process(START, folder, name) for name in "ABCD"]

    opened: list[Any] = [json.loads(line) for line in run_together(processes)]

    assert len({project_id for project_id, _ in opened}) == 1
    assert sorted(created for _, created in opened) == [False, False, False, True]
    with Project.open(folder) as project:
        assert project.variables.values() == {name: f"from {name}" for name in "ABCD"}


def test_two_kernels_write_to_one_project(tmp_path: Path) -> None:
    """Two processes that write at the same time lose no value."""
    folder = tmp_path / ".pdkernel"
    processes = [start_process(WRITE, folder, name) for name in "xy"]

    run_together(processes)

    with Project.open(folder) as project:
        directory = LocalDirectory(project)
        assert len(directory.accounts()) == 50
        assert project.data_stores.count("shared") == 51
        assert len(directory.users("development")) == 25
        state = project.notebook_states.load("same", dict)
        assert state is not None
        assert state["number"] == 24


def test_threads_share_a_project(tmp_path: Path) -> None:
    """Many threads can use one open project at once."""
    with Project.open(tmp_path / ".pdkernel") as project, ThreadPoolExecutor(8) as threads:

        def work(number: int) -> int:
            project.variables.set(f"V{number}", str(number))
            return len(project.variables.list())

        list(threads.map(work, range(64)))

        assert project.variables.values() == {f"V{number}": str(number) for number in range(64)}


def test_reads_of_a_thread_see_writes_of_other_threads(project: Project) -> None:
    """Reads on a shared connection are not a snapshot: the next read sees a write of another thread."""
    directory = LocalDirectory(project)
    with project.shared_read_connection(), ThreadPoolExecutor(1) as other:
        before = directory.newest_account("u", "development", "slack")
        added = other.submit(
            directory.add_account, app="slack", credentials={"t": "value"}, external_user_id="u"
        ).result()
        after = directory.newest_account("u", "development", "slack")

    assert before is None
    assert after == added


def test_a_shared_connection_in_use_is_closed_later(sqlite_project: Project) -> None:
    """The connection that a thread reads with while the project is closed is closed when the thread has finished."""
    database = sqlite_project.sqlite_path
    with sqlite_project.shared_read_connection():
        sqlite_project.settings.get("any")
        sqlite_project.close()

    assert database not in [each.resolve() for each in Path("/proc/self/fd").iterdir()]


def test_shared_reads_may_be_nested(sqlite_project: Project) -> None:
    """An inner block shares the connection of the outer one, whose later reads still work; an error ends both."""
    sqlite_project.variables.set("A", "1")
    with sqlite_project.shared_read_connection():
        with sqlite_project.shared_read_connection():
            assert sqlite_project.variables.list() == ["A"]
        assert sqlite_project.variables.list() == ["A"]

    with pytest.raises(KeyError), sqlite_project.shared_read_connection(), sqlite_project.shared_read_connection():
        raise KeyError

    sqlite_project.variables.set("B", "2")
    assert sqlite_project.variables.list() == ["A", "B"]

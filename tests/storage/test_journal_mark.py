"""A SQLite project whose `-wal` file was lost or damaged, or whose database was replaced, after its server was killed."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from pdkernel.cli import pdkernel as command
from pdkernel.errors import ProjectError
from pdkernel.storage import Project
from pdkernel.storage.journal_mark import find_mark

RUNS = 150
SERVER = """
import asyncio, os, signal, sys
from pathlib import Path
from pdkernel.journal import NewRun, open_journal
from pdkernel.model import Step, Workflow
from pdkernel.storage import Project

async def serve():
    project = Project.open(Path(sys.argv[1]))
    journal = open_journal(project, origin="serve")
    definition = await journal.store_definition(Workflow("Greet", steps=(Step("one"),)))
    for number in range(int(sys.argv[2])):
        accepted = await journal.accept_run(NewRun(
            f"run{number}", "trace", "Greet", definition, "{}", external_user_id=None, environment="development", origin="serve"
        ))
        assert accepted
        await asyncio.sleep(0.002)
    await asyncio.sleep(0.1)
    await journal.next_wake()
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(serve())
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a project whose server has accepted `RUNS` runs, and was killed."""
    folder = tmp_path_factory.mktemp("killed") / ".pdkernel"
    ended = subprocess.run(
        [sys.executable, "-c", SERVER, folder, str(RUNS)], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    return folder


@pytest.fixture
def folder(killed: Path, tmp_path: Path) -> Path:
    """A copy of `killed`."""
    return Path(shutil.copytree(killed, tmp_path / ".pdkernel"))


def count_runs(folder: Path) -> int:
    """The number of runs in the database, which is opened as it is."""
    with closing(sqlite3.connect(folder / "project.db")) as connection:
        return int(connection.execute("select count(*) from runs").fetchone()[0])


def accept(folder: Path) -> int:
    """Run `pdkernel project restore`; return its exit code."""
    return CliRunner().invoke(command, ["--project", str(folder), "project", "restore", "--yes"]).exit_code


def test_a_killed_server_loses_nothing(folder: Path) -> None:
    """After a kill alone, the project opens with every accepted run."""
    Project.open(folder).close()

    assert count_runs(folder) == RUNS


@pytest.mark.parametrize("lost", ["project.db", "project.db-wal"])
def test_a_file_that_is_put_back_is_used(folder: Path, lost: str) -> None:
    """A refusal changes nothing: with both files, every run is there again."""
    (folder / lost).rename(folder / "kept")
    with pytest.raises(ProjectError, match="is missing or empty"):
        Project.open(folder)
    (folder / "kept").rename(folder / lost)

    Project.open(folder).close()

    assert count_runs(folder) == RUNS


def test_a_missing_wal_file_is_refused(folder: Path) -> None:
    """Without its `-wal` file no new project is made in silence: the error names the file and a command, which permits it."""
    (folder / "project.db-wal").rename(folder / "kept")
    key = (folder / "key").read_bytes()

    for _ in range(2):
        with pytest.raises(ProjectError, match=r"project\.db-wal") as refused:
            Project.open(folder)
    code = accept(folder)
    with Project.open(folder) as project:
        is_new = project.is_new

    assert "pdkernel project restore" in str(refused.value.fix)
    assert (code, is_new, (folder / "key").read_bytes()) == (0, True, key)


@pytest.mark.parametrize("place", [0.3, 0.95])
def test_a_damaged_wal_file_is_refused(folder: Path, place: float) -> None:
    """A byte that was flipped in the `-wal` file loses no accepted run in silence."""
    log = folder / "project.db-wal"
    content = bytearray(log.read_bytes())
    content[int(len(content) * place)] ^= 0xFF
    log.write_bytes(content)

    for _ in range(2):
        with pytest.raises(ProjectError, match="has lost commits"):
            Project.open(folder)
    assert log.read_bytes() == content

    assert count_runs(folder) < RUNS
    assert accept(folder) == 0
    Project.open(folder).close()


def test_an_older_copy_and_another_project_are_refused(folder: Path, tmp_path: Path) -> None:
    """A backup that is put in the place of the database is used after the command; a whole folder needs none."""
    backup, database = tmp_path / "backup.db", folder / "project.db"
    Project.open(folder).close()
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(backup)) as target:
        source.backup(target)
    backup_folder = tmp_path / "whole" / ".pdkernel"
    backup_folder.mkdir(parents=True)
    shutil.copy(folder / "key", backup_folder / "key")
    shutil.copy(backup, backup_folder / "project.db")
    with closing(sqlite3.connect(backup)) as connection:
        connection.execute("update meta set value = '1' where name = 'journal_mark'")
        connection.commit()
    backup.replace(database)

    with pytest.raises(ProjectError, match="ends before the mark"):
        Project.open(folder)
    assert accept(folder) == 0
    Project.open(folder).close()
    Project.open(backup_folder).close()
    shutil.copy(backup_folder / "project.db", database)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("update meta set value = 'proj_other' where name = 'project_id'")
        connection.commit()
    with pytest.raises(ProjectError, match="of proj_other"):
        Project.open(folder)


def test_a_mark_that_cannot_be_read_or_written_stops_nothing(tmp_path: Path) -> None:
    """A mark that a crash of the machine has cut, or that cannot be written, stops no command."""
    folder = tmp_path / ".pdkernel"
    Project.open(folder).close()
    mark = find_mark(folder / "key", folder / "project.db")
    mark.write_text('{"proj')

    Project.open(folder).close()
    assert accept(folder) == 0
    assert accept(folder) == 2
    mark.mkdir()
    Project.open(folder).close()
    assert mark.is_dir()

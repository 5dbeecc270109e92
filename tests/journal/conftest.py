"""
Fixtures for the journal, on SQLite and on Postgres.

Each call of `open_journal` opens one more executor of the same journal; a test lets an executor die.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import pytest

from pdkernel.common.clock import ManualClock, SequentialIds
from pdkernel.execution import Execution, OutboundCall, StepResult
from pdkernel.journal import (
    CallRow,
    Claim,
    Journal,
    NewRun,
    OutboxRow,
    SqliteBackend,
    StepRow,
    WaitKey,
    WaitRow,
    encode_call,
    encode_event,
    encode_step,
)
from pdkernel.journal.backend import Backend
from pdkernel.journal.rows import WaitKind
from pdkernel.journal.schema import metadata
from pdkernel.journal.text_columns import encode_definition, hash_definition
from pdkernel.model import Step, Workflow
from pdkernel.storage import Project

if TYPE_CHECKING:
    from pdkernel.journal.postgres import PostgresBackend
    from tests.postgres import PostgresServer

WORKFLOW = Workflow("Greet", steps=(Step("one"), Step("two"), Step("three", disabled=True)))
DEFINITION = hash_definition(encode_definition(WORKFLOW))
"""The hash under which `store_definition` stores `WORKFLOW`."""
FIRST = Claim.first("run")
"""The claim of the executor that accepted `new_run()`."""
STEP = encode_step(StepResult("one", "success"))
PAUSED = encode_step(StepResult("one", "success", exports={"$return_value": "before"}))
"""The step of `wait_row` up to its pause."""
KEY = WaitKey("run", "one")
"""The pause of `wait_row` in `new_run()`."""


ONLY_SQLITE = pytest.mark.parametrize("kind", ["sqlite"])
"""Marks a test of what a file has and a server does not have."""


class Open(Protocol):
    """Opens the journal of one more executor."""

    def __call__(self, origin: str = "terminal") -> Journal:
        """Open the journal; all journals are closed after the test."""
        ...


Rows = Callable[[str], list[tuple[Any, ...]]]


class Database(Protocol):
    """
    A database with a journal.

    Attributes:
        is_file: Whether it is a file.
    """

    is_file: bool

    def set_version(self, version: int) -> None:
        """Set the version of the tables, as another version of pdkernel does."""
        ...

    def backend(self) -> Backend:
        """The backend of one more executor."""
        ...

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return the rows of *query*."""
        ...

    def execute(self, statement: str) -> None:
        """Change the database behind the journal."""
        ...

    def kill(self, journal: Journal, origin: str = "serve") -> None:
        """Let an executor of *origin* die: its journal stays open like that of a frozen process."""
        ...


class FakeLiveness:
    """`ExecutorLiveness` without processes; `kill` lets an executor die."""

    def __init__(self) -> None:
        self._held: set[str] = set()

    def hold(self, executor_id: str) -> None:
        """Show that the executor lives."""
        if executor_id in self._held:
            raise BlockingIOError(executor_id)
        self._held.add(executor_id)

    def release(self, executor_id: str) -> None:
        """Show that the executor has ended."""
        self._held.discard(executor_id)

    def is_alive(self, executor_id: str) -> bool:
        """Return whether the executor lives."""
        return executor_id in self._held

    def kill(self, journal: Journal, origin: str = "serve") -> None:
        """Let an executor of *origin* die: its locks are free."""
        self._held -= {journal.executor_id, origin}


class SqliteDatabase:
    """A file with a journal."""

    is_file = True

    def set_version(self, version: int) -> None:
        """Set the version of the tables."""
        self.execute(f"pragma user_version = {version}")

    def __init__(self, path: Path, liveness: FakeLiveness) -> None:
        self.path = path
        self._liveness = liveness

    def backend(self) -> Backend:
        """The backend of one more executor."""
        return SqliteBackend(self.path, liveness=self._liveness, origin_wait_s=0)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return the rows of *query*."""
        return rows_of(self.path, query)

    def execute(self, statement: str) -> None:
        """Change the file behind the journal."""
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute(statement)

    def kill(self, journal: Journal, origin: str = "serve") -> None:
        """Let an executor of *origin* die."""
        self._liveness.kill(journal, origin)


class _HeldTime:
    """The seconds of a process that soon has held its lease for long enough to take others for dead: its first minute passes in twelve calls."""

    def __init__(self) -> None:
        self._calls = 0

    def __call__(self) -> float:
        self._calls += 1
        return time.monotonic() + 5 * min(self._calls, 12)


class PostgresDatabase:
    """A Postgres database with a journal, whose executors extend no lease."""

    is_file = False

    def set_version(self, version: int) -> None:
        """Set the version of the tables."""
        self.execute(f"update meta set value = '{version}' where name = 'journal_schema_version'")

    def __init__(self, project: Project) -> None:
        self._project = project
        self._connection = self.postgres_backend().connect()
        self.backend().create_tables()

    def postgres_backend(
        self, *, lease_s: float = 3600, beat_s: float = 3600, monotonic: Callable[[], float] = time.monotonic
    ) -> PostgresBackend:
        """The backend of one more executor, with another lease."""
        from pdkernel.journal.postgres import PostgresBackend

        return PostgresBackend(self._project, lease_s=lease_s, beat_s=beat_s, monotonic=monotonic)

    def backend(self) -> Backend:
        """The backend of one more executor."""
        return self.postgres_backend(monotonic=_HeldTime())

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return the rows of *query*."""
        return self._connection.execute(cast("Any", query)).fetchall()

    def execute(self, statement: str) -> None:
        """Change the database behind the journal."""
        self._connection.execute(cast("Any", statement))

    def kill(self, journal: Journal, origin: str = "serve") -> None:
        """Let the lease of an executor lapse."""
        self._connection.execute("update executors set lease_until = 0 where id = %s", (journal.executor_id,))

    def clear(self) -> None:
        """Remove every row; much faster than a new database."""
        for table in metadata.tables:
            self.execute(f"delete from {table}")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def new_run(run_id: str = "run", *, queue: str | None = None, **more: Any) -> NewRun:
    """A run of `WORKFLOW`; *more* are fields of `NewRun`."""
    fields = {
        "trace_id": f"trace-{run_id}",
        "workflow": WORKFLOW.name,
        "definition": DEFINITION,
        "event": encode_event({"body": {"name": run_id}}, {"id": run_id}),
    }
    return NewRun(run_id, queue=queue, **(fields | more))


def step_row(seq: int, name: str, data: str = STEP) -> StepRow:
    """The row of a step outside of branches."""
    return StepRow(seq, name, data, path=name)


def wait_row(
    seq: int = 0, *, kind: WaitKind = "delay", number: int = 1, wake_at: float | None = None, data: str = PAUSED
) -> WaitRow:
    """The wait of the workflow's first step."""
    return WaitRow(seq, "one", kind=kind, number=number, wake_at=wake_at, data=data, carry=b"carry")


def outbox_row(position: int = 0, *, path: str = "one", number: int = 1, outcome: str = "waiting") -> OutboxRow:
    """A message of a step; its address names its position."""
    return OutboxRow(path, number, position, b"sealed", delivery(position, outcome, path=path))


def call_row(number: int = 1, *, path: str = "one", method: str = "POST") -> CallRow:
    """A call of a step that is in flight."""
    call = OutboundCall(method, f"https://api.example.com/{number}", None, 0.0, safe=False, outcome="failed", attempt=1)
    return CallRow(path, number, encode_call(call))


def delivery(position: int, outcome: str, *, path: str = "one") -> str:
    """The text of a delivery."""
    return f'{{"step":"{path}","kind":"http","outcome":"{outcome}","to":"{position}"}}'


async def load(journal: Journal, run_id: str = "run") -> Execution:
    """Return the record of a run that exists."""
    execution = await journal.get_execution(run_id)
    assert execution is not None
    return execution


async def status(journal: Journal, run_id: str = "run") -> str:
    """Return the run's status."""
    return (await load(journal, run_id)).status


async def recorded_steps(journal: Journal, run_id: str = "run") -> list[str]:
    """Return the names of the run's successful steps."""
    return [step.name for step in (await load(journal, run_id)).steps if step.status == "success"]


def rows_of(path: Path, query: str) -> list[tuple[Any, ...]]:
    """Return the rows of *query* in the file."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


@pytest.fixture(params=["sqlite", "postgres"])
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of the database; a module of tests for one kind overrides this fixture."""
    return str(request.param)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The journal's file on SQLite."""
    return tmp_path / "journal.db"


@pytest.fixture
def liveness() -> FakeLiveness:
    """Which executors live on SQLite."""
    return FakeLiveness()


@pytest.fixture(scope="session")
def postgres_project(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project on Postgres, for all tests of this process."""
    with (
        postgres.new_database() as url,
        Project.open(tmp_path_factory.mktemp("postgres") / ".pdkernel", database_url=url) as project,
    ):
        yield project


@pytest.fixture(scope="session")
def postgres_database(postgres_project: Project) -> Iterator[PostgresDatabase]:
    """The database of that project."""
    with closing(PostgresDatabase(postgres_project)) as database:
        yield database


@pytest.fixture
def database(kind: str, path: Path, liveness: FakeLiveness, request: pytest.FixtureRequest) -> Database:
    """An empty database."""
    if kind == "sqlite":
        return SqliteDatabase(path, liveness)
    database: PostgresDatabase = request.getfixturevalue("postgres_database")
    database.clear()
    return database


@pytest.fixture
def rows(database: Database) -> Rows:
    """Returns the rows of a query in the journal."""
    return database.rows


@pytest.fixture
def execute(database: Database) -> Callable[[str], None]:
    """Changes the database behind the journal."""
    return database.execute


@pytest.fixture
def clock() -> ManualClock:
    """A clock that the test moves."""
    return ManualClock()


@pytest.fixture
async def open_journal(database: Database, clock: ManualClock) -> AsyncIterator[Open]:
    """Opens the journal of one more executor; all are closed after the test."""
    opened: list[Journal] = []
    ids = SequentialIds()

    def open_one(origin: str = "terminal") -> Journal:
        journal = Journal.open(database.backend(), clock=clock, ids=ids, origin=origin)
        opened.append(journal)
        return journal

    yield open_one

    for journal in opened:
        await journal.close()


@pytest.fixture
async def journal(open_journal: Open) -> Journal:
    """The journal of one executor, with the definition of `WORKFLOW`."""
    journal = open_journal()
    await journal.store_definition(WORKFLOW)
    return journal

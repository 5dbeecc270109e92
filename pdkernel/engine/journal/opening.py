"""Opens the journal of a project: on SQLite, or on Postgres."""

from __future__ import annotations

import contextlib

from sqlalchemy import update

from pdkernel.clock import RANDOM_IDS, SYSTEM_CLOCK, Clock, IdGenerator
from pdkernel.engine.journal.backend import Backend
from pdkernel.engine.journal.journal import DatabaseJournal
from pdkernel.engine.journal.protocol import Journal
from pdkernel.engine.journal.reader import JournalReader
from pdkernel.engine.journal.schema import executors
from pdkernel.engine.journal.sqlite import SqliteBackend
from pdkernel.errors import ProjectError
from pdkernel.project import Project


def open_journal(
    project: Project, *, clock: Clock = SYSTEM_CLOCK, ids: IdGenerator = RANDOM_IDS, origin: str = "terminal"
) -> Journal:
    """
    Become an executor of the project's journal; see `DatabaseJournal.open`. On Postgres, it corrects the project's clock.

    Raises:
        ProjectError: The database cannot be used, or was written by a newer version.
        RequestError: Another process has the origin.
    """
    if clock is project.clock.source:
        clock = project.clock
    backend = _backend(project)
    backend.create_tables()
    _end_interrupted(backend, project)
    return DatabaseJournal.open(backend, clock=clock, ids=ids, origin=origin)


def open_journal_reader(project: Project) -> JournalReader:
    """
    Open the project's journal to read runs, without becoming an executor; missing tables are created.

    Runs of commands and notebooks whose process has ended are recorded as interrupted before.

    Raises:
        ProjectError: The database cannot be used, or was written by a newer version.
    """
    backend = _backend(project)
    backend.create_tables()
    _end_interrupted(backend, project)
    return JournalReader(backend.open_snapshots())


def open_reader(backend: Backend) -> JournalReader:
    """Open the journal in *backend* to read runs; missing tables are created."""
    backend.create_tables()
    return JournalReader(backend.open_snapshots())


def _end_interrupted(backend: Backend, project: Project) -> None:
    with contextlib.suppress(
        ProjectError
    ):  # runs can be read although the database cannot be written, for example on a full disk
        backend.end_interrupted(project.clock.now().timestamp())


def mark_dead(project: Project, executor_id: str) -> None:
    """Mark the executor of a process that has ended as dead: others continue its runs without waiting for the end of its lease."""
    with project.sqlalchemy_engine.begin() as connection:
        connection.execute(update(executors).where(executors.c.id == executor_id).values(alive=False))


def _backend(project: Project) -> Backend:
    if project.sqlite_path is not None:
        return SqliteBackend(project.sqlite_path, permit_migration=project.permit_migration, mark=project.journal_mark)
    # psycopg is optional
    from pdkernel.engine.journal.postgres import PostgresBackend

    return PostgresBackend(project)

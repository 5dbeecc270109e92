"""Faults in the process of a command, set up before the command: it dies at a commit or another point, or its disk is full."""

from __future__ import annotations

import itertools
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

KILL_AT_COMMIT = "tests.durability.faults:kill_at_commit"
KILL_AT_EVENT = "tests.durability.faults:kill_at_event"
KILL_IN_ROTATION = "tests.durability.faults:kill_in_rotation"
KILL_AT_RENAME = "tests.durability.faults:kill_at_rename"
LIMIT_DATABASE = "tests.durability.faults:limit_database"
SHORTEN_LEASE = "tests.durability.faults:shorten_lease"
SHORT_PAGES = "tests.durability.faults:short_pages"
SLOW_COMMITS = "tests.durability.faults:slow_commits"
SLOW_EVENT = "tests.durability.faults:slow_event"
SHIFT_CLOCK = "tests.durability.faults:shift_clock"
ALL_OF = "tests.durability.faults:all_of"
STORED_EVENTS = "INSERT INTO deployed_events"
"""The statement that stores the events of a deployed trigger."""


def all_of(*calls: Sequence[Any]) -> None:
    """Make several of these calls, each given by its name and its arguments."""
    for name, *args in calls:
        globals()[name.partition(":")[2]](*args)


def _use_connections(kind: type[sqlite3.Connection]) -> None:
    """Let all later connections be of *kind*, and of the kind that the caller of `connect` names."""
    connect = sqlite3.connect

    def connect_faulty(*args: Any, factory: type[sqlite3.Connection] = sqlite3.Connection, **settings: Any) -> Any:
        faulty = type("Connection", (kind, factory), {})
        return connect(*args, factory=faulty, **settings)

    vars(sqlite3)["connect"] = connect_faulty


def kill_at_commit(number: int, side: str) -> None:
    """Let SQLite's connections kill this process `before` or `after` the journal's commit with that number, from 1."""
    count = itertools.count(1)

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
            dies = sql == "commit" and next(count) == number
            if dies and side == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            done = super().execute(sql, *args)
            if dies:
                os.kill(os.getpid(), signal.SIGKILL)
            return done

    _use_connections(Connection)


def kill_at_rename(number: int, folder: str) -> None:
    """Kill this process before the rename of a file in *folder* with that number, from 1."""
    count = itertools.count(1)

    def watch(event: str, args: tuple[Any, ...]) -> None:
        if event == "os.rename" and str(Path(args[0]).absolute().parent) == folder and next(count) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def slow_commits(seconds: float) -> None:
    """Let each of the journal's commits take so many seconds longer, in which others already see what it has written."""

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
            done = super().execute(sql, *args)
            if sql == "commit":
                time.sleep(seconds)
            return done

    _use_connections(Connection)


def limit_database(full: str) -> None:
    """While the file *full* exists, let no transaction take more of the disk: SQLite reports a full disk."""

    class Cursor(sqlite3.Cursor):
        def execute(self, sql: str, *args: Any) -> Any:
            if sql == "begin immediate":
                limit = 1 if Path(full).exists() else 4294967294
                sqlite3.Connection.execute(self.connection, f"pragma max_page_count = {limit}").fetchone()
            return super().execute(sql, *args)

    class Connection(sqlite3.Connection):
        def cursor(self, factory: Any = Cursor) -> Any:
            return super().cursor(factory)

        def execute(self, sql: str, *args: Any) -> Any:
            return self.cursor().execute(sql, *args)

    _use_connections(Connection)


def shorten_lease(lease_s: float, beat_s: float, entered: str) -> None:
    """
    Let this process be taken for dead after *lease_s* seconds of silence, so that a test need not wait for long.

    The file *entered* gets the id of its executor.
    """
    from pdkernel.journal.postgres import PostgresBackend
    from pdkernel.storage.source_states import SourceTurnTable

    for kind, settings in (
        (PostgresBackend, {"lease_s": lease_s, "beat_s": beat_s}),
        (SourceTurnTable, {"lease_s": lease_s}),
    ):
        defaults = kind.__init__.__kwdefaults__
        assert defaults is not None
        defaults.update(settings)
    enter = PostgresBackend.enter

    def record(self: PostgresBackend, executor_id: str, *args: Any) -> Any:
        Path(entered).write_text(executor_id)
        return enter(self, executor_id, *args)

    PostgresBackend.enter = record  # type: ignore[assignment, method-assign]


def short_pages(users: int) -> None:
    """Let a batch list so many users at a time, so that a test needs few of them: each has a worker of its own."""
    from pdkernel.operations import batches

    vars(batches)["PAGE_SIZE"] = users


def shift_clock(seconds: str) -> None:
    """Let the wall clock of this process be ahead by the number in the file *seconds*, which may change; without the file it is right."""
    from pdkernel.common.clock import SystemClock

    now, file = SystemClock.now, Path(seconds)

    def shifted(self: SystemClock) -> datetime:
        try:
            return now(self) + timedelta(seconds=float(file.read_text() or 0))
        except FileNotFoundError:
            return now(self)

    SystemClock.now = shifted  # type: ignore[method-assign]


def kill_in_rotation(number: int) -> None:
    """
    Kill this process at one of the points of a rotation of the project's key, the one with that *number*, from 1.

    A point is before an operation on a key file or its folder, before an update of one of two tables, and before and after a
    commit.
    """
    count = itertools.count(1)

    def reach_point() -> None:
        if next(count) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch_files(event: str, args: tuple[Any, ...]) -> None:
        if event in ("open", "os.rename", "os.remove") and str(args[0]).endswith((".new", "/.pdkernel")):
            reach_point()

    def watch_statement(sql: str) -> None:
        if sql.startswith(("UPDATE variables", "UPDATE meta")):
            reach_point()

    class Connection(sqlite3.Connection):
        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **settings)
            self.set_trace_callback(watch_statement)

        def commit(self) -> None:
            reach_point()
            super().commit()
            reach_point()

    _use_connections(Connection)
    sys.addaudithook(watch_files)


def kill_at_event(side: str, statement: str = STORED_EVENTS) -> None:
    """
    Let SQLite's connections kill this process `before` or `after` the commit of a transaction with *statement*.

    By default, that is the one that stores the events of a deployed trigger.
    """

    def die(at: str) -> None:
        if at == side:
            os.kill(os.getpid(), signal.SIGKILL)

    _watch_commits(statement, die)


def slow_event(seconds: float, reached: str) -> None:
    """Make the file *reached* before the commit of a deployed trigger's events, which takes so many seconds longer."""

    def wait(at: str) -> None:
        if at == "before":
            Path(reached).touch()
            time.sleep(seconds)

    _watch_commits(STORED_EVENTS, wait)


def _watch_commits(statement: str, act: Callable[[str], None]) -> None:
    """Call *act* with `before` and with `after` at each commit of a transaction with *statement*."""

    class Connection(sqlite3.Connection):
        has_statement = False

        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **settings)
            self.set_trace_callback(self.watch)

        def watch(self, sql: str) -> None:
            self.has_statement = self.has_statement or sql.startswith(statement)

        def commit(self) -> None:
            is_watched, self.has_statement = self.has_statement, False
            if is_watched:
                act("before")
            super().commit()
            if is_watched:
                act("after")

    _use_connections(Connection)

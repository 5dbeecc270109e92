"""Turns of event sources on PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pdkernel.errors import ProjectError
from pdkernel.storage.database import Database
from pdkernel.storage.schema import metadata
from pdkernel.storage.source_states import TURN_LEASE_S, SourceTurnTable
from tests.storage.waiting import count_waiting, until


@pytest.fixture
def database(tmp_path: Path, postgres_url: str) -> Iterator[Database]:
    """A database with the table of turns."""
    database = Database.open(tmp_path, postgres_url)
    metadata.create_all(database.engine, tables=[metadata.tables["source_turns"]])
    yield database
    database.close()


def test_one_owner_has_the_turn(database: Database) -> None:
    """Of owners that take the turn at the same time, one gets it, and may take it again; after its release another one."""
    table, together, winners = SourceTurnTable(database), threading.Barrier(4), list[str]()

    def take(owner: str) -> None:
        together.wait()
        if table.take("source", owner):
            winners.append(owner)

    threads = [threading.Thread(target=take, args=(f"owner{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = winners
    extended = table.take("source", winner)
    table.release("source", "another")
    kept = table.take("source", "another")
    table.release("source", winner)

    assert (extended, kept) == (True, False)
    assert table.take("source", "another")


def test_a_turn_ends_with_its_lease(database: Database) -> None:
    """A turn that is not extended ends by itself; the late owner can neither extend it nor store what its source has done."""
    table = SourceTurnTable(database)
    assert table.take("source", "frozen")
    with database.write() as connection:
        table.check(connection, "source", "frozen")
    refused = table.take("source", "next")
    with database.write() as connection:
        connection.exec_driver_sql(f"update source_turns set until = until - {TURN_LEASE_S}")  # its lease is over

    assert not refused
    with ThreadPoolExecutor(1) as thread, database.write() as connection:
        table.check(connection, "source", "frozen")
        taking = thread.submit(table.take, "source", "next")
        until(lambda: taking.done() or count_waiting(database.engine) > 0)
        waits = not taking.done()  # what is stored with the check is stored before the next turn begins
    assert (waits, taking.result()) == (True, True)
    assert not table.take("source", "frozen")
    with pytest.raises(ProjectError, match="Another server runs the source"), database.write() as connection:
        table.check(connection, "source", "frozen")

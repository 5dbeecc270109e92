"""
The journal: the record of every event, run and finished step.

    protocol     what the engine may ask of a journal
    records      values that go in and come out, what the text columns hold
    schema       the tables, the same on SQLite and Postgres
    sqlite       the journal on SQLite, of `statements`, `writer` (grouped commits) and `history` (reads)
    memory       a journal of dictionaries, by the same rules

A run is owned by one executor, whose every write names the owner and the fence it got with the run:

    accept --> running --finish--> success | error | exited
       |        |   ^
       |queue   |   | claim: fence + 1, owner = me           owner is not null  <=>  status = running
       v        |park                                        the fence changes at claim and nowhere else
     ready <-- paused                                        ready, paused, running --cancel--> cancelled
       ^ woken by `resolve` or `due`, first wins
       '- reaped: the owner is dead, attempt + 1
"""

from pdkernel.engine.journal.memory import MemoryJournal, MemoryTables
from pdkernel.engine.journal.protocol import Journal
from pdkernel.engine.journal.records import (
    Claim,
    FinalStatus,
    NewRun,
    StepRow,
    encode_event,
    encode_output,
    encode_step,
)
from pdkernel.engine.journal.sqlite import SqliteJournal

__all__ = [
    "Claim",
    "FinalStatus",
    "Journal",
    "MemoryJournal",
    "MemoryTables",
    "NewRun",
    "SqliteJournal",
    "StepRow",
    "encode_event",
    "encode_output",
    "encode_step",
]

"""
The journal: the durable record of events, runs and finished steps.

    protocol     the `Journal` protocol
    records      values and the text columns
    schema       the tables, the same on SQLite and Postgres
    sqlite       the journal on SQLite, made of `statements`, `writer` (grouped commits) and `reader`
    memory       the journal in memory, with the same rules

One executor owns a run. Each of its writes names its claim, whose fence no earlier owner has:

    accept --> running --finish--> success | error | exited
       |        |   ^
       |queue   |   | claim: fence + 1, owner = me           owner is not null  <=>  status = running
       v        |park                                        the fence changes at claim and nowhere else
     ready <-- paused                                        ready, paused, running --cancel--> cancelled
       ^ woken by `resolve_wait` or `wake_due`, the first wins
       '- reaped: the owner's lease has expired, attempt + 1
"""

from pdkernel.engine.journal.memory import MemoryJournal, MemoryTables
from pdkernel.engine.journal.protocol import Journal
from pdkernel.engine.journal.records import (
    Claim,
    ClaimedRun,
    ExecutionQuery,
    FinalStatus,
    NewRun,
    StepRow,
    WaitRow,
    encode_event,
    encode_output,
    encode_step,
)
from pdkernel.engine.journal.sqlite import SqliteJournal, open_journal_reader

__all__ = [
    "Claim",
    "ClaimedRun",
    "ExecutionQuery",
    "FinalStatus",
    "Journal",
    "MemoryJournal",
    "MemoryTables",
    "NewRun",
    "SqliteJournal",
    "StepRow",
    "WaitRow",
    "encode_event",
    "encode_output",
    "encode_step",
    "open_journal_reader",
]

"""
The journal: the durable record of events, runs and finished steps.

    protocol     what a run needs of its journal, and a journal that keeps nothing
    rows         values: runs, steps and pauses
    text_columns the JSON in text columns, and executions
    schema       the tables, the same on SQLite and Postgres; `tables` creates them in a SQLite file
    journal      the journal of one executor, and how it is opened; made of the following four
    ownership    the SQL about executors, claims, and the limits of queues
    statements   the SQL about what a run contains
    writer       grouped commits
    reader       reads in a thread of its own
    backend      what these need of a database: `sqlite`, or `postgres` with `lease`, which shows that an executor lives

One executor owns a run. Each of its writes names its claim, whose fence no earlier owner has:

    accept --> running --finish--> success | error | exited
       |        |   ^
       |queue   |   | claim: fence + 1, owner = me           owner is not null  <=>  status = running
       v        |park                                        the fence changes at claim and nowhere else
     ready <-- paused                                        ready, paused, running --cancel--> cancelled
       ^ woken by `resolve_wait` or `wake_due`, the first wins
       '- reaped or released: the owner's process is dead, its lease has lapsed, or it ends; attempt + 1 if the run had begun
"""

from pdkernel.journal.backend import ExecutorLiveness
from pdkernel.journal.journal import (
    MAX_LANES,
    Journal,
    mark_dead,
    open_journal,
    open_journal_reader,
    open_reader,
)
from pdkernel.journal.protocol import RunJournal, UnrecordedRuns
from pdkernel.journal.reader import JournalReader, RecordedEvent, RunQueries
from pdkernel.journal.rows import (
    MAX_DEATHS_ALONE,
    MAX_INTERRUPTIONS,
    MAX_LOST_TASKS,
    MAX_NOTE_CHARACTERS,
    Begun,
    CallRow,
    Claim,
    ClaimedRun,
    FailedRun,
    FinalStatus,
    NewDecision,
    NewRun,
    OutboxRow,
    StepRow,
    StoredLock,
    WaitKey,
    WaitKind,
    WaitOutcome,
    WaitResolution,
    WaitRow,
)
from pdkernel.journal.sqlite import SqliteBackend
from pdkernel.journal.text_columns import (
    ExecutionQuery,
    RunSummary,
    build_pause,
    decode_calls,
    decode_step,
    decode_trigger,
    encode_call,
    encode_event,
    encode_output,
    encode_step,
)

__all__ = [
    "MAX_DEATHS_ALONE",
    "MAX_INTERRUPTIONS",
    "MAX_LANES",
    "MAX_LOST_TASKS",
    "MAX_NOTE_CHARACTERS",
    "Begun",
    "CallRow",
    "Claim",
    "ClaimedRun",
    "ExecutionQuery",
    "ExecutorLiveness",
    "FailedRun",
    "FinalStatus",
    "Journal",
    "JournalReader",
    "NewDecision",
    "NewRun",
    "OutboxRow",
    "RecordedEvent",
    "RunJournal",
    "RunQueries",
    "RunSummary",
    "SqliteBackend",
    "StepRow",
    "StoredLock",
    "UnrecordedRuns",
    "WaitKey",
    "WaitKind",
    "WaitOutcome",
    "WaitResolution",
    "WaitRow",
    "build_pause",
    "decode_calls",
    "decode_step",
    "decode_trigger",
    "encode_call",
    "encode_event",
    "encode_output",
    "encode_step",
    "mark_dead",
    "open_journal",
    "open_journal_reader",
    "open_reader",
]

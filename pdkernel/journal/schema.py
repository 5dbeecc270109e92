"""
The journal's tables, the same on SQLite and Postgres.

There are no foreign keys: each costs a lock and an index search in frequent statements. Times are seconds since 1970 in
double precision. `text_columns` defines the content of the text columns. The condition of a partial index is declared for SQLite;
`Schema.create` adds it on Postgres.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    text,
)

from pdkernel.storage.migration import Schema

metadata = MetaData()

_Text = Text().with_variant(Text(collation="C"), "postgresql")
"""Text that both databases sort and compare by its bytes, regardless of the language of a Postgres server."""

executors = Table(
    "executors",
    metadata,
    Column("id", _Text, primary_key=True),  # new at every start of a process
    Column("origin", _Text, nullable=False),
    Column("lease_until", Double),  # None on SQLite: there a file lock shows whether the process lives
    Column("alive", Boolean, nullable=False),
    Column("ending", Boolean, nullable=False, server_default=text("false")),  # it was told to end
)

definitions = Table(
    "definitions",
    metadata,
    Column("hash", _Text, primary_key=True),
    Column("workflow", _Text, nullable=False),
    Column("content", _Text, nullable=False),
)
Index("definitions_workflow", definitions.c.workflow)

package_locks = Table(
    "package_locks",
    metadata,
    Column("hash", _Text, primary_key=True),
    Column("content", _Text, nullable=False),
)

runs = Table(
    "runs",
    metadata,
    Column("id", _Text, primary_key=True),
    Column("trace_id", _Text, nullable=False),
    Column("workflow", _Text, nullable=False),
    Column("definition", _Text, nullable=False),
    Column("event", _Text, nullable=False),
    Column("external_user", _Text),
    Column("environment", _Text, nullable=False),
    Column("status", _Text, nullable=False),
    Column("owner", _Text),
    Column("fence", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("queue", _Text),
    Column("wake_at", Double),
    Column("created", Double, nullable=False),
    Column("ended", Double),
    Column("output", _Text),
    Column("origin", _Text, nullable=False),  # which executors continue the run
    Column("parent", _Text),
    Column("workflow_id", _Text),
    Column("dedupe_key", _Text),
    Column("request", LargeBinary),
    Column("package_lock", _Text),
    Column("begun", Integer, nullable=False, server_default=text("0")),  # a `Begun` of the present owner
    Column("lost_tasks", Integer, nullable=False, server_default=text("0")),
    Column("batch", _Text),  # one tick of a schedule for each external user
)


def _runs_index(name: str, *columns: str, status: str) -> Index:
    # both databases find out that one of these terms is that of a query; SQLite does not with `in`
    only = text(" or ".join(f"status = '{each}'" for each in status.split()))
    return Index(name, *(runs.c[column] for column in columns), sqlite_where=only)


_runs_index("runs_due", "wake_at", status="paused")
# in the order of `rowid`, which each index of SQLite has by itself
_runs_index("runs_ready", "origin", "queue", status="ready").ddl_if(dialect="sqlite")
_runs_index("runs_owner", "owner", status="running")
_runs_index("runs_failed", "external_user", "environment", "created", status="error")
_runs_index("runs_by_status", "workflow", "status", "created", "id", status="error cancelled exited")
Index("runs_list", runs.c.workflow, runs.c.created, runs.c.id)
_deduplicated = text("dedupe_key is not null")
Index("runs_dedupe", runs.c.dedupe_key, unique=True, sqlite_where=_deduplicated)
_in_batch = text("batch is not null")
Index("runs_batch", runs.c.batch, sqlite_where=_in_batch)
# the removal of a run asks whether another run has its definition and its packages
Index("runs_definition", runs.c.definition)
_locked = text("package_lock is not null")
Index("runs_package_lock", runs.c.package_lock, sqlite_where=_locked)

steps = Table(
    "steps",
    metadata,
    Column("run_id", _Text, nullable=False),
    Column("path", _Text, nullable=False),  # the step's place among branches; outside of branches its name
    Column("iteration", Integer, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("name", _Text, nullable=False),
    Column("fence", Integer, nullable=False),
    Column("data", _Text, nullable=False),
    Column("at", Double, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("carry", LargeBinary),
    PrimaryKeyConstraint("run_id", "path", "iteration"),
    sqlite_with_rowid=False,
)

waits = Table(
    "waits",
    metadata,
    Column("run_id", _Text, nullable=False),
    Column("path", _Text, nullable=False),
    Column("iteration", Integer, nullable=False),
    Column("number", Integer, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("kind", _Text, nullable=False),
    Column("wake_at", Double),
    Column("data", _Text, nullable=False),
    Column("carry", LargeBinary),
    Column("outcome", _Text),
    Column("payload", LargeBinary),
    Column("at", Double),
    PrimaryKeyConstraint("run_id", "path", "iteration", "number"),
    sqlite_with_rowid=False,
)

outbox = Table(
    "outbox",
    metadata,
    Column("run_id", _Text, nullable=False),
    Column("path", _Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("position", Integer, nullable=False),
    Column("message", LargeBinary, nullable=False),
    Column("shown", _Text, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("due", Double),  # None once delivered or given up
    Column("owner", _Text),  # the executor that sends the message now
    Column(
        "lane", _Text, nullable=False, server_default=""
    ),  # messages of a lane are sent in their order, lanes at the same time
    PrimaryKeyConstraint("run_id", "path", "number", "position"),
)
_undelivered = text("due is not null")
Index("outbox_due", outbox.c.due, sqlite_where=_undelivered)

decisions = Table(
    # what persons and programs decided about runs and their pauses
    "decisions",
    metadata,
    Column("run_id", _Text, nullable=False),
    Column("path", _Text, nullable=False),  # empty, with the numbers 0, for a decision about the whole run
    Column("iteration", Integer, nullable=False),
    Column("number", Integer, nullable=False),
    Column("verdict", _Text, nullable=False),
    Column("decided_by", _Text, nullable=False),
    Column("note", _Text, nullable=False),
    Column("at", Float(53), nullable=False),  # whose name both databases share in a migration
    PrimaryKeyConstraint("run_id", "path", "iteration", "number"),
)

calls_in_flight = Table(
    # unsafe calls of steps that are not recorded yet: the record of a step has its calls
    "calls_in_flight",
    metadata,
    Column("run_id", _Text, nullable=False),
    Column("path", _Text, nullable=False),
    Column("iteration", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),  # of the run, as in `steps`
    Column("number", Integer, nullable=False),
    Column("shown", _Text, nullable=False),
    PrimaryKeyConstraint("run_id", "path", "iteration", "attempt", "number"),
)

interruptions = Table(
    # deaths of processes since the last recorded step of a run that they executed
    "interruptions",
    metadata,
    Column("run_id", _Text, nullable=False),
    Column("executor", _Text, nullable=False),
    Column("alone", Boolean, nullable=False),  # whether the process executed no other run
    PrimaryKeyConstraint("run_id", "executor"),
)

limits = Table(
    "limits",
    metadata,
    Column("queue", _Text, primary_key=True),
    Column("concurrency", Integer),
    Column("per", Integer),
    Column("period", Double),
    Column("within", _Text),  # a queue whose limits its runs keep, too
)

starts = Table(
    # of runs in queues with a limit of starts, from the moment that their first step may begin
    "starts",
    metadata,
    Column("queue", _Text, nullable=False),
    Column("at", Float(53), nullable=False),
    Column("run_id", _Text, nullable=False),
    Column("fence", Integer, nullable=False),
    PrimaryKeyConstraint("run_id", "fence"),
    Index("starts_window", "queue", "at"),
)

turns = Table(
    # runs of limited workflows that do not wait in a queue as ready runs, for example those that are not stored; `number` is
    # the `rowid` of the last run that was there before
    "turns",
    metadata,
    Column("run_id", _Text, primary_key=True),
    Column("queue", _Text, nullable=False),
    Column("owner", _Text, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("granted", Boolean, nullable=False),
)

JOURNAL_SCHEMA = Schema(
    metadata,
    11,
    completion=(
        *(
            f"alter table {table} add column rowid bigint generated always as identity"
            for table in ("outbox", "runs", "turns")
        ),
        "create index runs_ready on runs (origin, queue, rowid) where status = 'ready'",
    ),
)
"""
The first released version; SQLite stores it as the file's `user_version`.

The statements complete on Postgres what a table of SQLite has by itself, and its index.
"""

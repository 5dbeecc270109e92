"""
The journal's tables, the same on SQLite and Postgres.

There are no foreign keys: each costs a lock and an index search in frequent statements. Times are seconds since 1970 in
double precision. `records` defines the content of the text columns.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Boolean, Column, Double, Index, Integer, MetaData, PrimaryKeyConstraint, Table, Text, text

SCHEMA_VERSION = 2
"""The version of the tables; SQLite stores it as the file's `user_version`."""

metadata = MetaData()

executors = Table(
    "executors",
    metadata,
    Column("id", Text, primary_key=True),  # new at every start of a process
    Column("slot", Text, nullable=False),  # survives a restart
    Column("lease_until", Double, nullable=False),
    Column("alive", Boolean, nullable=False),
)

deployments = Table(
    "deployments",
    metadata,
    Column("workflow", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("definition", Text, nullable=False),
    PrimaryKeyConstraint("workflow", "version"),
)

runs = Table(
    "runs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("trace_id", Text, nullable=False),
    Column("workflow", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("event", Text, nullable=False),
    Column("external_user", Text),
    Column("environment", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("owner", Text),
    Column("fence", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("queue", Text),
    Column("wake_at", Double),
    Column("created", Double, nullable=False),
    Column("ended", Double),
    Column("output", Text),
)


def _runs_index(name: str, *columns: str, status: str) -> Index:
    only = text(f"status = '{status}'")
    return Index(name, *(runs.c[column] for column in columns), sqlite_where=only, postgresql_where=only)


_runs_index("runs_due", "wake_at", status="paused")
_runs_index("runs_ready", "queue", "created", status="ready")
_runs_index("runs_owner", "owner", status="running")
Index("runs_list", runs.c.workflow, runs.c.created, runs.c.id)

steps = Table(
    "steps",
    metadata,
    Column("run_id", Text, nullable=False),
    Column("path", Text, nullable=False),  # the step's place among branches; outside of branches its name
    Column("iteration", Integer, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("name", Text, nullable=False),
    Column("fence", Integer, nullable=False),
    Column("data", Text, nullable=False),
    Column("at", Double, nullable=False),
    PrimaryKeyConstraint("run_id", "path", "iteration"),
    sqlite_with_rowid=False,
)

waits = Table(
    "waits",
    metadata,
    Column("run_id", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("iteration", Integer, nullable=False),
    Column("fence", Integer, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("token_hash", Text),
    Column("outcome", Text),
    Column("payload", Text),
    Column("at", Double),
    PrimaryKeyConstraint("run_id", "path", "iteration"),
    sqlite_with_rowid=False,
)

limits = Table(
    "limits",
    metadata,
    Column("queue", Text, primary_key=True),
    Column("concurrency", Integer),
    Column("per", Integer),
    Column("period", Double),
)

starts = Table(
    "starts",
    metadata,
    Column("queue", Text, nullable=False),
    Column("at", Double, nullable=False),
    Index("starts_window", "queue", "at"),
)

_LEFT_BEHIND = (
    '{"response":null,"error":{"code":"earlier_version","name":"InterruptedRun","message":"This run was not finished when '
    'pdkernel was upgraded. It is not continued: start it again on its event.","step":null,"line":null,"stack":null},'
    '"steps":{}}'
)

SQLITE_MIGRATIONS: Mapping[int, str] = {
    # keys of steps and waits are paths; an unfinished run lacks what a continued run needs, so it ends
    2: f"""
        alter table steps rename to steps_1;
        create table steps (
            run_id text not null, path text not null, iteration integer not null, seq integer not null, name text not null,
            fence integer not null, data text not null, at double not null, primary key (run_id, path, iteration)
        ) without rowid;
        insert into steps select run_id, name, 1, seq, name, fence, data, at from steps_1 where true on conflict do nothing;
        drop table steps_1;
        drop table waits;
        create table waits (
            run_id text not null, path text not null, iteration integer not null, fence integer not null,
            seq integer not null, token_hash text, outcome text, payload text, at double,
            primary key (run_id, path, iteration)
        ) without rowid;
        update runs set status = 'error', owner = null, wake_at = null, output = '{_LEFT_BEHIND}',
            ended = coalesce((select max(at) from steps where run_id = runs.id), created)
            where status in ('ready', 'running', 'paused')
    """,  # noqa: S608 - constants only
}
"""The statements, divided by semicolons, that change the tables of the version before to each version."""

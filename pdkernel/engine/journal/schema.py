"""
The journal's tables, the same on SQLite and Postgres.

There are no foreign keys: each costs a lock and an index search in frequent statements. Times are seconds since 1970 in
double precision. `text_columns` defines the content of the text columns.
"""

from __future__ import annotations

from collections.abc import Mapping

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

SCHEMA_VERSION = 8
"""The version of the tables, the last one of `MIGRATIONS`; SQLite stores it as the file's `user_version`."""

POSTGRES_COLUMNS = (
    *(
        f"alter table {table} add column rowid bigint generated always as identity"
        for table in ("outbox", "runs", "turns")
    ),
    "create index runs_ready on runs (origin, queue, rowid) where status = 'ready'",
)
"""Statements for columns that a table of SQLite has by itself, and for their index."""

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
)


def _runs_index(name: str, *columns: str, status: str) -> Index:
    only = text(f"status = '{status}'")
    return Index(name, *(runs.c[column] for column in columns), sqlite_where=only, postgresql_where=only)


_runs_index("runs_due", "wake_at", status="paused")
# in the order of `rowid`, which each index of SQLite has by itself
_runs_index("runs_ready", "origin", "queue", status="ready").ddl_if(dialect="sqlite")
_runs_index("runs_owner", "owner", status="running")
Index("runs_list", runs.c.workflow, runs.c.created, runs.c.id)
_deduplicated = text("dedupe_key is not null")
Index("runs_dedupe", runs.c.dedupe_key, unique=True, sqlite_where=_deduplicated, postgresql_where=_deduplicated)

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
Index("outbox_due", outbox.c.due, sqlite_where=_undelivered, postgresql_where=_undelivered)

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

_LEFT_BEHIND = (
    '{"response":null,"error":{"code":"earlier_version","name":"InterruptedRun","message":"This run was not finished when '
    'pdkernel was upgraded. It is not continued: start it again on its event.","step":null,"line":null,"stack":null},'
    '"steps":{}}'
)

_END_UNFINISHED = (
    f"update runs set status = 'error', owner = null, wake_at = null, output = '{_LEFT_BEHIND}',"  # noqa: S608 - constants only
    " ended = coalesce((select max(at) from steps where run_id = runs.id), created)"
    " where status in ('ready', 'running', 'paused')"
)

MIGRATIONS: Mapping[int, str] = {
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
        {_END_UNFINISHED}
    """,  # noqa: S608 - constants only
    # definitions are stored by hash; steps and waits hold what a continued run needs, which earlier unfinished runs lack
    3: f"""
        {_END_UNFINISHED};
        create table definitions (hash text not null primary key, workflow text not null, content text not null);
        create index definitions_workflow on definitions (workflow);
        insert or ignore into definitions select hash_definition(definition), workflow, definition from deployments;
        alter table runs rename to runs_2;
        drop index runs_due; drop index runs_ready; drop index runs_owner; drop index runs_list;
        create table runs (
            id text not null primary key, trace_id text not null, workflow text not null, definition text not null,
            event text not null, external_user text, environment text not null, status text not null, owner text,
            fence integer not null, attempt integer not null, queue text, wake_at double, created double not null,
            ended double, output text, origin text not null, parent text, workflow_id text, dedupe_key text, request blob
        );
        insert into runs select id, trace_id, r.workflow, coalesce(hash_definition(d.definition), ''), event,
            external_user, environment, status, owner, fence, attempt, queue, wake_at, created, ended, output, 'terminal',
            null, null, null, null
            from runs_2 r left join deployments d on d.workflow = r.workflow and d.version = r.version;
        drop table runs_2;
        drop table deployments;
        create index runs_due on runs (wake_at) where status = 'paused';
        create index runs_ready on runs (origin, queue, created) where status = 'ready';
        create index runs_owner on runs (owner) where status = 'running';
        create index runs_list on runs (workflow, created, id);
        create unique index runs_dedupe on runs (dedupe_key) where dedupe_key is not null;
        drop table executors;
        create table executors (id text not null primary key, origin text not null, lease_until double, alive boolean not null);
        alter table steps rename to steps_2;
        create table steps (
            run_id text not null, path text not null, iteration integer not null, seq integer not null, name text not null,
            fence integer not null, data text not null, at double not null, attempt integer not null, carry blob,
            primary key (run_id, path, iteration)
        ) without rowid;
        insert into steps select run_id, path, iteration, seq, name, fence, data, at, 1, null from steps_2;
        drop table steps_2;
        drop table waits;
        create table waits (
            run_id text not null, path text not null, iteration integer not null, number integer not null,
            seq integer not null, kind text not null, wake_at double, data text not null, carry blob, outcome text,
            payload blob, at double, primary key (run_id, path, iteration, number)
        ) without rowid;
        create table outbox (
            run_id text not null, path text not null, number integer not null, position integer not null,
            message blob not null, shown text not null, tries integer not null, due double,
            primary key (run_id, path, number, position)
        );
        create index outbox_due on outbox (due) where due is not null
    """,  # noqa: S608 - constants only
    # the packages with which a run began; a run of an earlier version goes on with those of the project
    4: """
        create table package_locks (hash text not null primary key, content text not null);
        alter table runs add column package_lock text
    """,
    5: "alter table outbox add column owner text",
    6: """
        create table decisions (
            run_id text not null, path text not null, iteration integer not null, number integer not null,
            verdict text not null, decided_by text not null, note text not null, at float not null,
            primary key (run_id, path, iteration, number)
        )
    """,
    7: """
        create table calls_in_flight (
            run_id text not null, path text not null, iteration integer not null, attempt integer not null,
            number integer not null, shown text not null, primary key (run_id, path, iteration, attempt, number)
        )
    """,
    # the starts of the last period are forgotten; messages of earlier versions share a lane; a run that was running had begun;
    # SQLite has a `rowid` by itself
    8: """
        alter table outbox add column lane text not null default '';
        drop table starts;
        create table starts (
            queue text not null, at float not null, run_id text not null, fence integer not null, primary key (run_id, fence)
        );
        create index starts_window on starts (queue, at);
        create table turns (
            run_id text not null primary key, queue text not null, owner text not null, number bigint not null,
            granted boolean not null
        );
        alter table executors add column ending boolean not null default false;
        alter table runs add column begun integer not null default 0;
        alter table runs add column lost_tasks integer not null default 0;
        update runs set begun = 1 where status = 'running';
        create table interruptions (
            run_id text not null, executor text not null, alone boolean not null, primary key (run_id, executor)
        );
        drop index runs_ready;
        create index runs_ready on runs (origin, queue) where status = 'ready';
        /*postgres alter table turns add column rowid bigint generated always as identity */;
        /*postgres alter table runs add column rowid bigint */;
        /*postgres update runs set rowid = numbered.place from (select id, row_number() over (order by created, id) as place
            from runs) as numbered where numbered.id = runs.id */;
        /*postgres alter table runs alter column rowid set not null */;
        /*postgres alter table runs alter column rowid add generated always as identity */;
        /*postgres select setval('runs_rowid_seq', (select coalesce(max(rowid), 0) + 1 from runs), false) */;
        /*postgres drop index runs_ready */;
        /*postgres create index runs_ready on runs (origin, queue, rowid) where status = 'ready' */
    """,
}
"""
The statements, divided by semicolons, that change the tables of the version before to each version.

Tables on Postgres have version 3 or newer.
"""

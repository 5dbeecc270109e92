"""The SQL that removes runs: those that a person names, and those whose retention is over."""

from __future__ import annotations

from collections.abc import Sequence

from pdkernel.engine.journal.backend import Connection
from pdkernel.engine.journal.text_columns import decode_retention, replace_unstorable

_TABLES_OF_A_RUN = ("steps", "waits", "outbox", "decisions", "calls_in_flight", "interruptions")
_SECONDS_PER_DAY = 24 * 60 * 60


def remove_runs(connection: Connection, run_ids: Sequence[str]) -> Sequence[str]:
    """Remove runs that are not executing; definitions and packages without a run. Return the ids of the removed runs."""
    removed = []
    definitions: dict[str, str] = {}
    locks: dict[str, str] = {}
    for run_id in map(replace_unstorable, run_ids):
        row = connection.execute(
            "delete from runs where id = ? and status <> 'running' returning definition, workflow, package_lock",
            (run_id,),
        ).fetchone()
        if row is not None:
            removed.append(run_id)
            definitions[row[0]] = row[1]
            if row[2] is not None:
                locks[row[2]] = row[1]
            for table in _TABLES_OF_A_RUN:
                connection.execute(f"delete from {table} where run_id = ?", (run_id,))  # noqa: S608 - constants only
    for key, workflow in definitions.items():
        # a run may be accepted at this moment: its transaction holds the definition
        connection.execute("select 1 from definitions where hash = ? /*postgres for update*/", (key,)).fetchone()
        connection.execute(
            "delete from definitions where hash = :hash"
            " and not exists (select 1 from runs where workflow = :workflow and definition = :hash)",
            {"hash": key, "workflow": workflow},
        )
    for key, workflow in locks.items():
        connection.execute("select 1 from package_locks where hash = ? /*postgres for update*/", (key,)).fetchone()
        connection.execute(
            "delete from package_locks where hash = :hash"
            " and not exists (select 1 from runs where workflow = :workflow and package_lock = :hash)",
            {"hash": key, "workflow": workflow},
        )
    return removed


def find_expired(connection: Connection, now: float, default_days: float, limit: int) -> Sequence[str]:
    """Return at most *limit* runs that ended before the retention of their workflow's newest run, or *default_days*."""
    found: list[str] = []
    for (workflow,) in connection.execute("select distinct workflow from definitions").fetchall():
        newest = connection.execute(
            "select d.content from runs r left join definitions d on d.hash = r.definition"
            " where r.workflow = ? order by r.created desc, r.id desc limit 1",
            (workflow,),
        ).fetchone()
        days = decode_retention(newest[0]) if newest is not None and newest[0] is not None else None
        oldest = now - (default_days if days is None else days) * _SECONDS_PER_DAY
        rows = connection.execute(
            "select id from runs where workflow = ? and created < ? and ended < ? order by created limit ?",
            (workflow, oldest, oldest, limit - len(found)),
        )
        found += [run_id for (run_id,) in rows]
    return found

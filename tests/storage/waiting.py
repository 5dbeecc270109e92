"""Transactions of a test that wait for each other on PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy import Engine, text

_WAITING = text(
    "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    " and backend_type = 'client backend'"
)


def count_waiting(engine: Engine) -> int:
    """The number of transactions that wait for a lock."""
    with engine.connect() as connection:
        return int(connection.execute(_WAITING).scalar_one())


def until(condition: Callable[[], bool]) -> None:
    """Wait until *condition* holds."""
    ends = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < ends, "the condition did not hold"
        time.sleep(0.01)

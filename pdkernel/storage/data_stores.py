"""
Data stores: durable JSON values by key, shared by all workflows of the project.

An expired record is not returned any more, and is removed at a later write. Each call is one transaction. Values are not
encrypted: they are the user's data, like a file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Self, TypeAlias

from sqlalchemy import ColumnElement, Connection, and_, bindparam, delete, func, or_, select, update

from pdkernel.common.clock import Clock
from pdkernel.errors import RequestError
from pdkernel.model import JSON
from pdkernel.storage.database import Database
from pdkernel.storage.schema import store_records, stores
from pdkernel.storage.statements import CompiledQuery, insert_if_absent, upsert_rows

DEFAULT_DATA_STORE = "default"
"""The name of the store for a prop that names no store."""
MAX_TTL_S = 63_072_000
"""Two years (platform documentation of data stores)."""
MAX_STORE_NAME_CHARACTERS = 200
MAX_KEY_BYTES = 1024
MAX_PAGE_RECORDS = 500
"""The maximum number of records in a page."""
MAX_PAGE_CHARACTERS = 1 << 20
"""The size in characters of JSON from which a page ends."""
_MAX_SWEPT_RECORDS = 200
_STORES_LOCK = "stores"

_JOINED = store_records.join(stores, store_records.c.store == stores.c.number)
_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
Ttl: TypeAlias = "float | int | None"


class StoreNotFoundError(RequestError):
    """There is no data store with that name; the message lists the stores."""

    code = "store_not_found"


@dataclass(frozen=True, slots=True)
class DataStoreSummary:
    """
    A store.

    Attributes:
        name: The name in props and commands; the platform's id (`ds_...`) for a store from a synced folder.
        record_count: The number of records that have not expired.
        characters: The size of their values as JSON, in characters.
        created: When the store was created.
    """

    name: str
    record_count: int
    characters: int
    created: datetime


@dataclass(frozen=True, slots=True)
class StoreRecord:
    """A record: key, value, and the time of its expiry (None: never)."""

    key: str
    value: JSON
    expires: datetime | None


@dataclass(frozen=True, slots=True)
class RecordPage:
    """Records in the order in which their keys were first set; *next_cursor* is None for the last page."""

    records: tuple[StoreRecord, ...]
    next_cursor: int | None


class DataStoreTable:
    """
    The data stores of a project. The first write creates a store.

    Every method raises `RequestError` for a store name that is empty or too long, and for a key that is not text, empty
    or too long.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def for_step(self, step: str, above: Sequence[str], *, is_repeat: bool) -> Self:  # noqa: ARG002 - a protocol
        """As in `StepStores`: every step reads and writes the project's stores."""
        return self

    def snapshot(self) -> None:
        """As in `StepStores`."""
        return

    # ── stores ─────────────────────────────────────────────────────────────────────

    def list_stores(self) -> Sequence[DataStoreSummary]:
        """Return every store, by name."""
        alive = and_(store_records.c.store == stores.c.number, self._not_expired())
        query = (
            select(
                stores.c.name,
                stores.c.created,
                func.count(store_records.c.number).label("keys"),
                func.coalesce(func.sum(func.length(store_records.c.value)), 0).label("characters"),
            )
            .select_from(stores.outerjoin(store_records, alive))
            .group_by(stores.c.number, stores.c.name, stores.c.created)
            .order_by(stores.c.name)
        )
        with self._database.read() as connection:
            return [
                DataStoreSummary(row.name, row.keys, int(row.characters), datetime.fromtimestamp(row.created, UTC))
                for row in connection.execute(query)
            ]

    def names(self) -> Sequence[str]:
        """Return the stores' names, sorted."""
        with self._database.read() as connection:
            return connection.execute(select(stores.c.name).order_by(stores.c.name)).scalars().all()

    def exists(self, store: str) -> bool:
        """Return whether the store exists."""
        with self._database.read() as connection:
            return connection.execute(select(stores.c.number).where(stores.c.name == store)).first() is not None

    def require(self, store: str) -> None:
        """Raise `StoreNotFoundError` if *store* does not exist; the error lists the existing stores."""
        if self.exists(store):
            return
        known = self.names()
        raise StoreNotFoundError(
            f"There is no data store {store!r}.",
            fix=f"Existing stores: {', '.join(known)}." if known else "The first write to a store creates it.",
        )

    def remove(self, store: str) -> bool:
        """Remove the store and its records; False if it does not exist."""
        with self._database.write() as connection:
            self._database.lock(connection, _STORES_LOCK)
            number = self._store_number(connection, store, removes=True)
            if number is None:
                return False
            connection.execute(delete(stores).where(stores.c.number == number))  # and its records, by the foreign key
            return True

    # ── records ────────────────────────────────────────────────────────────────────

    def find(self, store: str, key: str) -> StoreRecord | None:
        """Return the record with *key*, or None."""
        values = {"store": check_store_name(store), "key": check_key(key), "now": self._clock.now().timestamp()}
        with self._database.read() as connection:
            row = _ONE.fetch_first(connection, **values)
        return _record(row) if row else None

    def set(self, store: str, key: str, value: JSON, *, ttl: Ttl = None) -> None:
        """
        Store *value*. It expires after *ttl* seconds; with None it never expires, even if an earlier record did.

        Raises:
            RequestError: *value* is not JSON, or *ttl* is not a valid number of seconds.
        """
        row = {"key": check_key(key), "value": encode_value(value, key), "expires": self._expires(ttl)}
        self._write(store, [row], self._clock.now().timestamp())

    def set_ttl(self, store: str, key: str, ttl: Ttl) -> bool:
        """
        Let the record expire after *ttl* seconds, or never if *ttl* is None; False if the record does not exist.

        Raises:
            RequestError: *ttl* is not a valid number of seconds.
        """
        change = update(store_records).values(expires=self._expires(ttl))
        with self._database.write() as connection:
            done = connection.execute(change.where(*self._record_conditions(connection, store, key)))
            return done.rowcount > 0

    def delete(self, store: str, key: str) -> bool:
        """Remove the record; False if it does not exist."""
        with self._database.write() as connection:
            return (
                connection.execute(
                    delete(store_records).where(*self._record_conditions(connection, store, key))
                ).rowcount
                > 0
            )

    def clear(self, store: str) -> int:
        """Remove all records; returns their number."""
        with self._database.write() as connection:
            number = self._store_number(connection, store)
            alive = select(func.count()).where(store_records.c.store == number, self._not_expired())
            count = int(connection.execute(alive).scalar_one())
            connection.execute(delete(store_records).where(store_records.c.store == number))
            return count

    def count(self, store: str) -> int:
        """Return the number of records; 0 if the store does not exist."""
        check_store_name(store)
        query = select(func.count()).select_from(_JOINED).where(stores.c.name == store, self._not_expired())
        with self._database.read() as connection:
            return int(connection.execute(query).scalar_one())

    def find_keys(self, store: str, keys: Iterable[str]) -> frozenset[str]:
        """Return those of *keys* that the store has."""
        found: set[str] = set()
        left = iter(keys)
        alive = select(store_records.c.key).select_from(_JOINED).where(stores.c.name == store, self._not_expired())
        with self._database.read() as connection:
            while chunk := list(islice(left, MAX_PAGE_RECORDS)):
                found.update(connection.execute(alive.where(store_records.c.key.in_(chunk))).scalars())
        return frozenset(found)

    def read_keys(self, store: str, cursor: int | None = None) -> tuple[Sequence[str], int | None]:
        """Return a page of keys and the next cursor, like `read_page` but without reading values."""
        query = self._page_query(select(store_records.c.number, store_records.c.key), store, cursor).limit(
            MAX_PAGE_RECORDS
        )
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return [row.key for row in rows], rows[-1].number if len(rows) == MAX_PAGE_RECORDS else None

    def read_page(self, store: str, cursor: int | None = None) -> RecordPage:
        """Return the records after *cursor* (None: the first), up to `MAX_PAGE_RECORDS` or about `MAX_PAGE_CHARACTERS`."""
        rows: list[Any] = []
        size = 0
        with self._database.read() as connection:
            for row in connection.execute(self._page_query(_columns(), store, cursor).limit(MAX_PAGE_RECORDS)):
                rows.append(row)
                size += len(row.value)
                if size > MAX_PAGE_CHARACTERS:
                    break
        full = len(rows) == MAX_PAGE_RECORDS or size > MAX_PAGE_CHARACTERS
        return RecordPage(tuple(map(_record, rows)), rows[-1].number if full else None)

    def iter_records(self, store: str) -> Iterator[StoreRecord]:
        """Yield every record, in the order in which their keys were first set."""
        return iter_pages(lambda after: self.read_page(store, after))

    # ── files ──────────────────────────────────────────────────────────────────────

    def put_records(self, store: str, records: Sequence[StoreRecord], *, clear_first: bool = False) -> None:
        """
        Store *records* in order, each with its own expiry. After an error, none is stored.

        Args:
            store: The store.
            records: The records.
            clear_first: Whether all records are removed first.
        """
        now = self._clock.now().timestamp()
        rows = [
            {
                "key": check_key(record.key),
                "value": encode_value(record.value, record.key),
                "expires": record.expires.timestamp() if record.expires else None,
            }
            for record in records
        ]
        self._write(store, rows, now, clear=clear_first)

    # ── parts ──────────────────────────────────────────────────────────────────────

    def _write(self, store: str, rows: Sequence[Mapping[str, Any]], now: float, *, clear: bool = False) -> None:
        with self._database.write() as connection:
            number = self._ensure_store(connection, store, now)
            of_store = store_records.c.store == number
            if len(rows) > 1:  # two processes that write the same records in another order would wait for each other
                self._database.lock(connection, f"{_STORES_LOCK}/{number}")
            if clear:
                connection.execute(delete(store_records).where(of_store))
            # an expired record is removed, so that a new record of its key is the last one
            expired = delete(store_records).where(of_store, store_records.c.expires <= now)
            if len(rows) == 1:
                expired = expired.where(store_records.c.key == rows[0]["key"])
            connection.execute(expired)
            upsert_rows(
                connection,
                store_records,
                "store",
                "key",
                rows=[{"store": number, "updated": now, **row} for row in rows],
            )
            self._sweep(connection, now)

    def _ensure_store(self, connection: Connection, store: str, now: float) -> int:
        number = self._store_number(connection, store)
        if number is None:
            self._database.lock(connection, _STORES_LOCK)
            insert_if_absent(connection, stores, name=store, created=now)  # another process may have created it
            number = self._store_number(connection, store)
        assert number is not None
        return number

    def _store_number(self, connection: Connection, store: str, *, removes: bool = False) -> int | None:
        """Return the number of the store, which no other transaction removes before this one ends; *removes*: this one removes it."""
        query = select(stores.c.number).where(stores.c.name == check_store_name(store))
        locked = query.with_for_update() if removes else query.with_for_update(read=True, key_share=True)
        number: int | None = connection.execute(locked).scalar_one_or_none()
        return number

    def _sweep(self, connection: Connection, now: float) -> None:
        """Remove some expired records; their number is limited, so that a write does not take long."""
        old = select(store_records.c.number).where(store_records.c.expires <= now).limit(_MAX_SWEPT_RECORDS)
        # a record that another process removes or replaces is skipped: waiting for each other would never end
        free = old.with_for_update(skip_locked=True)
        connection.execute(delete(store_records).where(store_records.c.number.in_(free)))

    def _record_conditions(self, connection: Connection, store: str, key: str) -> tuple[ColumnElement[bool], ...]:
        number = self._store_number(connection, store)
        return store_records.c.store == number, store_records.c.key == check_key(key), self._not_expired()

    def _page_query(self, columns: Any, store: str, after: int | None) -> Any:
        check_store_name(store)
        number = select(stores.c.number).where(stores.c.name == store).scalar_subquery()
        query = columns.where(store_records.c.store == number, self._not_expired()).order_by(store_records.c.number)
        return query if after is None else query.where(store_records.c.number > after)

    def _not_expired(self) -> ColumnElement[bool]:
        now = self._clock.now().timestamp()
        return or_(store_records.c.expires.is_(None), store_records.c.expires > now)

    def _expires(self, ttl: Ttl) -> float | None:
        return None if ttl is None else self._clock.now().timestamp() + check_ttl(ttl)


def iter_pages(read_page: Callable[[int | None], RecordPage]) -> Iterator[StoreRecord]:
    """Yield the records of all pages. *read_page* returns the page after a cursor, the first one for None."""
    after: int | None = None
    while True:
        page = read_page(after)
        yield from page.records
        after = page.next_cursor
        if after is None:
            return


def check_store_name(name: str) -> str:
    """Return *name* if it is a valid name of a store. Raises `RequestError`."""
    if not name or len(name) > MAX_STORE_NAME_CHARACTERS or not name.isprintable() or name != name.strip():
        raise RequestError(
            f"{name[:60]!r} is not a valid name of a data store.",
            fix=f"Use 1 to {MAX_STORE_NAME_CHARACTERS} printable characters, without blanks at the ends.",
        )
    return name


def check_key(key: object) -> str:
    """Return *key* if it is a valid key of a record. Raises `RequestError`."""
    if not isinstance(key, str):
        raise RequestError(f"A key of a data store must be a text, not {key!r:.60}.", fix="Convert it to text.")
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise RequestError(
            f"The key {key[:60]!r} of a data store is not valid Unicode: it contains half of a surrogate pair."
        ) from None
    if not key or size > MAX_KEY_BYTES or "\0" in key:
        raise RequestError(
            f"The key {key[:60]!r}{'...' if len(key) > 60 else ''} of a data store has {size} bytes: expected 1 to "
            f"{MAX_KEY_BYTES} bytes without NUL.",
            fix="Use a shorter key, for example a hash of it." if size > MAX_KEY_BYTES else "",
        )
    return key


def check_ttl(ttl: object) -> float:
    """Return *ttl* as seconds. Raises `RequestError` if it is not a valid time to live."""
    if isinstance(ttl, bool) or not isinstance(ttl, int | float) or not 0 < ttl <= MAX_TTL_S or math.isnan(ttl):
        raise RequestError(
            f"{ttl!r:.60} is not a time to live: expected a number of seconds above 0 and up to {MAX_TTL_S:,} (two years).",
            fix="For a record that never expires, pass None (null).",
        )
    return float(ttl)


def encode_value(value: JSON, key: str) -> str:
    """Return *value* as JSON text. Raises `RequestError` if it is not JSON; the message names *key*."""
    try:
        return _encode(value)
    except (TypeError, ValueError, RecursionError) as fault:
        raise RequestError(f"The value of {key[:60]!r} is not JSON: {fault}.") from None


def _columns() -> Any:
    return select(store_records.c.number, store_records.c.key, store_records.c.value, store_records.c.expires)


_ONE = CompiledQuery(
    _columns()
    .select_from(_JOINED)
    .where(
        stores.c.name == bindparam("store"),
        store_records.c.key == bindparam("key"),
        or_(store_records.c.expires.is_(None), store_records.c.expires > bindparam("now")),
    )
)


def _record(row: Any) -> StoreRecord:
    expires = None if row.expires is None else datetime.fromtimestamp(row.expires, UTC)
    return StoreRecord(row.key, json.loads(row.value), expires)

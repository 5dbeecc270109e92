"""
Scratch copies of data stores: what test runs write instead of the project's stores.

A copy holds the changed records only, in memory. Every other record is read from the project's store, as it is at that moment.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol, Self, TypeVar

from pdkernel.common.clock import Clock
from pdkernel.common.encode import JsonStruct
from pdkernel.errors import RequestError
from pdkernel.model import JSON
from pdkernel.storage.data_stores import (
    MAX_PAGE_CHARACTERS,
    MAX_PAGE_RECORDS,
    DataStoreSummary,
    DataStoreTable,
    RecordPage,
    StoreRecord,
    Ttl,
    check_key,
    check_store_name,
    check_ttl,
    encode_value,
    iter_pages,
)

_T = TypeVar("_T")
MAX_SCRATCH_CHARACTERS = 1 << 26
"""The maximum size of the keys and values of a scratch copy, in characters of JSON: they are in memory."""


class StepStores(Protocol):
    """Where the steps of a run read and write data stores."""

    def for_step(self, step: str, above: Sequence[str], *, is_repeat: bool) -> DataStoreTable | ScratchCopy:
        """
        Return the stores for one run of *step*.

        Args:
            step: The step's name.
            above: The names of the steps above it that are not disabled, in order.
            is_repeat: Whether the step has already begun in this run: a retry, or a step that reruns itself.
        """
        ...

    def snapshot(self) -> ScratchState | None:
        """Return the changed records, for the process that continues the run; None for the stores of a project."""
        ...


class _Change(JsonStruct, frozen=True, omit_defaults=True):
    """
    A changed record.

    Attributes:
        text: The value as JSON; None for a removed record.
        expires: The time of its expiry in seconds since 1970, or None.
        number: The position among records that the project's store does not have; 0 for a record that keeps its position.
    """

    text: str | None
    expires: float | None = None
    number: int = 0


class _StoreState(JsonStruct, frozen=True, omit_defaults=True):
    """The changes of one store. *is_cleared*: the records of the project's store are hidden."""

    records: Mapping[str, _Change]
    is_cleared: bool = False


class ScratchState(JsonStruct, frozen=True):
    """The changes of a scratch copy, by store."""

    stores: Mapping[str, _StoreState]


@dataclass(slots=True)
class _Changes:
    """The changes of one store; a key that was removed and set again is the last one."""

    records: dict[str, _Change] = field(default_factory=dict)
    is_cleared: bool = False


class ScratchCopy:
    """
    A scratch copy of all data stores of a project; implements `StepStores` for a whole run. Safe from any thread.

    The methods are those of `DataStoreTable` and raise the same errors. Besides, every write raises `RequestError` if the copy
    would be larger than `MAX_SCRATCH_CHARACTERS`.

    Args:
        table: The project's stores, which are only read.
        clock: The clock of expiries.
        state: The changes of a copy in another process, or None.
    """

    def __init__(self, table: DataStoreTable, clock: Clock, state: ScratchState | None = None) -> None:
        self._table = table
        self._clock = clock
        self._lock = threading.RLock()
        stored = {} if state is None else state.stores
        self._stores = {name: _Changes(dict(each.records), each.is_cleared) for name, each in stored.items()}
        changes = [item for each in self._stores.values() for item in each.records.items()]
        self._last_number = max((change.number for _, change in changes), default=0)
        self._size = sum(_size_of(key, change) for key, change in changes)

    def for_step(self, step: str, above: Sequence[str], *, is_repeat: bool) -> Self:  # noqa: ARG002 - a protocol
        """As in `StepStores`: all steps have this copy."""
        return self

    def snapshot(self) -> ScratchState | None:
        """As in `StepStores`; None without changes."""
        with self._lock:
            stores = {name: _StoreState(dict(each.records), each.is_cleared) for name, each in self._stores.items()}
        return ScratchState(stores) if stores else None

    def fork(self) -> ScratchCopy:
        """Return a copy with these changes, whose later changes are its own."""
        return ScratchCopy(self._table, self._clock, self.snapshot())

    def changed_stores(self) -> Sequence[str]:
        """Return the names of the stores that were written, sorted."""
        with self._lock:
            return sorted(self._stores)

    def list_stores(self) -> Sequence[DataStoreSummary]:
        """Return the stores that were written, by name; *characters* counts the changed values."""
        found = []
        for name in self.changed_stores():
            with self._lock:
                characters = sum(len(each.text or "") for each in self._stores[name].records.values())
            found.append(DataStoreSummary(name, self.count(name), characters, self._clock.now()))
        return found

    def require(self, store: str) -> None:
        """Raise `StoreNotFoundError` if neither this copy nor the project has *store*."""
        if store not in self.changed_stores():
            self._table.require(store)

    # ── records ────────────────────────────────────────────────────────────────────

    def find(self, store: str, key: str) -> StoreRecord | None:
        """Return the record with *key*, or None."""
        check_store_name(store)
        check_key(key)
        with self._lock:
            changes = self._stores.get(store)
            change = None if changes is None else changes.records.get(key)
            if change is not None:
                return _record(key, change) if self._is_alive(change) else None
            if changes is not None and changes.is_cleared:
                return None
        return self._table.find(store, key)

    def set(self, store: str, key: str, value: JSON, *, ttl: Ttl = None) -> None:
        """As `DataStoreTable.set`."""
        text = encode_value(value, check_key(key))
        self._write(store, key, text, None if ttl is None else self._clock.now().timestamp() + check_ttl(ttl))

    def set_ttl(self, store: str, key: str, ttl: Ttl) -> bool:
        """As `DataStoreTable.set_ttl`."""
        expires = None if ttl is None else self._clock.now().timestamp() + check_ttl(ttl)
        with self._lock:
            record = self.find(store, key)
            if record is None:
                return False
            self._write(store, key, encode_value(record.value, key), expires)
        return True

    def delete(self, store: str, key: str) -> bool:
        """As `DataStoreTable.delete`."""
        with self._lock:
            exists = self.find(store, key) is not None
            if exists:
                self._put(store, key, _Change(None))
        return exists

    def clear(self, store: str) -> int:
        """As `DataStoreTable.clear`."""
        with self._lock:
            count = self.count(store)
            former = self._stores.get(store, _Changes())
            self._size -= sum(_size_of(key, change) for key, change in former.records.items())
            self._stores[store] = _Changes(is_cleared=True)
        return count

    def count(self, store: str) -> int:
        """As `DataStoreTable.count`."""
        with self._lock:
            changes = self._stores.get(check_store_name(store), _Changes())
            alive = sum(map(self._is_alive, changes.records.values()))
            if changes.is_cleared:
                return alive
            hidden = self._table.find_keys(store, changes.records)
            return self._table.count(store) - len(hidden) + alive

    def read_keys(self, store: str, cursor: int | None = None) -> tuple[Sequence[str], int | None]:
        """As `DataStoreTable.read_keys`; a negative cursor is a position among the records of this copy alone."""
        return self._read(store, cursor, self._table.read_keys, key_of=lambda key: key, build=lambda record: record.key)

    def read_page(self, store: str, cursor: int | None = None) -> RecordPage:
        """As `DataStoreTable.read_page`; cursors are those of `read_keys`."""

        def read(name: str, after: int | None) -> tuple[Sequence[StoreRecord], int | None]:
            page = self._table.read_page(name, after)
            return page.records, page.next_cursor

        records, after = self._read(store, cursor, read, key_of=lambda record: record.key, build=lambda record: record)
        return RecordPage(tuple(records), after)

    def iter_records(self, store: str) -> Iterator[StoreRecord]:
        """Yield every record, in the order in which their keys were first set."""
        return iter_pages(lambda after: self.read_page(store, after))

    # ── parts ──────────────────────────────────────────────────────────────────────

    def _read(
        self,
        store: str,
        cursor: int | None,
        read: Callable[[str, int | None], tuple[Sequence[_T], int | None]],
        *,
        key_of: Callable[[_T], str],
        build: Callable[[StoreRecord], _T],
    ) -> tuple[Sequence[_T], int | None]:
        """Return a page of the project's records as they are in this copy, then pages of the records that only this copy has."""
        with self._lock:
            changes = self._stores.get(check_store_name(store), _Changes())
            if changes.is_cleared or (cursor is not None and cursor < 0):
                return self._read_own(store, changes, max(-(cursor or 0), 1), build)
            page, after = read(store, cursor)
            found = []
            for item in page:
                change = changes.records.get(key_of(item))
                if change is None:
                    found.append(item)
                elif change.number == 0 and self._is_alive(change):
                    found.append(build(_record(key_of(item), change)))
            if after is None and any(map(self._is_alive, changes.records.values())):
                after = -1
        return found, after

    def _read_own(
        self, store: str, changes: _Changes, first: int, build: Callable[[StoreRecord], _T]
    ) -> tuple[Sequence[_T], int | None]:
        """Return a page of the records that only this copy has, from the number *first*."""
        alive = [(key, change) for key, change in changes.records.items() if self._is_alive(change)]
        found: list[_T] = []
        if first == 1:  # records whose originals have expired since or were removed from the project's store
            kept = [key for key, change in alive if change.number == 0]
            originals = self._table.find_keys(store, kept) if kept else frozenset()
            found = [build(_record(key, changes.records[key])) for key in kept if key not in originals]
        count = size = 0
        for key, change in alive:  # in the order of their numbers
            if change.number < first:
                continue
            if count == MAX_PAGE_RECORDS or size > MAX_PAGE_CHARACTERS:
                return found, -change.number
            found.append(build(_record(key, change)))
            count, size = count + 1, size + len(change.text or "")
        return found, None

    def _write(self, store: str, key: str, text: str, expires: float | None) -> None:
        with self._lock:
            changes = self._stores.get(check_store_name(store), _Changes())
            former = changes.records.get(key)
            if former is not None and self._is_alive(former):
                number = former.number
            elif former is None and not changes.is_cleared and self._table.find(store, key) is not None:
                number = 0
            else:
                self._last_number = number = self._last_number + 1
            self._put(store, key, _Change(text, expires, number))

    def _put(self, store: str, key: str, change: _Change) -> None:
        records = self._stores.get(store, _Changes()).records
        former = records.get(key)
        size = self._size + _size_of(key, change) - (0 if former is None else _size_of(key, former))
        if size > MAX_SCRATCH_CHARACTERS and size > self._size:
            raise RequestError(
                f"The scratch copy of the data stores is full: a test run can write {MAX_SCRATCH_CHARACTERS >> 20} million "
                "characters.",
                fix="Write less, or write the data stores themselves: --egress live, in a notebook %pdegress live.",
            )
        self._size = size
        kept = self._stores.setdefault(store, _Changes()).records
        if former is not None and former.number != change.number:
            del kept[key]  # a key that is set again is the last one
        kept[key] = change

    def _is_alive(self, change: _Change) -> bool:
        is_expired = change.expires is not None and change.expires <= self._clock.now().timestamp()
        return change.text is not None and not is_expired


def _size_of(key: str, change: _Change) -> int:
    return len(key) + len(change.text or "")


def _record(key: str, change: _Change) -> StoreRecord:
    expires = None if change.expires is None else datetime.fromtimestamp(change.expires, UTC)
    return StoreRecord(key, json.loads(change.text or "null"), expires)


class ScratchByUser:
    """
    The scratch copies of a server, one for each external user and environment, until the process ends.

    Args:
        table: The project's stores.
        clock: The clock of expiries.
    """

    def __init__(self, table: DataStoreTable, clock: Clock) -> None:
        self._table = table
        self._clock = clock
        self._copies: dict[tuple[str | None, str], ScratchCopy] = {}

    def get(self, external_user_id: str | None, environment: str, state: ScratchState | None = None) -> ScratchCopy:
        """Return the copy of the external user; a new one begins with *state*."""
        key = (external_user_id, environment)
        if key not in self._copies:
            self._copies[key] = ScratchCopy(self._table, self._clock, state)
        return self._copies[key]


class ScratchByStep:
    """
    The scratch copies of a notebook's draft, one for each step: the state after the step's last run.

    A step that runs begins with the copy of the nearest step above it, so that it reads what the steps above wrote, and
    running it twice counts once. Safe from any thread.

    Args:
        table: The project's stores.
        clock: The clock of expiries.
    """

    def __init__(self, table: DataStoreTable, clock: Clock) -> None:
        self._table = table
        self._clock = clock
        self._lock = threading.Lock()
        self._copies: dict[str, ScratchCopy] = {}
        self.latest: ScratchCopy | None = None
        """The copy of the step that ran last; None before the first step."""

    def forget(self, steps: Collection[str]) -> None:
        """Discard the copies of *steps*, which are about to run."""
        with self._lock:
            for step in steps:
                self._copies.pop(step, None)

    def for_step(self, step: str, above: Sequence[str], *, is_repeat: bool) -> ScratchCopy:
        """As in `StepStores`."""
        with self._lock:
            if not (is_repeat and step in self._copies):
                nearest = next((self._copies[each] for each in reversed(above) if each in self._copies), None)
                self._copies[step] = nearest.fork() if nearest else ScratchCopy(self._table, self._clock)
            self.latest = self._copies[step]
            return self.latest

    def snapshot(self) -> ScratchState | None:
        """As in `StepStores`."""
        return None if self.latest is None else self.latest.snapshot()

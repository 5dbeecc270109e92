"""Data stores: records, times to live, pages, and ten processes at once."""

from __future__ import annotations

import json
import math
from contextlib import nullcontext
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from pdkernel.common.clock import ManualClock
from pdkernel.errors import RequestError
from pdkernel.model import JSON
from pdkernel.storage import Project, StoreRecord
from pdkernel.storage.data_stores import MAX_PAGE_RECORDS, MAX_TTL_S, StoreNotFoundError, check_key
from pdkernel.storage.schema import store_records

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def value(project: Project, key: str, store: str = "s") -> Any:
    """The value of *key*, or `absent`."""
    record = project.data_stores.find(store, key)
    return record.value if record else "absent"


@settings(max_examples=settings().max_examples // 2, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kept=VALUES)
def test_any_json_value_comes_back(project: Project, kept: JSON) -> None:
    """A value reads back unchanged: large integers, unpaired surrogates, order of keys."""
    project.data_stores.set("s", "key", kept)

    assert json.dumps(value(project, "key")) == json.dumps(kept)


def test_the_first_write_creates_a_store(project: Project) -> None:
    """Reading a store that does not exist finds nothing and creates nothing."""
    assert value(project, "key") == "absent"
    assert project.data_stores.count("s") == 0
    assert project.data_stores.read_keys("s") == ([], None)
    assert project.data_stores.delete("s", "key") is False
    assert project.data_stores.names() == []

    project.data_stores.set("s", "key", 1)

    assert project.data_stores.names() == ["s"]


def test_a_new_value_replaces_the_old_one(project: Project) -> None:
    """A key has one value, the last one, and keeps its position in the order."""
    for key in "ab":
        project.data_stores.set("s", key, "old")

    project.data_stores.set("s", "a", "new")

    assert [(record.key, record.value) for record in project.data_stores.iter_records("s")] == [
        ("a", "new"),
        ("b", "old"),
    ]


def test_stores_are_separate(project: Project) -> None:
    """The same key in two stores names two records; stores are listed by name, an empty one too."""
    project.data_stores.set("two", "key", 2)
    project.data_stores.set("one", "key", 1)

    project.data_stores.clear("one")

    assert (value(project, "key", "one"), value(project, "key", "two")) == ("absent", 2)
    assert [(store.name, store.record_count) for store in project.data_stores.list_stores()] == [("one", 0), ("two", 1)]


def test_the_size_of_a_store_is_that_of_its_values(project: Project) -> None:
    """The size is counted in characters of JSON, without keys; an empty store has 0."""
    project.data_stores.set("full", "a long key", "é1")
    project.data_stores.set("full", "another key", [1, 2])
    project.data_stores.set("was full", "key", 1)

    project.data_stores.clear("was full")

    assert [store.characters for store in project.data_stores.list_stores()] == [len('"\\u00e91"') + len("[1,2]"), 0]


def test_an_expired_record_is_absent(project: Project, clock: ManualClock) -> None:
    """No method finds an expired record."""
    project.data_stores.set("s", "short", 1, ttl=60)
    project.data_stores.set("s", "long", 2)
    clock.advance(60)

    assert value(project, "short") == "absent"
    assert project.data_stores.count("s") == 1
    assert project.data_stores.read_keys("s")[0] == ["long"]
    assert [record.key for record in project.data_stores.iter_records("s")] == ["long"]
    assert [store.record_count for store in project.data_stores.list_stores()] == [1]
    assert project.data_stores.set_ttl("s", "short", 60) is False
    assert project.data_stores.clear("s") == 1


def test_an_expired_record_that_is_set_again_is_a_new_one(project: Project, clock: ManualClock) -> None:
    """It comes after the records that were set before; a record that has not expired keeps its place."""
    project.data_stores.set("s", "expired", 1, ttl=60)
    project.data_stores.set("s", "kept", 1)
    project.data_stores.set("s", "last", 1)
    clock.advance(60)

    project.data_stores.set("s", "expired", 2)
    project.data_stores.set("s", "kept", 2)

    assert project.data_stores.read_keys("s")[0] == ["kept", "last", "expired"]


@pytest.mark.parametrize(("key", "is_valid"), [("é" * 512, True), ("é" * 512 + "x", False), ("x" * 1024, True)])
def test_a_key_has_at_most_1024_bytes(key: str, is_valid: bool) -> None:
    """The length is that in UTF-8."""
    with nullcontext() if is_valid else pytest.raises(RequestError, match="1025 bytes"):
        check_key(key)


def test_a_later_write_removes_expired_records(project: Project, clock: ManualClock) -> None:
    """Expired records do not stay in the database."""
    for number in range(5):
        project.data_stores.set("s", f"k{number}", number, ttl=1)
    clock.advance(2)

    project.data_stores.set("other", "key", 1)

    with project.sqlalchemy_engine.connect() as connection:
        assert connection.execute(select(func.count()).select_from(store_records)).scalar_one() == 1


def test_time_to_live_can_be_changed_and_removed(project: Project, clock: ManualClock) -> None:
    """`set_ttl` counts from now; None removes the time to live, and so does a new value without one."""
    for key in ("longer", "for ever", "new value"):
        project.data_stores.set("s", key, 1, ttl=60)
    project.data_stores.set_ttl("s", "longer", 120)
    project.data_stores.set_ttl("s", "for ever", None)
    project.data_stores.set("s", "new value", 1)
    clock.advance(100)

    found = project.data_stores.find("s", "longer")
    assert found is not None
    assert found.expires == clock.now() + timedelta(seconds=20)
    assert project.data_stores.read_keys("s")[0] == ["longer", "for ever", "new value"]


@pytest.mark.parametrize("ttl", [0, -1, MAX_TTL_S + 1, math.nan, math.inf, "60", True])
def test_an_impossible_time_to_live_is_refused(sqlite_project: Project, ttl: Any) -> None:
    """A time to live is a number of seconds up to two years."""
    with pytest.raises(RequestError, match="time to live"):
        sqlite_project.data_stores.set("s", "key", 1, ttl=ttl)
    sqlite_project.data_stores.set("s", "key", 1, ttl=730 * 86400)


@pytest.mark.parametrize("key", ["", "k" * 1025, "half \ud800", "nul \0", 7, None])
def test_an_impossible_key_is_refused(sqlite_project: Project, key: Any) -> None:
    """A key that one of the databases cannot hold is refused."""
    with pytest.raises(RequestError, match="key"):
        sqlite_project.data_stores.set("s", key, 1)


@pytest.mark.parametrize("name", ["", " padded", "two\nlines", "n" * 201])
def test_an_impossible_name_is_refused(sqlite_project: Project, name: str) -> None:
    """A store name that cannot be written on a directive's line is refused; one of 200 characters is not."""
    with pytest.raises(RequestError, match="is not a valid name of a data store"):
        sqlite_project.data_stores.set(name, "key", 1)
    sqlite_project.data_stores.set("n" * 200, "key", 1)


@pytest.mark.parametrize("wrong", [{1, 2}, math.nan, {"deep": object()}])
def test_a_value_that_is_not_json_is_refused(sqlite_project: Project, wrong: Any) -> None:
    """A value that is not JSON is refused, and nothing is stored."""
    with pytest.raises(RequestError, match="'key' is not JSON"):
        sqlite_project.data_stores.set("s", "key", wrong)

    assert sqlite_project.data_stores.names() == []


def test_a_large_store_is_read_in_pages(project: Project) -> None:
    """The pages contain every record once, in order, including records that are added meanwhile."""
    project.data_stores.put_records(
        "s", [StoreRecord(f"k{number}", number, None) for number in range(MAX_PAGE_RECORDS + 3)]
    )

    first, after = project.data_stores.read_keys("s")
    project.data_stores.delete("s", "k0")
    project.data_stores.set("s", "late", 1)
    second, end = project.data_stores.read_keys("s", after)

    assert [*first, *second] == [*(f"k{number}" for number in range(MAX_PAGE_RECORDS + 3)), "late"]
    assert end is None
    assert project.data_stores.count("s") == MAX_PAGE_RECORDS + 3


def test_a_page_of_large_values_ends_early(project: Project) -> None:
    """A page holds about a megabyte, regardless of the number of its records."""
    project.data_stores.put_records("s", [StoreRecord(f"k{number}", "x" * 700_000, None) for number in range(5)])

    assert len(project.data_stores.read_page("s").records) == 2
    assert [record.key for record in project.data_stores.iter_records("s")] == [f"k{number}" for number in range(5)]


def test_a_removed_store_is_gone_with_its_records(project: Project) -> None:
    """A later store of the same name is empty, and no record of the removed one is left in the database."""
    project.data_stores.set("s", "key", 1)

    assert project.data_stores.remove("s") is True
    assert project.data_stores.remove("s") is False
    assert value(project, "key") == "absent"
    with project.sqlalchemy_engine.connect() as connection:
        assert connection.execute(select(func.count()).select_from(store_records)).scalar_one() == 0


def test_records_of_a_file_replace_those_of_the_store(project: Project, clock: ManualClock) -> None:
    """Each record of a file keeps its expiry; the earlier records of the store stay, unless it is cleared first."""
    expires = clock.now() + timedelta(seconds=60)
    records = [StoreRecord("a", 1, expires), StoreRecord("b", 2, None)]
    for store in ("s", "t"):
        project.data_stores.set(store, "old", 0)

    project.data_stores.put_records("s", records)
    project.data_stores.put_records("t", records, clear_first=True)

    assert [record.key for record in project.data_stores.iter_records("s")] == ["old", "a", "b"]
    assert list(project.data_stores.iter_records("t")) == records
    project.data_stores.put_records("t", [], clear_first=True)
    assert project.data_stores.count("t") == 0


def test_the_error_for_an_unknown_store_lists_the_existing_ones(sqlite_project: Project) -> None:
    """The error for an unknown store name lists the existing stores."""
    sqlite_project.data_stores.set("orders", "key", 1)

    with pytest.raises(StoreNotFoundError, match="orders"):
        sqlite_project.data_stores.require("order")

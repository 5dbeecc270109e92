"""Scratch copies of data stores: what they show, their order, expiry and size, and the project's stores, which stay."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pdkernel.common.clock import ManualClock
from pdkernel.errors import RequestError
from pdkernel.storage import (
    DataStoreTable,
    Project,
    ScratchByStep,
    ScratchByUser,
    ScratchCopy,
    ScratchState,
    StoreRecord,
    scratch_stores,
)
from pdkernel.storage.data_stores import MAX_PAGE_RECORDS, StoreNotFoundError

KEYS = st.sampled_from("abcdef")
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), KEYS, st.integers(0, 9)),
        st.tuples(st.just("set"), KEYS, st.integers(0, 9), st.sampled_from([5.0, 50.0])),
        st.tuples(st.just("set_ttl"), KEYS, st.sampled_from([None, 5.0, 50.0])),
        st.tuples(st.just("delete"), KEYS),
        st.tuples(st.just("clear")),
        st.tuples(st.just("wait")),
    ),
    max_size=12,
)


def scratch(project: Project) -> ScratchCopy:
    """A scratch copy of the project's stores."""
    return ScratchCopy(project.data_stores, project.clock)


def records(stores: DataStoreTable | ScratchCopy, store: str = "s") -> list[tuple[str, Any]]:
    """Keys and values in order."""
    return [(record.key, record.value) for record in stores.iter_records(store)]


def do(stores: DataStoreTable | ScratchCopy, clock: ManualClock, operations: list[Any]) -> list[object]:
    """Do *operations* and return their answers; `wait` moves the clock by ten seconds."""
    answers = []
    for operation in operations:
        if operation == ("wait",):
            clock.advance(10)
        else:
            answers.append(apply(stores, operation))
    return answers


def apply(stores: DataStoreTable | ScratchCopy, operation: tuple[Any, ...]) -> object:
    """Do one operation on the store `s` and return its answer."""
    match operation:
        case ("set", key, value):
            return stores.set("s", key, value)
        case ("set", key, value, ttl):
            return stores.set("s", key, value, ttl=ttl)
        case ("set_ttl", key, ttl):
            return stores.set_ttl("s", key, ttl)
        case ("delete", key):
            return stores.delete("s", key)
        case _:
            return stores.clear("s")


@settings(max_examples=settings().max_examples // 2, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=OPERATIONS, after=OPERATIONS)
def test_a_scratch_copy_answers_as_the_store_would(
    project: Project, clock: ManualClock, before: list[Any], after: list[Any]
) -> None:
    """After any operations, a copy has the answers, the records and their number that the store itself would have."""
    project.data_stores.remove("s")
    do(project.data_stores, clock, before)
    copy = scratch(project)

    on_copy = do(copy, clock, after), records(copy), copy.count("s"), [*copy.read_keys("s")[0]]
    waited = 10 * after.count(("wait",))
    clock.advance(-waited)
    on_store = do(project.data_stores, clock, after), records(project.data_stores), project.data_stores.count("s")

    assert (on_copy[0], sorted(on_copy[1]), on_copy[2]) == (on_store[0], sorted(on_store[1]), on_store[2])
    if not waited:  # a record whose original expires moves to the end
        assert on_copy[1] == on_store[1]


def test_the_stores_of_the_project_stay(project: Project) -> None:
    """Writes, removals and a clearing are in the copy; the project's stores, and a store that it lacks, do not change."""
    project.data_stores.put_records("s", [StoreRecord("a", 1, None), StoreRecord("b", 2, None)])
    copy = scratch(project)

    copy.set("s", "a", 5)
    copy.delete("s", "b")
    copy.set("new", "c", 3)
    copy.clear("s")
    copy.set("s", "d", 4)

    assert (records(copy), records(copy, "new")) == ([("d", 4)], [("c", 3)])
    assert records(project.data_stores) == [("a", 1), ("b", 2)]
    assert project.data_stores.names() == ["s"]
    assert copy.changed_stores() == ["new", "s"]


def test_pages_of_a_copy_have_every_record_once(project: Project) -> None:
    """Pages lead from the project's records to those that only the copy has, in order."""
    old = [StoreRecord(f"old{number:04}", number, None) for number in range(MAX_PAGE_RECORDS + 10)]
    project.data_stores.put_records("s", old)
    copy = scratch(project)
    copy.set("s", "old0003", "changed")
    copy.delete("s", "old0004")
    for number in range(MAX_PAGE_RECORDS + 10):
        copy.set("s", f"new{number:04}", number)

    keys: list[str] = []
    cursor: int | None = None
    while True:
        page, cursor = copy.read_keys("s", cursor)
        keys += page
        if cursor is None:
            break

    assert keys == [
        *(record.key for record in old if record.key != "old0004"),
        *(f"new{number:04}" for number in range(MAX_PAGE_RECORDS + 10)),
    ]
    assert dict(records(copy))["old0003"] == "changed"
    assert copy.count("s") == len(keys)


def test_a_record_outlives_its_original(project: Project, clock: ManualClock) -> None:
    """A longer time to live in the copy holds, although the record of the project's store expires."""
    project.data_stores.set("s", "a", 1, ttl=5)
    copy = scratch(project)
    copy.set_ttl("s", "a", None)

    clock.advance(10)

    assert (records(copy), copy.count("s"), records(project.data_stores)) == ([("a", 1)], 1, [])


def test_another_process_restores_a_copy(project: Project) -> None:
    """The snapshot has the changes, the removals and the order; a copy without changes has none."""
    project.data_stores.put_records("s", [StoreRecord("a", 1, None), StoreRecord("b", 2, None)])
    copy = scratch(project)
    assert copy.snapshot() is None
    copy.delete("s", "a")
    copy.set("s", "c", [None], ttl=60)
    copy.set("s", "a", 3)

    state = copy.snapshot()
    assert state is not None
    restored = ScratchCopy(project.data_stores, project.clock, ScratchState.from_json(state.to_json()))
    restored.set("s", "d", 4)

    assert records(restored) == [("b", 2), ("c", [None]), ("a", 3), ("d", 4)]
    assert records(copy) == [("b", 2), ("c", [None]), ("a", 3)]


def test_the_size_of_a_copy_is_limited(project: Project) -> None:
    """A copy is in memory: a write beyond the limit is refused, and less is written again after a removal."""
    copy = scratch(project)
    large = "x" * (scratch_stores.MAX_SCRATCH_CHARACTERS // 2)
    copy.set("s", "a", large)

    with pytest.raises(RequestError, match="The scratch copy of the data stores is full"):
        copy.set("s", "b", large)

    copy.delete("s", "a")
    copy.set("s", "b", large)
    assert copy.count("s") == 1


@pytest.mark.parametrize(
    ("key", "value", "ttl"),
    [("", 1, None), ("k" * 1025, 1, None), ("a", object(), None), ("a", float("nan"), None), ("a", 1, -1)],
)
def test_what_a_store_refuses_a_copy_refuses(sqlite_project: Project, key: str, value: Any, ttl: Any) -> None:
    """Keys, values and times to live are checked as for a store."""
    for stores in (sqlite_project.data_stores, scratch(sqlite_project)):
        with pytest.raises(RequestError):
            stores.set("s", key, value, ttl=ttl)
    with pytest.raises(RequestError):
        scratch(sqlite_project).find(" s", "k")


def test_a_store_that_does_not_exist_is_named(project: Project) -> None:
    """A store exists if the project or the copy has it."""
    copy = scratch(project)
    with pytest.raises(StoreNotFoundError):
        copy.require("s")

    copy.set("s", "a", 1)

    copy.require("s")
    (shown,) = copy.list_stores()
    assert (shown.name, shown.record_count) == ("s", 1)


def test_a_step_begins_with_what_the_steps_above_wrote(project: Project) -> None:
    """A step that runs again counts once; a step below reads the nearest copy above, and a step above reads none of below."""
    by_step = ScratchByStep(project.data_stores, project.clock)

    def add(step: str, *above: str, is_repeat: bool = False) -> int:
        copy = by_step.for_step(step, above, is_repeat=is_repeat)
        found = copy.find("s", "n")
        total = (int(found.value) if found and isinstance(found.value, int) else 0) + 1
        copy.set("s", "n", total)
        return total

    assert [add("a"), add("a"), add("b", "a"), add("b", "a"), add("a"), add("c", "a", "b")] == [1, 1, 2, 2, 1, 3]
    assert add("c", "a", "b", is_repeat=True) == 4
    by_step.forget(["b"])
    assert add("c", "a", "b") == 2
    assert by_step.latest is not None
    assert records(by_step.latest) == [("n", 2)]
    assert project.data_stores.names() == []


def test_users_of_a_test_server_do_not_share_a_copy(project: Project) -> None:
    """Each external user and environment has one copy until the process ends; a new one begins with a given state."""
    by_user = ScratchByUser(project.data_stores, project.clock)
    by_user.get("ada", "development").set("s", "a", 1)
    state = by_user.get("ada", "development").snapshot()

    assert by_user.get("ada", "development").count("s") == 1
    assert by_user.get("ada", "production").count("s") == 0
    assert by_user.get("bob", "development").count("s") == 0
    assert by_user.get("eve", "development", state).count("s") == 1

"""The data store of a Python step."""

from __future__ import annotations

from typing import Any

import pytest

from pdkernel.runtimes.python.data_store import DataStore, StoreKeyError, StoreValueError


class Service:
    """Answers like the service of pdkernel, with pages of two records."""

    def __init__(self) -> None:
        self.records: dict[str, Any] = {}
        self.ttls: dict[str, float | None] = {}
        self.calls: list[str] = []

    def __call__(self, operation: str, args: dict[str, Any]) -> Any:
        """Answer a call."""
        assert args.pop("store") == "orders"
        self.calls.append(operation)
        match operation:
            case "store.get":
                return {"value": self.records[args["key"]]} if args["key"] in self.records else None
            case "store.set":
                self.records[args["key"]] = args["value"]
                self.ttls[args["key"]] = args["ttl"]
            case "store.set_ttl":
                self.ttls[args["key"]] = args["ttl"]
            case "store.delete":
                self.records.pop(args["key"], None)
            case "store.has":
                return args["key"] in self.records
            case "store.count":
                return len(self.records)
            case "store.clear":
                self.records.clear()
            case "store.keys" | "store.entries":
                what = operation.partition(".")[2]
                start = args["after"] or 0
                found: list[Any] = list(self.records if what == "keys" else map(list, self.records.items()))
                return {what: found[start : start + 2], "after": start + 2 if start + 2 < len(found) else None}
        return None


@pytest.fixture
def service() -> Service:
    """A store without records."""
    return Service()


@pytest.fixture
def store(service: Service) -> DataStore:
    """The store of a step."""
    return DataStore("orders", service)


def test_records(store: DataStore, service: Service) -> None:
    """A record is set, read, found and removed like an item of a dict; null is a value."""
    store["a"] = None
    store.set("b", {"n": 1}, ttl=60)

    assert (store["a"], store.get("a", 5), store["b"]) == (None, None, {"n": 1})
    assert (store.get("c"), store.get("c", 5)) == (None, 5)
    assert ("a" in store, "c" in store, len(store)) == (True, False, 2)
    assert service.ttls == {"a": None, "b": 60}
    store.set_ttl("a", 5)
    store.set_ttl("b")
    assert service.ttls == {"a": 5, "b": None}
    store.set_ttl("b", 0)
    assert service.ttls == {"a": 5, "b": 0}
    del store["a"]
    assert list(store) == ["b"]
    store.clear()
    assert len(store) == 0


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5])
def test_all_pages_are_read(store: DataStore, service: Service, count: int) -> None:
    """Keys and records are loaded page by page, in order, while they are read."""
    service.records = {f"k{number}": number for number in range(count)}

    keys, items = store.keys(), store.items()

    assert service.calls == []
    assert list(keys) == list(keys) == list(store) == list(service.records)
    assert list(items) == [(f"k{number}", number) for number in range(count)]
    assert repr(keys) == "<Keys of a data store: read them with list(...)>"
    assert repr(items).startswith("<Items of")
    assert repr(store) == "<data store 'orders'>"


def test_a_missing_key(store: DataStore) -> None:
    """The error is a KeyError and a TypeError, and names the key and `get`."""
    with pytest.raises(
        StoreKeyError, match=r"The data store has no key 'a'\. To get None for a missing key, use \.get"
    ) as caught:
        store["a"]

    assert isinstance(caught.value, KeyError)
    assert isinstance(caught.value, TypeError)


def test_keys_are_texts(store: DataStore, service: Service) -> None:
    """Another key is refused before the service is called."""
    for act in (lambda: store.get(5), lambda: store.set(5, 1), lambda: 5 in store):  # type: ignore[arg-type]  # wrong on purpose
        with pytest.raises(StoreValueError, match="must be a text, not 5"):
            act()
    assert service.calls == []


def test_values_are_json(store: DataStore, service: Service) -> None:
    """The error names the part of the value that is not JSON."""
    with pytest.raises(StoreValueError, match=r"^orders\['a'\]\.b is a set"):
        store["a"] = {"b": {1}}
    assert service.calls == []

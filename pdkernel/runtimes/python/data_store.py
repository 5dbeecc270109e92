"""
The data store in a Python step (`pd.inputs["data_store"]`), with the methods that the platform documents.

Each method calls a service of pdkernel, which stores the values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from .export_encoding import ExportNotJSONError, encode_json

CallServices = Callable[[str, dict[str, Any]], Any]


class StoreKeyError(KeyError, TypeError):
    """The store has no such key. The class is a TypeError, as the platform documents, and a KeyError, as for a dict."""

    def __str__(self) -> str:
        return f"The data store has no key {self.args[0]!r}. To get None for a missing key, use .get(key)."


class StoreValueError(TypeError):
    """A key or value is not valid in a data store."""

    pdkernel_code = "store_value"


class StoreView:
    """
    The keys or the records of a store, loaded page by page during iteration. Use `list(...)` to export them.

    Args:
        kind: `Keys`, or `Items` for the records as (key, value).
        pages: Begins an iteration.
    """

    def __init__(self, kind: str, pages: Callable[[], Iterator[Any]]) -> None:
        self._kind = kind
        self._pages = pages

    def __iter__(self) -> Iterator[Any]:
        return self._pages()

    def __repr__(self) -> str:
        return f"<{self._kind} of a data store: read them with list(...)>"


class DataStore:
    """
    One data store.

    Reading a key returns a copy. To store a change of the copy, set the key again.
    """

    def __init__(self, name: str, call_services: CallServices) -> None:
        self._name = name
        self._call_services = call_services

    def __getitem__(self, key: str) -> Any:
        record = self._call("get", key=key)
        if record is None:
            raise StoreKeyError(key)
        return record["value"]

    def __setitem__(self, key: str, value: Any) -> None:
        self.set(key, value)

    def __delitem__(self, key: str) -> None:
        self._call("delete", key=key)

    def __contains__(self, key: object) -> bool:
        return bool(self._call("has", key=key))

    def __iter__(self) -> Iterator[str]:
        return self._pages("keys")

    def __len__(self) -> int:
        return int(self._call("count"))

    def __repr__(self) -> str:
        return f"<data store {self._name!r}>"

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of *key*, or *default*."""
        record = self._call("get", key=key)
        return default if record is None else record["value"]

    def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        """
        Store *value* under *key*. It expires after *ttl* seconds, or never if *ttl* is None.

        Raises:
            StoreValueError: *value* is not JSON; the message names the path.
        """
        try:
            encode_json(value, f"{self._name}[{key!r:.60}]")
        except ExportNotJSONError as wrong:
            raise StoreValueError(str(wrong)) from None
        self._call("set", key=key, value=value, ttl=ttl)

    def set_ttl(self, key: str, ttl: float | None = None) -> None:
        """Let the record of *key* expire after *ttl* seconds, or never if *ttl* is None. A missing key is ignored."""
        self._call("set_ttl", key=key, ttl=ttl)

    def keys(self) -> StoreView:
        """Return all keys, in the order in which they were first set."""
        return StoreView("Keys", lambda: self._pages("keys"))

    def items(self) -> StoreView:
        """Return all records as (key, value), in the order in which the keys were first set."""
        return StoreView("Items", lambda: ((key, value) for key, value in self._pages("entries")))

    def clear(self) -> None:
        """Remove every record."""
        self._call("clear")

    def _pages(self, what: str) -> Iterator[Any]:
        after = None
        while True:
            page = self._call(what, after=after)
            yield from page[what]
            after = page["after"]
            if after is None:
                return

    def _call(self, operation: str, **args: Any) -> Any:
        key = args.get("key", "")
        if not isinstance(key, str):
            raise StoreValueError(f"A key of a data store must be a text, not {key!r:.60}. Use str(...).")
        return self._call_services(f"store.{operation}", {"store": self._name, **args})

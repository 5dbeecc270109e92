"""
Data stores for a running step: resolves the stores that the step declares and answers its requests.

A step reaches only the stores that its directive, props or code declare.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from pdkernel.common.blocking import run_blocking
from pdkernel.errors import RequestError, StepError, StoreValueError
from pdkernel.model import JSON, Step
from pdkernel.storage import DEFAULT_DATA_STORE, DataStoreTable, ScratchCopy
from pdkernel.workers import PropDeclaration

_WRITES = frozenset({"set", "clear", "set_ttl", "delete"})
DATA_STORE_PROP_TYPE = "data_store"
"""The type of a prop that is a data store."""


def resolve_data_stores(step: Step, declared: Iterable[PropDeclaration] = ()) -> dict[str, str]:
    """
    Return the names of the data stores that *step* may reach, by prop.

    Args:
        step: The step; stores of its directive take precedence. A prop without a name is the project's default store.
        declared: Props that the step's code declares. The value of a `data_store` prop is a store's name, or
            `{"storeId": "ds_..."}` as in a synced folder.
    """
    stores = {binding.prop: binding.store or DEFAULT_DATA_STORE for binding in step.stores}
    for prop in declared:
        if prop.type == DATA_STORE_PROP_TYPE and prop.name not in stores:
            value = step.props.get(prop.name)
            name = value.get("storeId") if isinstance(value, dict) else value
            stores[prop.name] = name if isinstance(name, str) and name else DEFAULT_DATA_STORE
    return stores


class DataStoreService:
    """
    Answers the `store.*` requests of one step; each operation is one transaction.

    Args:
        table: The project's stores, or a scratch copy.
        declared_names: The stores that the step declares.
        on_write: Called with the name of a store after its first write by the step; or None.
    """

    # parity[store-transactions]: the platform promises no atomicity; in pdkernel each operation is atomic and durable
    def __init__(
        self,
        table: DataStoreTable | ScratchCopy,
        declared_names: Collection[str],
        *,
        on_write: Callable[[str], None] | None = None,
    ) -> None:
        self._table = table
        self._on_write = on_write
        self._written: set[str] = set()
        self._reachable = frozenset(declared_names)

    async def answer(self, operation: str, args: Mapping[str, JSON]) -> JSON:
        """
        Answer *operation*.

        `get` returns `{"value": ...}` or null. `keys` and `entries` return pages `{"keys" | "entries": [...],
        "after": ...}`; a number in `after` is the cursor of the next page. `set_ttl`, `has` and `delete` return whether
        the record exists. `count` and `clear` return a number.

        Raises:
            StoreValueError: The store cannot hold the key, value or time to live.
            StepError: The step does not declare that store.
        """
        store = self._declared(args)
        try:
            answer = await run_blocking(self._answer, operation, store, args)  # blocks on the disk
        except RequestError as wrong:
            raise StoreValueError(wrong.message, name="StoreValueError", fix=wrong.fix) from None
        has_written = operation in _WRITES and answer is not False
        if self._on_write is not None and has_written and store not in self._written:
            self._written.add(store)
            self._on_write(store)
        return answer

    def _answer(self, operation: str, store: str, args: Mapping[str, JSON]) -> JSON:
        table = self._table
        match operation:
            case "set":
                table.set(store, _text(args, "key"), args.get("value"), ttl=_number(args, "ttl"))
                return None
            case "clear":
                return table.clear(store)
            case "count":
                return table.count(store)
            case "keys":
                keys, after = table.read_keys(store, _cursor(args))
                return {"keys": list(keys), "after": after}
            case "entries":
                page = table.read_page(store, _cursor(args))
                return {"entries": [[record.key, record.value] for record in page.records], "after": page.next_cursor}
            case _:
                return self._answer_record(operation, store, _text(args, "key"), args)

    def _answer_record(self, operation: str, store: str, key: str, args: Mapping[str, JSON]) -> JSON:
        table = self._table
        match operation:
            case "get":
                record = table.find(store, key)
                return {"value": record.value} if record else None
            case "has":
                return table.find(store, key) is not None
            case "set_ttl":
                return table.set_ttl(store, key, _number(args, "ttl"))
            case "delete":
                return table.delete(store, key)
            case _:
                raise StepError(f"Data stores do not support the operation {operation}.", name="UnsupportedError")

    def _declared(self, args: Mapping[str, JSON]) -> str:
        store = args.get("store")
        if not isinstance(store, str) or store not in self._reachable:
            raise StepError(
                f"This step does not declare the data store {store!r}.",
                name="StoreNotDeclared",
                fix="Declare it: --data-store PROP=STORE in its %%pdstep line.",
            )
        return store


def _text(args: Mapping[str, JSON], name: str) -> str:
    value = args.get(name)
    if not isinstance(value, str):
        raise RequestError(
            f"A key of a data store must be a text, not {value!r:.60}.", fix="Convert the key to a text."
        )
    return value


def _number(args: Mapping[str, JSON], name: str) -> float | None:
    value = args.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise RequestError(f"A record's time to live must be a number of seconds, not {value!r:.60}.")
    return value


def _cursor(args: Mapping[str, JSON]) -> int | None:
    after = args.get("after")
    return after if isinstance(after, int) else None

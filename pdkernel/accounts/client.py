"""
Requests to a Connect project over the SDK: users, accounts, Connect tokens; and a cache whose entries expire, for `remote`.

Accounts are parsed in every form that SDK releases and the documentation use.
"""

from __future__ import annotations

import inspect
import json
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from pdkernel.accounts.sdk import PAGE_SIZE, JsonObject, Sdk, to_json_object
from pdkernel.common.clock import Clock
from pdkernel.common.identity import ACCESS_TOKEN_FIELD, ENVIRONMENTS, Account, Environment, ExternalUser

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

MAX_ENTRIES = 1000
"""The cache drops its oldest entries above this number."""


class TTLCache(Generic[K, V]):
    """
    Values by key, each valid for *ttl_s* seconds. Safe from any thread.

    Args:
        clock: For the age of entries.
        ttl_s: Seconds until an entry expires.
    """

    def __init__(self, clock: Clock, ttl_s: float) -> None:
        self._clock = clock
        self._ttl_s = ttl_s
        self._lock = threading.Lock()
        self._key_locks: dict[K, threading.Lock] = {}
        self._entries: dict[K, tuple[float, V]] = {}
        self._generation = 0

    def get(self, key: K, load: Callable[[], V]) -> V:
        """Return the valid value for *key*, or the result of *load*. An exception of *load* is raised and not cached."""
        with self._lock:
            key_lock = self._key_locks.setdefault(key, threading.Lock())
        try:
            with key_lock:
                entry = self._find_fresh(key)
                return entry[1] if entry is not None else self._load(key, load)
        finally:
            with self._lock:
                self._key_locks.pop(key, None)

    def clear(self) -> None:
        """Drop all entries, and discard the results of loads in progress."""
        with self._lock:
            self._generation += 1
            self._entries.clear()

    def _find_fresh(self, key: K) -> tuple[float, V] | None:
        with self._lock:
            entry = self._entries.get(key)
        return entry if entry is not None and entry[0] > self._clock.monotonic() else None

    def _load(self, key: K, load: Callable[[], V]) -> V:
        generation = self._generation
        value = load()
        with self._lock:
            if generation == self._generation:  # `clear` was not called meanwhile
                self._entries.pop(key, None)
                self._entries[key] = (self._clock.monotonic() + self._ttl_s, value)
                while len(self._entries) > MAX_ENTRIES:
                    self._entries.pop(next(iter(self._entries)))
        return value


T = TypeVar("T")

_UNKNOWN_TIME = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class ListPage(Generic[T]):
    """A page of a list, with the fields of `SdkPage`."""

    items: Sequence[T]
    total: int | None
    is_last: bool


class ConnectClient:
    """
    Users and accounts of a Connect project. Every method sends a request and raises the errors of `Sdk.call`.

    Args:
        sdk: The SDK client of the project.
    """

    def __init__(self, sdk: Sdk) -> None:
        self._sdk = sdk

    def list_users(self, environment: Environment) -> tuple[ExternalUser, ...]:
        """Return the external users, by id."""
        users = [user for page in self.iter_user_pages(environment) for user in page.items]
        return tuple(sorted(users, key=lambda user: user.external_id))

    def iter_user_pages(self, environment: Environment, text: str = "") -> Iterator[ListPage[ExternalUser]]:
        """Yield the pages of external users. Releases of the SDK that can filter request only users whose id contains *text*."""
        options = self._sdk.build_request_options(environment)

        def request(client: Any, cursor: str | None) -> Any:
            can_filter = "q" in inspect.signature(client.users.list).parameters
            text_filter = {"q": text} if text and can_filter else {}
            return client.users.list(limit=PAGE_SIZE, request_options=options, **text_filter, **_after(cursor))

        for page in self._sdk.iter_pages(request):
            users = [
                ExternalUser(str(item["external_id"]), environment, _parse_time(item.get("created_at")))
                for item in page.items
                if item.get("external_id")
            ]
            yield ListPage(users, page.total, page.is_last)

    def list_accounts(self, external_user_id: str | None, environment: Environment) -> tuple[Account, ...]:
        """Return the accounts of the external user, or of all users if None, newest first."""
        found = [account for page in self.iter_account_pages(external_user_id, environment) for account in page.items]
        return tuple(sorted(found, key=lambda account: account.created_at, reverse=True))

    def iter_account_pages(
        self, external_user_id: str | None, environment: Environment, *, app: str | None = None
    ) -> Iterator[ListPage[Account]]:
        """Yield the pages of the accounts of the external user, or of all users if None; *app* is a filter of releases of the SDK that have it."""
        options = self._sdk.build_request_options(environment)
        filters = {"external_user_id": external_user_id, "app": app}

        def request(client: Any, cursor: str | None) -> Any:
            known = inspect.signature(client.accounts.list).parameters
            given = {name: value for name, value in filters.items() if value is not None and name in known}
            return client.accounts.list(limit=PAGE_SIZE, request_options=options, **given, **_after(cursor))

        pages = self._sdk.iter_pages(request)
        for page in pages:
            accounts = [parse_account(item, environment, external_user_id=external_user_id) for item in page.items]
            yield ListPage(accounts, page.total, page.is_last)

    def list_withheld_ids(self, environment: Environment) -> frozenset[str]:
        """Return the ids of the accounts whose credentials Connect withholds."""
        options = self._sdk.build_request_options(environment)
        items: Iterator[JsonObject] = self._sdk.iter_items(
            lambda client, cursor: client.accounts.list(
                limit=PAGE_SIZE, include_credentials=True, request_options=options, **_after(cursor)
            )
        )
        return frozenset(str(item["id"]) for item in items if has_withheld_credentials(item))

    def find_account(self, account_id: str) -> Account | None:
        """Return the account with that id in either environment, or None."""
        first = self._sdk.login.environment
        for environment in (first, *(other for other in ENVIRONMENTS if other != first)):
            item = self._retrieve(account_id, environment, {})
            if item is not None:
                return parse_account(item, environment)
        return None

    def find_account_with_credentials(self, account_id: str, environment: Environment) -> JsonObject | None:
        """Return the account's JSON object with the credentials that Connect does not withhold, or None if the account does not exist."""
        return self._retrieve(account_id, environment, {"include_credentials": True})

    def create_account(
        self,
        app: str,
        credentials: Mapping[str, str],
        name: str | None,
        external_user_id: str,
        environment: Environment,
        *,
        account_id: str | None = None,
    ) -> JsonObject:
        """Connect an account with *credentials*, or replace the credentials of *account_id*."""
        options = self._sdk.build_request_options(environment)
        token = str(self.create_connect_token(external_user_id, environment)["token"])
        optional = {"name": name, "account_id": account_id}
        given = {field: value for field, value in optional.items() if value}

        def create(client: Any) -> Any:
            return client.accounts.create(
                app_slug=app,
                cfmap_json=json.dumps(dict(credentials)),
                connect_token=token,
                external_user_id=external_user_id,
                request_options=options,
                **given,
            )

        return to_json_object(self._sdk.call(create, secrets=(token, *credentials.values())))

    def create_connect_token(self, external_user_id: str, environment: Environment) -> JsonObject:
        """Return a new Connect token for the external user: `{"token", "connect_link_url", ...}`."""
        options = self._sdk.build_request_options(environment)
        return to_json_object(
            self._sdk.call(
                lambda client: client.tokens.create(external_user_id=external_user_id, request_options=options)
            )
        )

    def delete_account(self, account_id: str, environment: Environment) -> None:
        """Remove an account. A missing account is not an error."""
        options = self._sdk.build_request_options(environment)
        self._sdk.call(lambda client: client.accounts.delete(account_id, request_options=options), default=False)

    def delete_user(self, external_user_id: str, environment: Environment) -> None:
        """Remove an external user with accounts and deployed triggers. A missing user is not an error."""
        options = self._sdk.build_request_options(environment)
        self._sdk.call(
            lambda client: client.users.delete_external_user(external_user_id, request_options=options), default=False
        )

    def _retrieve(self, account_id: str, environment: Environment, query: Mapping[str, bool]) -> JsonObject | None:
        options = self._sdk.build_request_options(environment)
        item = self._sdk.call(
            lambda client: client.accounts.retrieve(account_id, request_options=options, **query), default=False
        )
        return None if item is False else _unwrap_account(item)


def _after(cursor: str | None) -> dict[str, str]:
    return {"after": cursor} if cursor else {}


def _unwrap_account(item: Any) -> JsonObject:
    """Return the account in *item*. In older documentation, the account is in the field `data`."""
    account = to_json_object(item)
    inner = account.get("data")
    return inner if isinstance(inner, dict) else account


def parse_account(
    item: JsonObject,
    environment: Environment,
    *,
    app: str | None = None,
    external_user_id: str | None = None,
    fields: tuple[str, ...] = (),
) -> Account:
    """
    Parse an account.

    Args:
        item: The JSON object of the API.
        environment: The environment of the request.
        app: The app's slug, if it is not in *item*.
        external_user_id: The external user, if their id is not in *item*.
        fields: Names of the account's credentials, if known.
    """
    owner = str(item.get("external_id") or external_user_id or "")
    app_object = item.get("app") or {}
    return Account(
        id=str(item["id"]),
        app=str(app_object.get("name_slug") or app or ""),
        name=str(item.get("name") or owner),
        external_user_id=owner,
        environment=environment,
        created_at=_parse_time(item.get("created_at")),
        healthy=item.get("healthy") is not False and not item.get("dead"),
        credential_fields=fields,
    )


def is_oauth(item: JsonObject) -> bool:
    """Return whether the account's app is connected by OAuth."""
    kind = (item.get("app") or {}).get("auth_type")
    return str(getattr(kind, "value", kind)).lower() == "oauth"


def parse_credentials(item: JsonObject) -> dict[str, str]:
    """Return the credentials in *item*."""
    return {name: _text(value) for name, value in (item.get("credentials") or {}).items() if value is not None}


def has_withheld_credentials(item: JsonObject) -> bool:
    """Return whether Connect withholds the credentials of the account in *item*, the response to a request for credentials."""
    given = parse_credentials(item)
    return ACCESS_TOKEN_FIELD not in given if is_oauth(item) else not given


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _parse_time(value: Any) -> datetime:
    """Parse a time stamp: a `datetime` or an ISO 8601 text. The result is 1970-01-01 if *value* is invalid."""
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    try:
        return datetime.fromisoformat(str(value)).astimezone(UTC)
    except ValueError:
        return _UNKNOWN_TIME

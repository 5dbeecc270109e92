"""
Environments, external users, accounts, and the `Directory` protocol that looks them up; the platform's hosts.

`accounts` implements the protocol for a local and for a real project. No class shows a credential in its repr.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Literal, Protocol, TypedDict, Unpack

from pdkernel.errors import RequestError

Environment = Literal["development", "production"]
ENVIRONMENTS: tuple[Environment, ...] = ("development", "production")
DEFAULT_ENVIRONMENT: Environment = "development"
ALL_USERS = "all"
"""The name that selects every external user of an environment."""
Plan = Literal["free", "business"]

PIPEDREAM_API_URL = "https://api.pipedream.com"
PIPEDREAM_ENDPOINT_DOMAIN = "m.pipedream.net"
"""Endpoints of the platform are `https://{key}.m.pipedream.net`."""

ACCESS_TOKEN_FIELD = "oauth_access_token"  # noqa: S105  # a name, not a token
"""The name of the access token in the credentials of an OAuth account."""

MAX_EXTERNAL_USER_ID_CHARACTERS = 250
"""Maximum number of characters of an external user id (Connect API documentation)."""


def parse_environment(text: str | None) -> Environment:
    """
    Parse an environment's name; None and the empty string mean development.

    Raises:
        RequestError: *text* is neither development nor production.
    """
    if text is None or text == "":
        return DEFAULT_ENVIRONMENT  # parity[environment-default]: the platform does not document a missing header
    for environment in ENVIRONMENTS:
        if text.lower() == environment:
            return environment
    raise RequestError(f"{text!r} is not an environment.", fix="Use development or production.")


def is_storable(text: str) -> bool:
    """Return whether a database can store *text*: it has no NUL characters and no lone surrogates."""
    return "\0" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)


def check_external_user_id(text: str) -> str:
    """
    Return *text* if it is a valid external user id.

    Raises:
        RequestError: *text* is blank, longer than 250 characters, or has characters that a database cannot store.
    """
    if not text.strip():
        raise RequestError(
            "An external user's id cannot be blank.", fix="Use the id that the user has in your product."
        )
    if not is_storable(text):
        raise RequestError("An external user's id cannot contain NUL characters or lone surrogates.")
    if len(text) > MAX_EXTERNAL_USER_ID_CHARACTERS:
        raise RequestError(
            f"An external user's id has at most {MAX_EXTERNAL_USER_ID_CHARACTERS} characters, but this id has {len(text)}."
        )
    return text


@dataclass(frozen=True, slots=True)
class ExternalUser:
    """A user of the author's product in one environment of the project."""

    external_id: str
    environment: Environment
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Account:
    """
    A connected account of an app.

    Attributes:
        id: `apn_...`.
        app: The app's slug.
        name: A display name.
        external_user_id: The external user who owns the account, or None for the author's own account.
        environment: The environment in which the account is valid. The author's own accounts have `development`, but are valid
            in both environments.
        created_at: When the account was connected; a run uses the newest account of an app.
        healthy: False if the credentials are known not to work.
        credential_fields: Names of the credentials, never their values.
        withheld: Whether Connect withholds the credentials, so that requests with the account go through Connect's proxy.
    """

    id: str
    app: str
    name: str
    external_user_id: str | None
    environment: Environment
    created_at: datetime
    healthy: bool = True
    credential_fields: tuple[str, ...] = ()
    withheld: bool = False

    @property
    def owner(self) -> Literal["external_user", "own"]:
        """The kind of owner, as an execution records it."""
        return "own" if self.external_user_id is None else "external_user"


@dataclass(frozen=True, slots=True)
class FoundUser:
    """
    An external user that a search has found.

    Attributes:
        user: The user.
        active_at: When the user last had a run, or connected an account.
        accounts: The user's accounts, newest first; None while they are not known.
    """

    user: ExternalUser
    active_at: datetime
    accounts: tuple[Account, ...] | None = ()

    @property
    def external_id(self) -> str:
        """The user's id."""
        return self.user.external_id


@dataclass(frozen=True, slots=True)
class UserSearchResult:
    """
    The external users that match a text.

    Attributes:
        users: The users, most recently active first.
        more: How many further users match.
        progress: What is still being searched; empty at the end.
    """

    users: tuple[FoundUser, ...]
    more: int = 0
    progress: str = ""


MAX_FOUND_USERS = 20
"""External users that a search shows; a longer text finds the others."""


def fold_text(text: str) -> str:
    """Fold *text* for a search, in which neither case nor the encoding of accents counts."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFC", text.casefold())


class AccountGoneError(LookupError):
    """The account does not exist or was removed; the argument is its id."""


@dataclass(frozen=True, slots=True)
class ProxyAccess:
    """
    Access to Connect's proxy, which sends requests with an account's credentials.

    Attributes:
        url: The proxy, `https://.../v1/connect/proj_.../proxy`.
        account_id: The account whose credentials the proxy uses.
        external_user_id: The owner of the account.
        environment: The owner's environment.
        fetch_token: Returns a token for the proxy. May use the network; raises `PdkernelError`.
    """

    url: str
    account_id: str
    external_user_id: str
    environment: Environment
    fetch_token: Callable[[], str] = field(repr=False)


class Credentials(Mapping[str, str]):
    """
    An account's `$auth`: a mapping whose repr and str never show a value.

    Args:
        values: The available credentials.
        withheld_names: Names of the credentials that Connect withholds.
        proxy: Sends requests with the withheld credentials; None if none are withheld.
    """

    __slots__ = ("_values", "proxy", "withheld_names")

    def __init__(
        self, values: Mapping[str, str], *, withheld_names: Sequence[str] = (), proxy: ProxyAccess | None = None
    ) -> None:
        self._values = dict(values)
        self.withheld_names = tuple(withheld_names)
        self.proxy = proxy

    def __getitem__(self, key: str) -> str:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Credentials({', '.join(self._values)})"


class AccountFilters(TypedDict, total=False):
    """
    Filters of a list of accounts. A missing filter and None match every account.

    Attributes:
        external_user_id: The external user.
        environment: The environment. The author's own accounts match both environments.
        app: The app's slug.
        own: True for the author's own accounts, False for accounts of external users.
    """

    external_user_id: str | None
    environment: Environment | None
    app: str | None
    own: bool | None


class WouldBlockError(Exception):
    """A `nonblocking` directory would have to wait for an answer."""


class Directory(Protocol):
    """Users and accounts of one project. Every list of accounts is newest first."""

    @property
    def project_id(self) -> str:
        """The id of the project, `proj_...`."""
        ...

    @property
    def plan(self) -> Plan:
        """The plan; it decides whether runs for production users are allowed."""
        ...

    def users(self, environment: Environment, *, limit: int | None = None) -> Sequence[ExternalUser]:
        """Return the external users of *environment* sorted by id, at most *limit*."""
        ...

    def search_users(
        self,
        environment: Environment,
        text: str,
        *,
        limit: int = MAX_FOUND_USERS,
        last_runs: Mapping[str, float] = MappingProxyType({}),
        report: Callable[[UserSearchResult], None] | None = None,
    ) -> UserSearchResult:
        """
        Search the external users of *environment* whose id, or the name of one of whose accounts, contains *text*.

        Args:
            environment: The users' environment.
            text: The text, in which case does not count; empty for every user.
            limit: The most users to return.
            last_runs: When users last had a run, in seconds since 1970, for the order.
            report: Receives results that are not complete yet.
        """
        ...

    def find_user(self, external_user_id: str, environment: Environment) -> ExternalUser | None:
        """Return the external user with that id in *environment*, or None."""
        ...

    def delete_user(self, external_user_id: str, environment: Environment) -> bool:
        """Delete the user and their accounts. Return False if there was no such user."""
        ...

    def accounts(self, **filters: Unpack[AccountFilters]) -> Sequence[Account]:
        """Return the accounts that match all filters."""
        ...

    def account_ids(self, **filters: Unpack[AccountFilters]) -> Sequence[str]:
        """Return the ids of `accounts` in the same order; faster than `accounts` for many accounts."""
        ...

    def connected_apps(self) -> Collection[str]:
        """Return the slugs of the apps that have accounts."""
        ...

    def app_users(self, app: str, environment: Environment) -> Collection[str]:
        """Return the ids of the external users with an account of *app*; no account is kept in memory."""
        ...

    def newest_account(self, external_user_id: str, environment: Environment, app: str) -> Account | None:
        """Return the account that a run for the user uses (platform rule: most recently created), or None."""
        ...

    def newest_accounts(
        self, external_user_ids: Collection[str], environment: Environment, apps: Collection[str], *, limit: int
    ) -> Sequence[Account]:
        """Return the *limit* most recently created accounts of each user and app, newest first."""
        ...

    def find_account(self, account_id: str) -> Account | None:
        """Return the account with the id *account_id*, or None."""
        ...

    def credentials(self, account_id: str) -> Credentials:
        """Return the account's `$auth`. Raises `AccountGoneError` for an unknown id."""
        ...

    def nonblocking(self) -> AbstractContextManager[Directory | None]:
        """
        Return a directory that never blocks, for use from one thread; None if it would have no answer without blocking.

        Its methods raise `WouldBlockError` if an answer would block.
        """
        ...

    def add_account(
        self,
        *,
        app: str,
        credentials: Mapping[str, str],
        external_user_id: str | None,
        environment: Environment = DEFAULT_ENVIRONMENT,
        account_id: str | None = None,
        name: str | None = None,
    ) -> Account:
        """
        Connect an account. An external user is created with their first account.

        Raises:
            AccountExistsError: *account_id* is taken.
        """
        ...

    def reconnect_account(self, account_id: str, credentials: Mapping[str, str]) -> Account:
        """
        Replace an account's credentials; its id and creation time do not change.

        Raises:
            RequestError: The account does not exist, or the credentials are invalid.
        """
        ...

    def remove_account(self, account_id: str) -> bool:
        """Remove the account. Return False if there was no such account."""
        ...

    def report_unauthorized(self, account_id: str, since: datetime) -> bool:
        """Report that the app responded with 401 to the credentials that were valid at *since*. Return whether they can be renewed."""
        ...

    def credential_fields(self, app: str) -> Sequence[str]:
        """Return the names of the credentials that an account of *app* probably needs, most likely first."""
        ...

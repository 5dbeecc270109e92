"""
Who a workflow runs for: environments, external users, accounts, and where they are looked up.

Knows the words and the `Directory` protocol. The local project implements it in `connect.local`;
a real project in `connect.remote`, over the official SDK. Nothing here holds a credential in its repr.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

from pdkernel.errors import RequestError

Environment = Literal["development", "production"]
ENVIRONMENTS: tuple[Environment, ...] = ("development", "production")
DEFAULT_ENVIRONMENT: Environment = "development"
Plan = Literal["free", "business"]

MAX_EXTERNAL_USER_ID_CHARACTERS = 250
"""Characters in an external user id (Connect API documentation)."""


def parse_environment(text: str | None) -> Environment:
    """
    Read an environment's name; a missing one is development.

    Raises:
        RequestError: Neither development nor production.
    """
    if text is None or text == "":
        return DEFAULT_ENVIRONMENT  # parity[environment-default]: what a missing header means there is not documented
    for environment in ENVIRONMENTS:
        if text.lower() == environment:
            return environment
    raise RequestError(f"{text!r} is not an environment.", fix="Use development or production.")


def check_external_user_id(text: str) -> str:
    """
    Return *text* if it can name an external user.

    Raises:
        RequestError: Blank, longer than 250 characters, or with characters that no database keeps.
    """
    if not text.strip():
        raise RequestError("An external user's id cannot be blank.", fix="Use the id that your own product gives them.")
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise RequestError("An external user's id cannot hold NUL characters or halves of surrogate pairs.")
    if len(text) > MAX_EXTERNAL_USER_ID_CHARACTERS:
        raise RequestError(
            f"An external user's id has at most {MAX_EXTERNAL_USER_ID_CHARACTERS} characters, this one {len(text)}."
        )
    return text


@dataclass(frozen=True, slots=True)
class ExternalUser:
    """One of your product's users, as the project knows them in one environment."""

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
        name: For people.
        external_user_id: Whose account it is, or None for one of your own.
        environment: Where it is valid; own accounts are valid in both and carry `development`.
        created_at: When it was connected; the newest of an app is the one used.
        healthy: False when its credentials are known not to work.
        credential_fields: Names of its credentials, never their values.
        withheld: True when its credentials are not given out: outside requests with it go through Connect's proxy.
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
        """Whose it is, as an execution writes it."""
        return "own" if self.external_user_id is None else "external_user"


class AccountGoneError(LookupError):
    """There is no such account, or not any more; the argument is its id."""


class Credentials(Mapping[str, str]):
    """An account's `$auth`: a mapping whose repr and str never show a value."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = dict(values)

    def __getitem__(self, key: str) -> str:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Credentials({', '.join(self._values)})"


@dataclass(frozen=True, slots=True)
class ProxyAccess:
    """
    A way to send requests with an account's credentials without having them: Connect's proxy.

    Attributes:
        url: Of the proxy, `https://.../v1/connect/proj_.../proxy`.
        account_id: Whose credentials.
        external_user_id: Who that account belongs to.
        environment: Where it is valid.
        fetch_token: A token for the proxy. May ask the network; raises `PdkernelError`.
    """

    url: str
    account_id: str
    external_user_id: str
    environment: Environment
    fetch_token: Callable[[], str] = field(repr=False)


class WithheldCredentials(Credentials):
    """
    The `$auth` of an account whose credentials Connect keeps to itself: only what it gives out.

    Attributes:
        withheld_names: Of the credentials that are kept back.
        proxy: How requests are sent with them all the same.
    """

    __slots__ = ("proxy", "withheld_names")

    def __init__(self, available: Mapping[str, str], *, withheld_names: Sequence[str], proxy: ProxyAccess) -> None:
        super().__init__(available)
        self.withheld_names = tuple(withheld_names)
        self.proxy = proxy


class WouldBlockError(Exception):
    """A directory that was asked for what is `at_hand` would have to wait for somebody."""


class Directory(Protocol):
    """Users and accounts of one project. Every list of accounts is newest first."""

    @property
    def project_id(self) -> str:
        """`proj_...`."""
        ...

    @property
    def plan(self) -> Plan:
        """The plan that the production gate looks at."""
        ...

    def users(self, environment: Environment, *, limit: int | None = None) -> Sequence[ExternalUser]:
        """External users of *environment*, by id: all of them, or *limit*."""
        ...

    def find_user(self, external_user_id: str, environment: Environment) -> ExternalUser | None:
        """That external user, or None."""
        ...

    def delete_user(self, external_user_id: str, environment: Environment) -> bool:
        """Delete the user and their accounts; False if there was no such user."""
        ...

    def accounts(
        self,
        *,
        external_user_id: str | None = None,
        environment: Environment | None = None,
        app: str | None = None,
        own: bool | None = None,
    ) -> Sequence[Account]:
        """Accounts that match everything that is given; *own* picks your own or the external users'."""
        ...

    def account_ids(
        self,
        *,
        external_user_id: str | None = None,
        environment: Environment | None = None,
        app: str | None = None,
        own: bool | None = None,
    ) -> Sequence[str]:
        """The ids of what `accounts` gives, in its order: where there are many, the quicker question."""
        ...

    def connected_apps(self) -> Collection[str]:
        """Slugs of the apps that there are accounts of."""
        ...

    def newest_account(self, external_user_id: str, environment: Environment, app: str) -> Account | None:
        """The account that a run for that user uses (platform rule: most recently created), or None."""
        ...

    def newest_accounts(
        self, external_user_ids: Collection[str], environment: Environment, apps: Collection[str], *, limit: int
    ) -> Sequence[Account]:
        """
        What `newest_account` chooses from, for several users and apps at once.

        The *limit* most recently created accounts of each user and app, newest first.
        """
        ...

    def find_account(self, account_id: str) -> Account | None:
        """The account of that id, or None."""
        ...

    def credentials(self, account_id: str) -> Credentials:
        """The account's `$auth`. Raises `AccountGoneError` for an unknown id."""
        ...

    def nonblocking(self) -> AbstractContextManager[Directory | None]:
        """
        The same for a caller who cannot wait and asks from one thread, or None if every answer has to be waited for.

        It raises `NotAtHandError` where an answer takes more than a moment.
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
        Connect an account; the user exists from their first account on.

        Raises:
            AccountExistsError: *account_id* is taken.
        """
        ...

    def reconnect_account(self, account_id: str, credentials: Mapping[str, str]) -> Account:
        """
        Give an account these credentials in the place of those that it has; its id and its age stay.

        Raises:
            RequestError: There is no such account, or the credentials cannot be used.
        """
        ...

    def remove_account(self, account_id: str) -> bool:
        """Remove it; False if there was none."""
        ...

    def report_unauthorized(self, account_id: str, since: datetime) -> bool:
        """The app answered 401 to what the account had at *since*; whether `credentials` can give others from now on."""
        ...

    def credential_fields(self, app: str) -> Sequence[str]:
        """Credential names to ask for when an account of *app* is connected, best guess first."""
        ...

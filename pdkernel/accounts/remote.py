"""
The directory of a Connect project at Pipedream: its users, accounts and credentials, and the search for its users.

Responses are cached for a few seconds. Accounts of your own stay in the local project, because Connect has accounts of external
users only. Requests are in `client`.

The API filters users by a part of their id, so a search is one request. It has no filter for the names of accounts and no order by
activity, so names are read page by page, only while no id matches, and recent runs of the local project decide the order.
"""

from __future__ import annotations

import heapq
import math
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Unpack

from pdkernel.accounts.apps import (
    ComponentFields,
    check_app_slug,
    guess_credential_fields,
    load_registered_apps,
)
from pdkernel.accounts.client import (
    ConnectClient,
    ListPage,
    TTLCache,
    has_withheld_credentials,
    is_oauth,
    parse_account,
    parse_credentials,
)
from pdkernel.accounts.local import LocalDirectory
from pdkernel.accounts.sdk import Sdk
from pdkernel.common.clock import Clock
from pdkernel.common.identity import (
    ACCESS_TOKEN_FIELD,
    DEFAULT_ENVIRONMENT,
    ENVIRONMENTS,
    MAX_FOUND_USERS,
    Account,
    AccountFilters,
    AccountGoneError,
    Credentials,
    Environment,
    ExternalUser,
    FoundUser,
    Plan,
    ProxyAccess,
    UserSearchResult,
    check_external_user_id,
    fold_text,
)
from pdkernel.errors import ConnectSettingsError, PdkernelError, RequestError
from pdkernel.storage import Project

SEARCH_TTL_S = 60.0
"""Seconds for which found users and their accounts are cached."""
LISTING_TTL_S = 300.0
"""Seconds for which pages of accounts are cached, from the first page on."""
MAX_SINGLE_USERS = 25
"""External users whose accounts are requested one by one; for more of them, all accounts are listed."""
_PARALLEL_REQUESTS = 4

Report = Callable[[UserSearchResult], None]


@dataclass(frozen=True)
class _IdMatches:
    """Users whose id contains a text, and how many others match; None if that is not known."""

    users: Mapping[str, ExternalUser]
    others: int | None

    @property
    def is_complete(self) -> bool:
        return self.others == 0


@dataclass
class _AccountListing:
    """The accounts of an environment, as far as their pages were requested."""

    pages: Iterator[ListPage[Account]]
    expires: float
    accounts: list[Account] = field(default_factory=list)
    total: int | None = None
    is_complete: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def load_page(self) -> None:
        """Request the next page, unless the listing is complete."""
        with self.lock:
            if not self.is_complete:
                try:
                    page = next(self.pages)
                except PdkernelError:
                    self.expires = -math.inf  # the next search begins anew
                    raise
                self.accounts += page.items
                self.total, self.is_complete = page.total, page.is_last

    def describe_progress(self) -> str:
        """Return how far the accounts are read."""
        of_total = "" if self.total is None else f" of {self.total:,}"
        return f"Reading the names of accounts: {len(self.accounts):,}{of_total} ..."


class UserSearch:
    """
    Searches for external users, with caches. Safe from any thread; every method raises the errors of `Sdk.call`.

    Args:
        client: Requests to the project.
        clock: For the age of cached values.
    """

    def __init__(self, client: ConnectClient, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._lock = threading.Lock()
        self._matches: dict[tuple[Environment, str], tuple[float, _IdMatches]] = {}
        self._listings: dict[Environment, _AccountListing] = {}
        self._accounts: TTLCache[tuple[str, Environment], tuple[Account, ...]] = TTLCache(clock, SEARCH_TTL_S)

    def clear(self) -> None:
        """Drop everything that is cached."""
        with self._lock:
            self._matches.clear()
            self._listings.clear()
        self._accounts.clear()

    def search(
        self, environment: Environment, text: str, *, limit: int, last_runs: Mapping[str, float], report: Report | None
    ) -> UserSearchResult:
        """Search for users; arguments and result are those of `Directory.search_users`."""
        folded = fold_text(text.strip())
        matches = self._find_by_id(environment, folded, limit)
        users, others = dict(matches.users), matches.others or 0
        if not matches.is_complete:  # the API's order is not that of activity, so active users may be on a later page
            active = (user for user in last_runs if folded in fold_text(user) and user not in users)
            unknown = heapq.nlargest(limit, active, key=lambda user: last_runs[user])
        else:
            unknown = []
        times = {user: max(each.created_at.timestamp(), last_runs.get(user, 0.0)) for user, each in users.items()}
        times |= {user: last_runs[user] for user in unknown}
        if report is not None and users:
            report(_build_result(users, times, limit, others))
        listing = self._open_listing(environment)
        if folded:
            self._add_by_name(environment, folded, users, times, limit, listing, report)
        shown = _choose_newest(times, limit)
        accounts = self._load_accounts(environment, shown, listing)
        for user in unknown:  # without an account, and on no page: such a user may have been removed
            if accounts.get(user):
                created = min(account.created_at for account in accounts[user])
                users[user] = ExternalUser(user, environment, created)
                others = max(others - 1, 0)
            else:
                times.pop(user)
        for user, of_user in accounts.items():
            if of_user and user in times:
                times[user] = max(times[user], of_user[0].created_at.timestamp())
        return _build_result(users, times, limit, others, accounts)

    def _find_by_id(self, environment: Environment, folded: str, limit: int) -> _IdMatches:
        """Return the users whose id contains the text: cached, or from one request if the API filters."""
        now = self._clock.monotonic()
        with self._lock:
            self._matches = {key: entry for key, entry in self._matches.items() if entry[0] > now}
            for (where, text), (_, known) in self._matches.items():
                has_all = known.is_complete and text in folded
                if where == environment and (has_all or (text == folded and len(known.users) >= limit)):
                    found = {user: each for user, each in known.users.items() if folded in fold_text(user)}
                    return _IdMatches(found, known.others)
        found, seen, total, is_last = {}, 0, None, True
        for page in self._client.iter_user_pages(environment, folded):
            seen, total, is_last = seen + len(page.items), page.total, page.is_last
            found |= {user.external_id: user for user in page.items if folded in fold_text(user.external_id)}
            if len(found) >= limit:
                break
        is_filtered = total is not None and len(found) == seen
        matches = _IdMatches(found, 0 if is_last else max((total or 0) - seen, 1) if is_filtered else None)
        with self._lock:
            self._matches[environment, folded] = (now + SEARCH_TTL_S, matches)
        return matches

    def _open_listing(self, environment: Environment) -> _AccountListing:
        """Return the listing of the accounts, with its first page."""
        now = self._clock.monotonic()
        with self._lock:
            listing = self._listings.get(environment)
            if listing is None or listing.expires <= now:
                pages = self._client.iter_account_pages(None, environment)
                listing = self._listings[environment] = _AccountListing(pages, now + LISTING_TTL_S)
        if listing.total is None and not listing.accounts:
            listing.load_page()
        return listing

    def _add_by_name(
        self,
        environment: Environment,
        folded: str,
        users: dict[str, ExternalUser],
        times: dict[str, float],
        limit: int,
        listing: _AccountListing,
        report: Report | None,
    ) -> None:
        """Add users by the names of their accounts; further pages are requested only while there are no matches."""
        is_by_id, read = bool(users), 0
        while True:
            for account in listing.accounts[read:]:
                user = account.external_user_id
                if user and user not in users and folded in fold_text(account.name):
                    users[user] = ExternalUser(user, environment, account.created_at)
                    times[user] = max(account.created_at.timestamp(), times.get(user, 0.0))
            read = len(listing.accounts)
            if listing.is_complete or is_by_id or len(users) >= limit:
                return
            if report is not None:
                report(_build_result(users, times, limit, 0, progress=listing.describe_progress()))
            listing.load_page()

    def _load_accounts(
        self, environment: Environment, users: Sequence[str], listing: _AccountListing
    ) -> Mapping[str, tuple[Account, ...]]:
        """Return the accounts of these users, newest first."""
        if len(users) > MAX_SINGLE_USERS:
            while not listing.is_complete:
                listing.load_page()
        if listing.is_complete:
            found: dict[str, list[Account]] = {user: [] for user in users}
            for account in sorted(listing.accounts, key=lambda account: account.created_at, reverse=True):
                if account.external_user_id in found:
                    found[account.external_user_id].append(account)
            return {user: tuple(of_user) for user, of_user in found.items()}

        def load(user: str) -> tuple[Account, ...]:
            key = (user, environment)
            return self._accounts.get(key, lambda: self._client.list_accounts(user, environment))

        with ThreadPoolExecutor(_PARALLEL_REQUESTS, thread_name_prefix="pdkernel-user-search") as threads:
            return dict(zip(users, threads.map(load, users), strict=True))


def _choose_newest(times: Mapping[str, float], limit: int) -> Sequence[str]:
    return heapq.nsmallest(limit, times, key=lambda user: (-times[user], user))


def _build_result(
    users: Mapping[str, ExternalUser],
    times: Mapping[str, float],
    limit: int,
    others: int,
    accounts: Mapping[str, tuple[Account, ...]] | None = None,
    *,
    progress: str = "",
) -> UserSearchResult:
    known = {user: time for user, time in times.items() if user in users}
    shown = _choose_newest(known, limit)
    found = (
        FoundUser(
            users[user],
            datetime.fromtimestamp(known[user], UTC),
            None if accounts is None else accounts.get(user, ()),
        )
        for user in shown
    )
    return UserSearchResult(tuple(found), len(known) - len(shown) + others, progress)


CACHE_TTL_S = 5.0
"""Seconds for which a response is cached. A run needs the same accounts several times, and changes must appear soon."""


class RemoteDirectory:
    """
    Users and accounts of a Connect project; implements `identity.Directory`. Safe from any thread.

    Every method raises the errors of `Sdk.call`.

    Args:
        project: The local project, for accounts of your own, the plan and the clock.
        sdk: SDK client of the Connect project.
    """

    def __init__(self, project: Project, sdk: Sdk) -> None:
        self._project = project
        self._sdk = sdk
        self._client = ConnectClient(sdk)
        self._local = LocalDirectory(project)
        self._component_fields = ComponentFields(project)
        clock: Clock = project.clock
        self._users: TTLCache[Environment, tuple[ExternalUser, ...]] = TTLCache(clock, CACHE_TTL_S)
        self._accounts: TTLCache[tuple[str | None, Environment], tuple[Account, ...]] = TTLCache(clock, CACHE_TTL_S)
        self._account_cache: TTLCache[str, Account | None] = TTLCache(clock, CACHE_TTL_S)
        self._withheld_cache: TTLCache[Environment, frozenset[str]] = TTLCache(clock, CACHE_TTL_S)
        self._credentials: TTLCache[str, Credentials] = TTLCache(clock, CACHE_TTL_S)
        self._search = UserSearch(self._client, clock)

    def __repr__(self) -> str:
        return f"RemoteDirectory({self.project_id})"

    @property
    def project_id(self) -> str:
        """Pipedream's id of the project, `proj_...`."""
        return self._sdk.login.project_id

    @property
    def plan(self) -> Plan:
        """The plan set in the local project. Pipedream enforces the real plan itself."""
        return self._local.plan

    def users(self, environment: Environment, *, limit: int | None = None) -> Sequence[ExternalUser]:
        """Return the external users of *environment*, sorted by id, at most *limit*."""
        return self._users.get(environment, lambda: self._client.list_users(environment))[:limit]

    def search_users(
        self,
        environment: Environment,
        text: str,
        *,
        limit: int = MAX_FOUND_USERS,
        last_runs: Mapping[str, float] = MappingProxyType({}),
        report: Callable[[UserSearchResult], None] | None = None,
    ) -> UserSearchResult:
        """Search the users whose id, or the name of one of whose accounts, contains *text*; see `user_search`."""
        return self._search.search(environment, text, limit=limit, last_runs=last_runs, report=report)

    def find_user(self, external_user_id: str, environment: Environment) -> ExternalUser | None:
        """Return the external user with that id, or None. Searches the user's accounts first, then the list of users."""
        user_accounts = self._list_accounts(external_user_id, environment)
        if user_accounts:
            return ExternalUser(external_user_id, environment, min(account.created_at for account in user_accounts))
        return next((user for user in self.users(environment) if user.external_id == external_user_id), None)

    def delete_user(self, external_user_id: str, environment: Environment) -> bool:
        """Delete the user, their accounts and their deployed triggers, here and at Pipedream; False if the user does not exist there."""
        if self.find_user(external_user_id, environment) is None:
            return False
        self._client.delete_user(external_user_id, environment)
        self._local.delete_user(external_user_id, environment)
        self._clear_caches()
        return True

    def accounts(self, **filters: Unpack[AccountFilters]) -> Sequence[Account]:
        """Return the accounts that match all filters, newest first. Accounts of your own come from the local project."""
        external_user_id, environment = filters.get("external_user_id"), filters.get("environment")
        app, own = filters.get("app"), filters.get("own")
        found: list[Account] = []
        if own is not False and external_user_id is None:
            found += self._local.accounts(environment=environment, app=app, own=True)
        if own is not True:
            for each in (environment,) if environment else ENVIRONMENTS:
                found += self._list_accounts(external_user_id, each)
        matching = [account for account in found if app is None or account.app == app]
        return sorted(matching, key=lambda account: account.created_at, reverse=True)

    def account_ids(self, **filters: Unpack[AccountFilters]) -> Sequence[str]:
        """Return the ids of the accounts that `accounts` returns, in the same order."""
        return [account.id for account in self.accounts(**filters)]

    def connected_apps(self) -> Collection[str]:
        """Return the slugs of the apps that have an account."""
        return {account.app for account in self.accounts()}

    def app_users(self, app: str, environment: Environment) -> Collection[str]:
        """Return the ids of the external users with an account of *app*, as Pipedream has them now; read page by page."""
        return frozenset(
            account.external_user_id
            for page in self._client.iter_account_pages(None, environment, app=app)
            for account in page.items
            if account.app == app and account.external_user_id is not None
        )

    def newest_account(self, external_user_id: str, environment: Environment, app: str) -> Account | None:
        """Return the user's most recently created account of *app*, which a run uses; or None."""
        return next((each for each in self._list_accounts(external_user_id, environment) if each.app == app), None)

    def newest_accounts(
        self, external_user_ids: Collection[str], environment: Environment, apps: Collection[str], *, limit: int
    ) -> Sequence[Account]:
        """Return the *limit* most recently created accounts of each user and app, newest first, from one listing."""
        only_user = next(iter(external_user_ids)) if len(external_user_ids) == 1 else None
        wanted = frozenset(external_user_ids)
        counted: Counter[tuple[str | None, str]] = Counter()
        found = []
        for account in self._list_accounts(only_user, environment):
            key = (account.external_user_id, account.app)
            if account.external_user_id in wanted and account.app in apps and counted[key] < limit:
                counted[key] += 1
                found.append(account)
        withheld = self._withheld(found, only_user, environment)
        return [replace(account, withheld=account.id in withheld) for account in found]

    def find_account(self, account_id: str) -> Account | None:
        """Return the account with that id, or None."""
        own = self._local.find_account(account_id)
        if own is not None and own.external_user_id is None:
            return own
        return self._account_cache.get(account_id, lambda: self._client.find_account(account_id))

    def credentials(self, account_id: str) -> Credentials:
        """
        Return the account's `$auth`; it has a proxy if Connect withholds part of it.

        Raises:
            AccountGoneError: The account does not exist.
        """
        account = self.find_account(account_id)
        if account is None:
            raise self._build_gone_error(account_id)
        if account.external_user_id is None:
            return self._local.credentials(account_id)
        return self._credentials.get(account_id, lambda: self._fetch_credentials(account))

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
        Connect an account: at Pipedream for an external user, in the local project for an account of your own.

        Raises:
            RequestError: Pipedream rejects the account; always the case for apps with OAuth.
        """
        if external_user_id is None:
            return self._local.add_account(
                app=app, credentials=credentials, external_user_id=None, account_id=account_id, name=name
            )
        if account_id is not None:
            raise RequestError("Pipedream creates the ids of its accounts itself.", fix="Omit the id.")
        check_app_slug(app)
        check_external_user_id(external_user_id)
        try:
            created = self._client.create_account(app, credentials, name, external_user_id, environment)
        except (RequestError, ConnectSettingsError) as refused:
            raise RequestError(
                f"The {app} account was not connected at Pipedream: {refused.message}",
                fix="If the app uses OAuth, the user connects the account in the browser, through Connect Link.",
            ) from None
        self._clear_caches()
        return parse_account(
            created, environment, app=app, external_user_id=external_user_id, fields=tuple(credentials)
        )

    def reconnect_account(self, account_id: str, credentials: Mapping[str, str]) -> Account:
        """
        Replace the credentials of an account; id and creation time stay.

        Raises:
            RequestError: The account does not exist, or Pipedream rejects the credentials; always the case for apps with OAuth.
        """
        account = self.find_account(account_id)
        if account is None:
            raise RequestError(f"There is no account {account_id[:80]!r}.")
        user = account.external_user_id
        if user is None:
            return self._local.reconnect_account(account_id, credentials)
        try:
            self._client.create_account(
                account.app, credentials, None, user, account.environment, account_id=account_id
            )
        except (RequestError, ConnectSettingsError) as refused:
            raise RequestError(
                f"The {account.app} account was not reconnected at Pipedream: {refused.message}",
                fix="If the app uses OAuth, the user connects the account in the browser, through Connect Link.",
            ) from None
        self._clear_caches()
        return replace(account, credential_fields=tuple(credentials), healthy=True)

    def connect_link(self, external_user_id: str, environment: Environment) -> str:
        """Return a new Connect Link at Pipedream for one account of that user; append `&app=SLUG` for the app."""
        check_external_user_id(external_user_id)
        return str(self._client.create_connect_token(external_user_id, environment)["connect_link_url"])

    def fetch_account_ids(self, app: str, external_user_id: str, environment: Environment) -> set[str]:
        """Return the ids of the external user's accounts of *app* as Pipedream has them now; the cache is neither read nor dropped."""
        found = self._client.list_accounts(external_user_id, environment)
        return {account.id for account in found if account.app == app}

    def clear_cache(self) -> None:
        """Drop all cached responses."""
        self._clear_caches()

    def nonblocking(self) -> AbstractContextManager[None]:
        """Return a context with None: every uncached call sends a request."""
        return nullcontext()

    def report_unauthorized(self, account_id: str, issued_at: datetime) -> bool:
        """Report that the app answered 401. Only tokens of your own accounts are refreshed; Pipedream refreshes the others."""
        return self._local.report_unauthorized(account_id, issued_at)

    def remove_account(self, account_id: str) -> bool:
        """Remove the account at Pipedream, or your own account in the local project; False if the account does not exist."""
        account = self.find_account(account_id)
        if account is None:
            return False
        if account.external_user_id is None:
            return self._local.remove_account(account_id)
        self._client.delete_account(account_id, account.environment)
        self._clear_caches()
        return True

    def credential_fields(self, app: str) -> Sequence[str]:
        """Return the names of credentials for a form: registered names of *app*, else those that its components read, else the usual names."""
        return (
            load_registered_apps(self._project).get(app)
            or self._component_fields.find(app)
            or guess_credential_fields(app)
        )

    def _list_accounts(self, external_user_id: str | None, environment: Environment) -> tuple[Account, ...]:
        """Return the accounts of the external user, or of all users if None, newest first."""
        return self._accounts.get(
            (external_user_id, environment), lambda: self._client.list_accounts(external_user_id, environment)
        )

    def _withheld(
        self, accounts: Sequence[Account], only_user: str | None, environment: Environment
    ) -> Collection[str]:
        """Return the ids of those *accounts* whose credentials Connect withholds."""
        if only_user is None:  # accounts of several users: one listing
            return self._withheld_cache.get(environment, lambda: self._client.list_withheld_ids(environment))
        newest = {account.app: account.id for account in reversed(accounts)}  # a run needs only these
        return [each for each in newest.values() if self._is_withheld(each)]

    def _is_withheld(self, account_id: str) -> bool:
        try:
            return self.credentials(account_id).proxy is not None
        except AccountGoneError:
            return False  # removed since the listing; a request for its credentials raises

    def _fetch_credentials(self, account: Account) -> Credentials:
        item = self._client.find_account_with_credentials(account.id, account.environment)
        if item is None:
            raise self._build_gone_error(account.id)
        given = parse_credentials(item)
        if not has_withheld_credentials(item):
            return Credentials(given)
        names = [
            name
            for name in ((ACCESS_TOKEN_FIELD,) if is_oauth(item) else self.credential_fields(account.app))
            if name not in given
        ]
        return Credentials(given, withheld_names=names, proxy=self._proxy(account))

    def _build_gone_error(self, account_id: str) -> AccountGoneError:
        self._clear_caches()  # cached lists that still contain the account
        return AccountGoneError(account_id)

    def _proxy(self, account: Account) -> ProxyAccess:
        login = self._sdk.login
        return ProxyAccess(
            url=f"{login.base_url}/v1/connect/{login.project_id}/proxy",
            account_id=account.id,
            external_user_id=str(account.external_user_id),
            environment=account.environment,
            fetch_token=self._sdk.fetch_access_token,
        )

    def _clear_caches(self) -> None:
        for cache in (self._users, self._accounts, self._account_cache, self._withheld_cache, self._credentials):
            cache.clear()
        self._search.clear()

"""
The search for external users of a Connect project.

The API filters users by a part of their id, so a search is one request. It has no filter for the names of accounts, and no
order by activity: names are read page by page, only while no id matches, and recent runs of the local project decide the order.
"""

from __future__ import annotations

import heapq
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pdkernel.accounts.cache import TTLCache
from pdkernel.accounts.client import ConnectClient, ListPage
from pdkernel.common.clock import Clock
from pdkernel.common.identity import Account, Environment, ExternalUser, FoundUser, UserSearchResult, fold_text
from pdkernel.errors import PdkernelError

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
        """How far the accounts are read."""
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
        """The users whose id contains the text: cached, or from one request if the API filters."""
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
        """The listing of the accounts, with its first page."""
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
        """The accounts of these users, newest first."""
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

"""
The directory of a Connect project at Pipedream: its users, accounts and credentials.

Knows how a real project answers the questions of `identity.Directory`, and for how long an answer is good. Accounts of your
own stay in the local project: Connect has external users' only. How Connect is asked is for `asking` to know.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import datetime

from pdkernel.clock import Clock
from pdkernel.connect.account_parsing import (
    ACCESS_TOKEN_FIELD,
    has_withheld_credentials,
    is_oauth,
    parse_account,
    parse_credentials,
)
from pdkernel.connect.cache import TTLCache
from pdkernel.connect.client import ConnectClient
from pdkernel.connect.credential_fields import guess_credential_fields
from pdkernel.connect.local import LocalDirectory
from pdkernel.connect.registered_apps import check_app_slug, load_registered_apps
from pdkernel.connect.sdk import Sdk
from pdkernel.errors import ConnectSettingsError, RequestError
from pdkernel.identity import (
    DEFAULT_ENVIRONMENT,
    ENVIRONMENTS,
    Account,
    AccountGoneError,
    Credentials,
    Environment,
    ExternalUser,
    Plan,
    ProxyAccess,
    WithheldCredentials,
    check_external_user_id,
)
from pdkernel.project import Project

CACHE_TTL_S = 5.0
"""Seconds for which an answer is good: a run asks for the same several times, and a person waits no longer for news."""


class RemoteDirectory:
    """
    Users and accounts of a Connect project; implements `identity.Directory`. Safe from any thread.

    Every call may raise what `Sdk.call` raises.

    Args:
        project: The local project: accounts of your own, the plan, its clock.
        sdk: The Connect project.
    """

    def __init__(self, project: Project, sdk: Sdk) -> None:
        self._project = project
        self._sdk = sdk
        self._client = ConnectClient(sdk)
        self._local = LocalDirectory(project)
        clock: Clock = project.clock
        self._users: TTLCache[Environment, tuple[ExternalUser, ...]] = TTLCache(clock, CACHE_TTL_S)
        self._accounts: TTLCache[tuple[str | None, Environment], tuple[Account, ...]] = TTLCache(clock, CACHE_TTL_S)
        self._account_cache: TTLCache[str, Account | None] = TTLCache(clock, CACHE_TTL_S)
        self._withheld_cache: TTLCache[Environment, frozenset[str]] = TTLCache(clock, CACHE_TTL_S)
        self._credentials: TTLCache[str, Credentials] = TTLCache(clock, CACHE_TTL_S)

    def __repr__(self) -> str:
        return f"RemoteDirectory({self.project_id})"

    @property
    def project_id(self) -> str:
        """`proj_...`, Pipedream's."""
        return self._sdk.login.project_id

    @property
    def plan(self) -> Plan:
        """The plan that the local project rehearses: what the real one allows, Pipedream says itself."""
        return self._local.plan

    def users(self, environment: Environment, *, limit: int | None = None) -> Sequence[ExternalUser]:
        """External users of *environment*, by id: all of them, or *limit*."""
        return self._users.get(environment, lambda: self._client.list_users(environment))[:limit]

    def find_user(self, external_user_id: str, environment: Environment) -> ExternalUser | None:
        """That external user, or None: one with an account, else one that the list of users has."""
        theirs = self._list_accounts(external_user_id, environment)
        if theirs:
            return ExternalUser(external_user_id, environment, min(account.created_at for account in theirs))
        return next((user for user in self.users(environment) if user.external_id == external_user_id), None)

    def delete_user(self, external_user_id: str, environment: Environment) -> bool:
        """Delete the user, their accounts and their deployed triggers; False if there was no such user."""
        if self.find_user(external_user_id, environment) is None:
            return False
        self._client.delete_user(external_user_id, environment)
        self._clear_caches()
        return True

    def accounts(
        self,
        *,
        external_user_id: str | None = None,
        environment: Environment | None = None,
        app: str | None = None,
        own: bool | None = None,
    ) -> Sequence[Account]:
        """Accounts that match everything given, newest first; accounts of your own are the local project's."""
        found: list[Account] = []
        if own is not False and external_user_id is None:
            found += self._local.accounts(environment=environment, app=app, own=True)
        if own is not True:
            for each in (environment,) if environment else ENVIRONMENTS:
                found += self._list_accounts(external_user_id, each)
        matching = [account for account in found if app is None or account.app == app]
        return sorted(matching, key=lambda account: account.created_at, reverse=True)

    def account_ids(
        self,
        *,
        external_user_id: str | None = None,
        environment: Environment | None = None,
        app: str | None = None,
        own: bool | None = None,
    ) -> Sequence[str]:
        """The ids of what `accounts` gives, in its order."""
        found = self.accounts(external_user_id=external_user_id, environment=environment, app=app, own=own)
        return [account.id for account in found]

    def connected_apps(self) -> Collection[str]:
        """Slugs of the apps that there are accounts of."""
        return {account.app for account in self.accounts()}

    def newest_account(self, external_user_id: str, environment: Environment, app: str) -> Account | None:
        """The account that a run for that user uses: of that app, the one most recently created, or None."""
        return next((each for each in self._list_accounts(external_user_id, environment) if each.app == app), None)

    def newest_accounts(
        self, external_user_ids: Collection[str], environment: Environment, apps: Collection[str], *, limit: int
    ) -> Sequence[Account]:
        """The *limit* most recently created accounts of each user and app, newest first; one listing for all of them."""
        whose = next(iter(external_user_ids)) if len(external_user_ids) == 1 else None
        counted: Counter[tuple[str | None, str]] = Counter()
        found = []
        for account in self._list_accounts(whose, environment):
            key = (account.external_user_id, account.app)
            if account.external_user_id in external_user_ids and account.app in apps and counted[key] < limit:
                counted[key] += 1
                found.append(account)
        withheld = self._withheld(found, whose, environment)
        return [replace(account, withheld=account.id in withheld) for account in found]

    def find_account(self, account_id: str) -> Account | None:
        """The account of that id, or None."""
        own = self._local.find_account(account_id)
        if own is not None and own.external_user_id is None:
            return own
        return self._account_cache.get(account_id, lambda: self._client.find_account(account_id))

    def credentials(self, account_id: str) -> Credentials:
        """
        The account's `$auth`, as far as Connect gives it out.

        Raises:
            AccountGoneError: There is no such account.
        """
        account = self.find_account(account_id)
        if account is None:
            raise self._build_gone_error(account_id)
        if account.external_user_id is None:
            return self._local.credentials(account_id)
        return self._credentials.get(account_id, lambda: self._ask_credentials(account))

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
        Connect an account: an external user's at Pipedream, one of your own in the local project.

        Raises:
            RequestError: Pipedream refuses it, as it does for apps that are connected by OAuth.
        """
        if external_user_id is None:
            return self._local.add_account(
                app=app, credentials=credentials, external_user_id=None, account_id=account_id, name=name
            )
        if account_id is not None:
            raise RequestError("Pipedream makes the ids of its accounts itself.", fix="Leave the id out.")
        check_app_slug(app)
        check_external_user_id(external_user_id)
        try:
            made = self._client.create_account(app, credentials, name, external_user_id, environment)
        except (RequestError, ConnectSettingsError) as refused:
            raise RequestError(
                f"The {app} account was not connected at Pipedream: {refused.message}",
                fix="An app with OAuth is connected by its user in the browser, through Connect Link.",
            ) from None
        self._clear_caches()
        return parse_account(made, environment, app=app, external_user_id=external_user_id, fields=tuple(credentials))

    def reconnect_account(self, account_id: str, credentials: Mapping[str, str]) -> Account:
        """
        Give an account these credentials in the place of those that it has; its id and its age stay.

        Raises:
            RequestError: There is no such account, or Pipedream refuses it, as it does for apps that are connected by OAuth.
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
                f"The {account.app} account was not connected anew at Pipedream: {refused.message}",
                fix="An app with OAuth is connected by its user in the browser, through Connect Link.",
            ) from None
        self._clear_caches()
        return replace(account, credential_fields=tuple(credentials), healthy=True)

    def connect_link(self, external_user_id: str, environment: Environment) -> str:
        """A fresh link of Pipedream's where that user connects one account; `&app=SLUG` says of what."""
        check_external_user_id(external_user_id)
        return str(self._client.create_connect_token(external_user_id, environment)["connect_link_url"])

    def clear_cache(self) -> None:
        """Ask Pipedream anew for whatever is asked next."""
        self._clear_caches()

    def nonblocking(self) -> AbstractContextManager[None]:
        """Nothing: Pipedream is asked."""
        return nullcontext()

    def report_unauthorized(self, account_id: str, issued_at: datetime) -> bool:
        """The app answered 401: what can be renewed here is an account of your own; Pipedream renews the others."""
        return self._local.report_unauthorized(account_id, issued_at)

    def remove_account(self, account_id: str) -> bool:
        """Remove it at Pipedream, or one of your own here; False if there was none."""
        account = self.find_account(account_id)
        if account is None:
            return False
        if account.external_user_id is None:
            return self._local.remove_account(account_id)
        self._client.delete_account(account_id, account.environment)
        self._clear_caches()
        return True

    def credential_fields(self, app: str) -> Sequence[str]:
        """Credential names to ask for: what was told or is known of *app*."""
        return load_registered_apps(self._project).get(app) or guess_credential_fields(app)

    def _list_accounts(self, external_user_id: str | None, environment: Environment) -> tuple[Account, ...]:
        """A user's accounts, or everybody's, newest first."""
        return self._accounts.get(
            (external_user_id, environment), lambda: self._client.list_accounts(external_user_id, environment)
        )

    def _withheld(self, accounts: Sequence[Account], whose: str | None, environment: Environment) -> Collection[str]:
        """Ids of those *accounts* whose credentials Connect keeps to itself."""
        if whose is None:  # many users': one listing
            return self._withheld_cache.get(environment, lambda: self._client.list_withheld_ids(environment))
        newest = {account.app: account.id for account in reversed(accounts)}  # a run asks for just these
        return [each for each in newest.values() if self._is_withheld(each)]

    def _is_withheld(self, account_id: str) -> bool:
        try:
            return isinstance(self.credentials(account_id), WithheldCredentials)
        except AccountGoneError:
            return False  # removed since it was listed: who asks for its credentials is told

    def _ask_credentials(self, account: Account) -> Credentials:
        kept = self._client.find_account_with_credentials(account.id, account.environment)
        if kept is None:
            raise self._build_gone_error(account.id)
        given = parse_credentials(kept)
        if not has_withheld_credentials(kept):
            return Credentials(given)
        names = [
            name
            for name in ((ACCESS_TOKEN_FIELD,) if is_oauth(kept) else self.credential_fields(account.app))
            if name not in given
        ]
        return WithheldCredentials(given, withheld_names=names, proxy=self._proxy(account))

    def _build_gone_error(self, account_id: str) -> AccountGoneError:
        self._clear_caches()  # a list that has it, too
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
        for known in (self._users, self._accounts, self._account_cache, self._withheld_cache, self._credentials):
            known.clear()

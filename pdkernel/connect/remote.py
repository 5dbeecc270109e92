"""
The directory of a Connect project at Pipedream: its users, accounts and credentials, over the official SDK.

Knows how a real project answers the questions of `identity.Directory`, and for how long an answer is good. Accounts of your
own stay in the local project: Connect has external users' only. How the SDK is spoken to is for `sdk` to know.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from pdkernel.clock import Clock
from pdkernel.connect.apps import check_app, told_apps
from pdkernel.connect.brief import Brief
from pdkernel.connect.fields import fields_of
from pdkernel.connect.local import LocalDirectory
from pdkernel.connect.sdk import PAGE, JsonObject, Sdk, plain
from pdkernel.errors import ConnectSettingsError, RequestError
from pdkernel.identity import (
    DEFAULT_ENVIRONMENT,
    ENVIRONMENTS,
    Account,
    Credentials,
    Environment,
    ExternalUser,
    Plan,
    ProxyAccess,
    WithheldCredentials,
    check_external_user_id,
)
from pdkernel.project import Project

KNOWN_S = 5.0
"""Seconds for which an answer is good: a run asks for the same several times, and a person waits no longer for news."""
_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
_TOKEN = "oauth_access_token"  # noqa: S105  # its name, not a token


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
        self._own = LocalDirectory(project)
        clock: Clock = project.clock
        self._users: Brief[Environment, tuple[ExternalUser, ...]] = Brief(clock, KNOWN_S)
        self._accounts: Brief[tuple[str | None, Environment], tuple[Account, ...]] = Brief(clock, KNOWN_S)
        self._found: Brief[str, Account | None] = Brief(clock, KNOWN_S)
        self._kept_back: Brief[Environment, frozenset[str]] = Brief(clock, KNOWN_S)
        self._credentials: Brief[str, Credentials] = Brief(clock, KNOWN_S)

    def __repr__(self) -> str:
        return f"RemoteDirectory({self.project_id})"

    @property
    def project_id(self) -> str:
        """`proj_...`, Pipedream's."""
        return self._sdk.login.project_id

    @property
    def plan(self) -> Plan:
        """The plan that the local project rehearses: what the real one allows, Pipedream says itself."""
        return self._own.plan

    def users(self, environment: Environment, *, limit: int | None = None) -> Sequence[ExternalUser]:
        """External users of *environment*, by id: all of them, or *limit*."""
        return self._users.get(environment, lambda: self._ask_users(environment))[:limit]

    def find_user(self, external_user_id: str, environment: Environment) -> ExternalUser | None:
        """That external user, or None: one with an account, else one that the list of users has."""
        theirs = self._of_user(external_user_id, environment)
        if theirs:
            return ExternalUser(external_user_id, environment, min(account.created_at for account in theirs))
        return next((user for user in self.users(environment) if user.external_id == external_user_id), None)

    def delete_user(self, external_user_id: str, environment: Environment) -> bool:
        """Delete the user, their accounts and their deployed triggers; False if there was no such user."""
        if self.find_user(external_user_id, environment) is None:
            return False
        options = self._sdk.options(environment)
        self._sdk.call(
            lambda client: client.users.delete_external_user(external_user_id, request_options=options), missing=False
        )
        self._forget()
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
            found += self._own.accounts(environment=environment, app=app, own=True)
        if own is not True:
            for each in (environment,) if environment else ENVIRONMENTS:
                found += self._of_user(external_user_id, each)
        matching = [account for account in found if app is None or account.app == app]
        return sorted(matching, key=lambda account: account.created_at, reverse=True)

    def newest_account(self, external_user_id: str, environment: Environment, app: str) -> Account | None:
        """The account that a run for that user uses: of that app, the one most recently created, or None."""
        return next((each for each in self._of_user(external_user_id, environment) if each.app == app), None)

    def newest_accounts(
        self, external_user_ids: Collection[str], environment: Environment, apps: Collection[str], *, limit: int
    ) -> Sequence[Account]:
        """The *limit* most recently created accounts of each user and app, newest first; one listing for all of them."""
        whose = next(iter(external_user_ids)) if len(external_user_ids) == 1 else None
        counted: Counter[tuple[str | None, str]] = Counter()
        found = []
        for account in self._of_user(whose, environment):
            key = (account.external_user_id, account.app)
            if account.external_user_id in external_user_ids and account.app in apps and counted[key] < limit:
                counted[key] += 1
                found.append(account)
        withheld = self._withheld(found, whose, environment)
        return [replace(account, withheld=account.id in withheld) for account in found]

    def find_account(self, account_id: str) -> Account | None:
        """The account of that id, or None."""
        own = self._own.find_account(account_id)
        if own is not None and own.external_user_id is None:
            return own
        return self._found.get(account_id, lambda: self._ask_account(account_id))

    def credentials(self, account_id: str) -> Credentials:
        """
        The account's `$auth`, as far as Connect gives it out.

        Raises:
            LookupError: There is no such account.
        """
        account = self.find_account(account_id)
        if account is None:
            raise LookupError(account_id)
        if account.external_user_id is None:
            return self._own.credentials(account_id)
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
            return self._own.add_account(
                app=app, credentials=credentials, external_user_id=None, account_id=account_id, name=name
            )
        if account_id is not None:
            raise RequestError("Pipedream makes the ids of its accounts itself.", fix="Leave the id out.")
        check_app(app)
        check_external_user_id(external_user_id)
        token = self._connect_token(external_user_id, environment)
        try:
            made = self._sdk.call(
                partial(_create, app, credentials, name, external_user_id, token, self._sdk.options(environment))
            )
        except (RequestError, ConnectSettingsError) as refused:
            raise RequestError(
                f"The {app} account was not connected at Pipedream: {refused.message}",
                fix="An app with OAuth is connected by its user in the browser, through Connect Link.",
            ) from None
        self._forget()
        return _account(plain(made), environment, app=app, external_user_id=external_user_id, fields=tuple(credentials))

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
            return self._own.reconnect_account(account_id, credentials)
        token = self._connect_token(user, account.environment)
        options = self._sdk.options(account.environment)
        try:
            self._sdk.call(
                partial(_create, account.app, credentials, None, user, token, options, account_id=account_id)
            )
        except (RequestError, ConnectSettingsError) as refused:
            raise RequestError(
                f"The {account.app} account was not connected anew at Pipedream: {refused.message}",
                fix="An app with OAuth is connected by its user in the browser, through Connect Link.",
            ) from None
        self._forget()
        return replace(account, fields=tuple(credentials), healthy=True)

    def connect_link(self, external_user_id: str, environment: Environment) -> str:
        """A fresh link of Pipedream's where that user connects one account; `&app=SLUG` says of what."""
        check_external_user_id(external_user_id)
        return str(plain(self._ask_token(external_user_id, environment))["connect_link_url"])

    def look_again(self) -> None:
        """Ask Pipedream anew for whatever is asked next."""
        self._forget()

    def refuse_token(self, account_id: str) -> bool:
        """The app answered 401: what can be renewed here is an account of your own; Pipedream renews the others."""
        return self._own.refuse_token(account_id)

    def remove_account(self, account_id: str) -> bool:
        """Remove it at Pipedream, or one of your own here; False if there was none."""
        account = self.find_account(account_id)
        if account is None:
            return False
        if account.external_user_id is None:
            return self._own.remove_account(account_id)
        options = self._sdk.options(account.environment)
        self._sdk.call(lambda client: client.accounts.delete(account_id, request_options=options), missing=False)
        self._forget()
        return True

    def known_fields(self, app: str) -> Sequence[str]:
        """Credential names to ask for: what was told or is known of *app*."""
        return told_apps(self._project).get(app) or fields_of(app)

    def _of_user(self, external_user_id: str | None, environment: Environment) -> tuple[Account, ...]:
        """A user's accounts, or everybody's, newest first."""
        return self._accounts.get(
            (external_user_id, environment), lambda: self._ask_accounts(external_user_id, environment)
        )

    def _withheld(self, accounts: Sequence[Account], whose: str | None, environment: Environment) -> Collection[str]:
        """Ids of those *accounts* whose credentials Connect keeps to itself."""
        if whose is None:  # many users': one listing
            return self._kept_back.get(environment, lambda: self._ask_kept_back(environment))
        newest = {account.app: account.id for account in reversed(accounts)}  # a run asks for just these
        return [each for each in newest.values() if isinstance(self.credentials(each), WithheldCredentials)]

    def _ask_kept_back(self, environment: Environment) -> frozenset[str]:
        options = self._sdk.options(environment)
        items: Iterator[JsonObject] = self._sdk.pages(
            lambda client, cursor: client.accounts.list(
                limit=PAGE, include_credentials=True, request_options=options, **_after(cursor)
            )
        )
        return frozenset(str(item["id"]) for item in items if _is_kept_back(item))

    def _ask_users(self, environment: Environment) -> tuple[ExternalUser, ...]:
        options = self._sdk.options(environment)
        items = self._sdk.pages(
            lambda client, cursor: client.users.list(limit=PAGE, request_options=options, **_after(cursor))
        )
        users = [
            ExternalUser(str(item["external_id"]), environment, _time(item.get("created_at")))
            for item in items
            if item.get("external_id")
        ]
        return tuple(sorted(users, key=lambda user: user.external_id))

    def _ask_accounts(self, external_user_id: str | None, environment: Environment) -> tuple[Account, ...]:
        options = self._sdk.options(environment)
        whose = {} if external_user_id is None else {"external_user_id": external_user_id}
        items: Iterator[JsonObject] = self._sdk.pages(
            lambda client, cursor: client.accounts.list(limit=PAGE, request_options=options, **whose, **_after(cursor))
        )
        found = [_account(item, environment, external_user_id=external_user_id) for item in items]
        return tuple(sorted(found, key=lambda account: account.created_at, reverse=True))

    def _ask_account(self, account_id: str) -> Account | None:
        first = self._sdk.login.environment
        for environment in (first, *(other for other in ENVIRONMENTS if other != first)):
            item = self._retrieve(account_id, environment)
            if item is not None:
                return _account(item, environment)
        return None

    def _retrieve(self, account_id: str, environment: Environment, **more: bool) -> JsonObject | None:
        options = self._sdk.options(environment)
        item = self._sdk.call(
            lambda client: client.accounts.retrieve(account_id, request_options=options, **more), missing=False
        )
        return None if item is False else _bare(item)

    def _ask_credentials(self, account: Account) -> Credentials:
        kept = self._retrieve(account.id, account.environment, include_credentials=True)
        if kept is None:
            raise LookupError(account.id)
        given = _given(kept)
        if not _is_kept_back(kept):
            return Credentials(given)
        names = [
            name for name in ((_TOKEN,) if _is_oauth(kept) else self.known_fields(account.app)) if name not in given
        ]
        return WithheldCredentials(given, names=names, proxy=self._proxy(account))

    def _proxy(self, account: Account) -> ProxyAccess:
        login = self._sdk.login
        return ProxyAccess(
            url=f"{login.base_url}/v1/connect/{login.project_id}/proxy",
            account_id=account.id,
            external_user_id=str(account.external_user_id),
            environment=account.environment,
            token=self._sdk.token,
        )

    def _connect_token(self, external_user_id: str, environment: Environment) -> str:
        return str(plain(self._ask_token(external_user_id, environment))["token"])

    def _ask_token(self, external_user_id: str, environment: Environment) -> Any:
        options = self._sdk.options(environment)
        return self._sdk.call(
            lambda client: client.tokens.create(external_user_id=external_user_id, request_options=options)
        )

    def _forget(self) -> None:
        for known in (self._users, self._accounts, self._found, self._kept_back, self._credentials):
            known.clear()


def _create(
    app: str,
    credentials: Mapping[str, str],
    name: str | None,
    external_user_id: str,
    token: str,
    options: JsonObject,
    client: Any,
    *,
    account_id: str | None = None,
) -> Any:
    return client.accounts.create(
        app_slug=app,
        cfmap_json=json.dumps(dict(credentials)),
        connect_token=token,
        external_user_id=external_user_id,
        request_options=options,
        **({"name": name} if name else {}),
        **({"account_id": account_id} if account_id else {}),
    )


def _after(cursor: str | None) -> dict[str, str]:
    return {"after": cursor} if cursor else {}


def _bare(item: Any) -> JsonObject:
    """An account; older documentation puts it into `data`."""
    made = plain(item)
    inner = made.get("data")
    return inner if isinstance(inner, dict) else made


def _account(
    item: JsonObject,
    environment: Environment,
    *,
    app: str | None = None,
    external_user_id: str | None = None,
    fields: tuple[str, ...] = (),
) -> Account:
    owner = str(item.get("external_id") or external_user_id or "")
    told = item.get("app") or {}
    return Account(
        id=str(item["id"]),
        app=str(told.get("name_slug") or app or ""),
        name=str(item.get("name") or owner),
        external_user_id=owner,
        environment=environment,
        created_at=_time(item.get("created_at")),
        healthy=item.get("healthy") is not False and not item.get("dead"),
        fields=fields,
    )


def _is_oauth(item: JsonObject) -> bool:
    kind = (item.get("app") or {}).get("auth_type")
    return str(getattr(kind, "value", kind)).lower() == "oauth"


def _given(item: JsonObject) -> dict[str, str]:
    """The credentials that Connect gives out."""
    return {name: _text(value) for name, value in (item.get("credentials") or {}).items() if value is not None}


def _is_kept_back(item: JsonObject) -> bool:
    given = _given(item)
    return _TOKEN not in given if _is_oauth(item) else not given


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _time(value: Any) -> datetime:
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    try:
        return datetime.fromisoformat(str(value)).astimezone(UTC)
    except ValueError:
        return _EARLIEST

"""The directory of a local project: users and accounts in its tables. Encryption is in `project.accounts`."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from types import MappingProxyType
from typing import Unpack

from pdkernel.accounts.apps import (
    FIELDS_BY_APP,
    ComponentFields,
    check_app_slug,
    guess_credential_fields,
    load_registered_apps,
)
from pdkernel.accounts.oauth import is_refresh_due, refresh_credentials
from pdkernel.common.blocking import permit_blocking
from pdkernel.common.identity import (
    DEFAULT_ENVIRONMENT,
    MAX_FOUND_USERS,
    Account,
    AccountFilters,
    Credentials,
    Environment,
    ExternalUser,
    Plan,
    UserSearchResult,
    WouldBlockError,
    check_external_user_id,
)
from pdkernel.errors import RequestError
from pdkernel.storage import Project

_ACCOUNT_ID = re.compile(r"apn_[A-Za-z0-9_-]{1,64}\Z")
_ID_LENGTH = 7
"""Letters and digits in an account's id, as in the platform's own (`apn_EOhwbRe`)."""


class LocalDirectory:
    """Users and accounts of a local project; implements `identity.Directory`."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._table = project.accounts
        self._can_block = True
        self._component_fields = ComponentFields(project)

    def __repr__(self) -> str:
        return f"LocalDirectory({self.project_id})"

    @property
    def project_id(self) -> str:
        """`proj_...`."""
        return self._project.project_id

    @property
    def plan(self) -> Plan:
        """The plan that the production gate checks."""
        return self._project.plan

    def users(self, environment: Environment, *, limit: int | None = None) -> Sequence[ExternalUser]:
        """Return the external users of *environment*, sorted by id, at most *limit*."""
        return self._table.users(environment, limit=limit)

    def search_users(
        self,
        environment: Environment,
        text: str,
        *,
        limit: int = MAX_FOUND_USERS,
        last_runs: Mapping[str, float] = MappingProxyType({}),
        report: Callable[[UserSearchResult], None] | None = None,  # noqa: ARG002 - the first result is complete
    ) -> UserSearchResult:
        """Search the users whose id, or the name of one of whose accounts, contains *text*, in two queries."""
        return self._table.search_users(environment, text, limit=limit, last_runs=last_runs)

    def find_user(self, external_user_id: str, environment: Environment) -> ExternalUser | None:
        """Return the external user with that id, or None."""
        return self._table.find_user(external_user_id, environment)

    def delete_user(self, external_user_id: str, environment: Environment) -> bool:
        """Delete the user and their accounts in *environment*; False if the user does not exist."""
        return self._table.delete_user(external_user_id, environment)

    def accounts(self, **filters: Unpack[AccountFilters]) -> Sequence[Account]:
        """Return the accounts that match all filters, newest first."""
        return self._table.list_accounts(**filters)

    def account_ids(self, **filters: Unpack[AccountFilters]) -> Sequence[str]:
        """Return the ids of the accounts that `accounts` returns, in the same order."""
        return self._table.account_ids(**filters)

    def connected_apps(self) -> Collection[str]:
        """Return the slugs of the apps that have an account."""
        return self._table.connected_apps()

    def app_users(self, app: str, environment: Environment) -> Collection[str]:
        """Return the ids of the external users with an account of *app*, from one query."""
        return self._table.app_users(app, environment)

    def newest_account(self, external_user_id: str, environment: Environment, app: str) -> Account | None:
        """Return the user's most recently created account of *app*, which a run uses; or None."""
        return self._table.newest_account(external_user_id, environment, app)

    def newest_accounts(
        self, external_user_ids: Collection[str], environment: Environment, apps: Collection[str], *, limit: int
    ) -> Sequence[Account]:
        """Return the *limit* most recently created accounts of each user and app, newest first, from one query."""
        return self._table.newest_accounts(external_user_ids, environment, apps, limit=limit)

    def find_account(self, account_id: str) -> Account | None:
        """Return the account with that id, or None."""
        return self._table.find(account_id)

    def credentials(self, account_id: str) -> Credentials:
        """
        Return the account's `$auth`. An OAuth access token that is due is refreshed first.

        Raises:
            AccountGoneError: The account does not exist.
            WouldBlockError: The token is due for a refresh, and this directory is `nonblocking`.
        """
        credentials, has_grant = self._table.credentials_and_grant(account_id)
        if not has_grant or not is_refresh_due(self._project, account_id):
            return credentials
        if not self._can_block:
            raise WouldBlockError
        return refresh_credentials(self._project, account_id, credentials)

    @cached_property
    def _nonblocking(self) -> LocalDirectory:
        view = copy(self)
        view._can_block = False  # noqa: SLF001 - a copy of this object
        return view

    @contextmanager
    def nonblocking(self) -> Iterator[LocalDirectory | None]:
        """A view that raises `WouldBlockError` if a token refresh would block; None if the database is not a file."""
        if self._project.is_shared:
            yield None
            return
        # a file's readers do not wait for writers, and a thread would cost each run more than these reads
        with permit_blocking(), self._project.shared_read_connection():
            yield self._nonblocking

    def report_unauthorized(self, account_id: str, issued_at: datetime) -> bool:
        """
        Report that the app answered 401 to the token of *issued_at*.

        The next call of `credentials` refreshes the token if possible. Several reports of the same token cause one refresh.
        """
        return self._project.grants.mark_refused(account_id, issued_at)

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
        Connect an account. The external user is created with their first account.

        Args:
            app: Slug of the app.
            credentials: Values by name; at least one.
            external_user_id: The external user, or None for an account of your own.
            environment: The user's environment; an account of your own is valid in both and has development.
            account_id: `apn_...`, or None for a new id.
            name: Display name; the user's id or the app's slug by default.

        Raises:
            AccountExistsError: *account_id* exists already.
            RequestError: App, user, id or credentials are invalid; the message has no credential.
        """
        if external_user_id is not None:
            check_external_user_id(external_user_id)
        account = Account(
            id=_check_id(account_id) if account_id is not None else self._project.ids.new("apn_", _ID_LENGTH),
            app=check_app_slug(app),
            name=name or external_user_id or app,
            external_user_id=external_user_id,
            environment=environment if external_user_id is not None else DEFAULT_ENVIRONMENT,
            created_at=self._project.clock.now(),
            credential_fields=_check_fields(app, credentials),
        )
        self._table.add(account, credentials)
        return account

    def reconnect_account(self, account_id: str, credentials: Mapping[str, str]) -> Account:
        """
        Replace the credentials of an account; id and creation time stay.

        Raises:
            RequestError: The account does not exist, or the credentials are invalid; the message has no credential.
        """
        account = self._table.find(account_id)
        if account is None:
            raise RequestError(f"There is no account {account_id[:80]!r}.")
        fields = _check_fields(account.app, credentials)
        with self._project.one_transaction():
            self._project.grants.remove(account_id)
            self._table.replace_credentials(account_id, credentials)
        return replace(account, credential_fields=fields, healthy=True)

    def remove_account(self, account_id: str) -> bool:
        """Remove the account; the user stays. Return False if the account does not exist."""
        return self._table.remove(account_id)

    def credential_fields(self, app: str) -> Sequence[str]:
        """
        Names of credentials for a form.

        These are the registered names; else those that the components of *app* on this machine read, then the others of the newest
        account of *app*; else those of the newest account; else the usual names.
        """
        registered = load_registered_apps(self._project).get(app)
        if registered:
            return registered
        newest = self._table.list_accounts(app=app, limit=1)
        if read := self._component_fields.find(app):
            return tuple(dict.fromkeys((*read, *(newest[0].credential_fields if newest else ()))))
        # an account that lacks an optional field does not remove that field from the next form
        return (
            newest[0].credential_fields
            if newest and not set(newest[0].credential_fields) < set(FIELDS_BY_APP.get(app, ()))
            else guess_credential_fields(app)
        )


def _check_id(account_id: str) -> str:
    if not _ACCOUNT_ID.match(account_id):
        raise RequestError(
            f"{account_id!r} is not a valid account id.",
            fix="Use apn_ and then letters, digits, dashes or underscores, or omit the id to get a new one.",
        )
    return account_id


def _check_fields(app: str, credentials: Mapping[str, str]) -> tuple[str, ...]:
    if not credentials:
        raise RequestError(
            f"An account of {app} needs at least one credential.", fix=f"For example {guess_credential_fields(app)[0]}."
        )
    if any(not name.strip() for name in credentials):
        raise RequestError(f"A credential of the {app} account has no name.")
    return tuple(credentials)

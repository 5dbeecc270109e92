"""
The directory of a local project: its own tables, no HTTP in between.

Knows what may be connected and under which id. Rows and encryption are `project.accounts`; who asks and why is
the engine's and the session's.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from datetime import datetime
from functools import cached_property

from pdkernel.connect.credential_fields import FIELDS_BY_APP, guess_credential_fields
from pdkernel.connect.registered_apps import check_app_slug, load_registered_apps
from pdkernel.connect.token_refresh import is_refresh_due, refresh_credentials
from pdkernel.errors import RequestError
from pdkernel.identity import (
    DEFAULT_ENVIRONMENT,
    Account,
    Credentials,
    Environment,
    ExternalUser,
    Plan,
    WouldBlockError,
    check_external_user_id,
)
from pdkernel.project import Project

_ACCOUNT_ID = re.compile(r"apn_[A-Za-z0-9_-]{1,64}\Z")
_ID_LENGTH = 7
"""Letters and digits in an account's id, as in the platform's own (`apn_EOhwbRe`)."""


class LocalDirectory:
    """Users and accounts of a local project; implements `identity.Directory`."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._table = project.accounts
        self._can_block = True

    def __repr__(self) -> str:
        return f"LocalDirectory({self.project_id})"

    @property
    def project_id(self) -> str:
        """`proj_...`."""
        return self._project.project_id

    @property
    def plan(self) -> Plan:
        """The plan that the production gate looks at."""
        return self._project.plan

    def users(self, environment: Environment, *, limit: int | None = None) -> Sequence[ExternalUser]:
        """External users of *environment*, by id: all of them, or *limit*."""
        return self._table.users(environment, limit=limit)

    def find_user(self, external_user_id: str, environment: Environment) -> ExternalUser | None:
        """That external user, or None."""
        return self._table.find_user(external_user_id, environment)

    def delete_user(self, external_user_id: str, environment: Environment) -> bool:
        """Delete the user and their accounts of that environment; False if there was no such user."""
        return self._table.delete_user(external_user_id, environment)

    def accounts(
        self,
        *,
        external_user_id: str | None = None,
        environment: Environment | None = None,
        app: str | None = None,
        own: bool | None = None,
    ) -> Sequence[Account]:
        """Accounts that match everything given, newest first; accounts of your own match both environments."""
        return self._table.list_accounts(external_user_id=external_user_id, environment=environment, app=app, own=own)

    def account_ids(
        self,
        *,
        external_user_id: str | None = None,
        environment: Environment | None = None,
        app: str | None = None,
        own: bool | None = None,
    ) -> Sequence[str]:
        """The ids of what `accounts` gives, in its order."""
        return self._table.account_ids(external_user_id=external_user_id, environment=environment, app=app, own=own)

    def connected_apps(self) -> Collection[str]:
        """Slugs of the apps that there are accounts of."""
        return self._table.connected_apps()

    def newest_account(self, external_user_id: str, environment: Environment, app: str) -> Account | None:
        """The account that a run for that user uses: of that app, the one most recently created, or None."""
        return self._table.newest_account(external_user_id, environment, app)

    def newest_accounts(
        self, external_user_ids: Collection[str], environment: Environment, apps: Collection[str], *, limit: int
    ) -> Sequence[Account]:
        """The *limit* most recently created accounts of each user and app, newest first; one query."""
        return self._table.newest_accounts(external_user_ids, environment, apps, limit=limit)

    def find_account(self, account_id: str) -> Account | None:
        """The account of that id, or None."""
        return self._table.find(account_id)

    def credentials(self, account_id: str) -> Credentials:
        """
        The account's `$auth`, with an access token that still lasts where the project can renew it.

        Raises:
            AccountGoneError: There is no such account.
            NotAtHandError: The token has to be renewed, and this one is `at_hand`.
        """
        credentials = self._table.credentials(account_id)
        if not is_refresh_due(self._project, account_id, credentials):
            return credentials
        if not self._can_block:
            raise WouldBlockError
        return refresh_credentials(self._project, account_id, credentials)

    @cached_property
    def _nonblocking(self) -> LocalDirectory:
        at_hand = copy(self)
        at_hand._can_block = False  # noqa: SLF001 - our own copy
        return at_hand

    @contextmanager
    def nonblocking(self) -> Iterator[LocalDirectory | None]:
        """Itself, on a database that is a file: only a token that has to be renewed is waited for."""
        if self._project.sqlite_path is None:
            yield None
            return
        with self._project.shared_read_connection():
            yield self._nonblocking

    def report_unauthorized(self, account_id: str, issued_at: datetime) -> bool:
        """
        The app answered 401 to the token of *issued_at*: who asks next for the credentials gets a newer one, if there is any.

        Of many who were refused the same token the first has it renewed; the others get what came of that.
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
        Connect an account; the user exists from their first account on.

        Args:
            app: The app's slug.
            credentials: Name and value; at least one.
            external_user_id: Whose it is, or None for an account of your own.
            environment: Of the user; an account of your own is valid in both and carries development.
            account_id: `apn_...`, or None for a fresh one.
            name: For people; the user's id or the app's slug if it is not given.

        Raises:
            AccountExistsError: *account_id* is taken.
            RequestError: App, user, id or credentials cannot be used; the message shows no value.
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
        Give an account these credentials in the place of those that it has; its id and its age stay.

        Raises:
            RequestError: There is no such account, or the credentials cannot be used; the message shows no value.
        """
        account = self._table.find(account_id)
        if account is None:
            raise RequestError(f"There is no account {account_id[:80]!r}.")
        fields = _check_fields(account.app, credentials)
        self._project.grants.remove(account_id)
        self._table.replace_credentials(account_id, credentials)
        return replace(account, credential_fields=fields, healthy=True)

    def remove_account(self, account_id: str) -> bool:
        """Remove it; its user stays. False if there was none."""
        return self._table.remove(account_id)

    def credential_fields(self, app: str) -> Sequence[str]:
        """Credential names to ask for: what was told of *app*, else what its newest account holds, else the best guess."""
        told = load_registered_apps(self._project).get(app)
        if told:
            return told
        newest = self._table.list_accounts(app=app, limit=1)
        # an account for which a field was left empty takes no field from the next one's form
        return (
            newest[0].credential_fields
            if newest and not set(newest[0].credential_fields) < set(FIELDS_BY_APP.get(app, ()))
            else guess_credential_fields(app)
        )


def _check_id(account_id: str) -> str:
    if not _ACCOUNT_ID.match(account_id):
        raise RequestError(
            f"{account_id!r} cannot be an account's id.",
            fix="Use apn_ and then letters, digits, dashes or underscores, or leave it out for a fresh one.",
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

"""
A cached view of a directory for some external users; each fact is read once, and no credential is read.

The snapshot also formats the commands that connect missing accounts.
"""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Collection, Sequence
from functools import cached_property

from pdkernel.common.clock import format_iso
from pdkernel.common.identity import ACCESS_TOKEN_FIELD, Account, Directory, Environment, FoundUser, Plan
from pdkernel.common.lookup import MAX_CANDIDATES, AccountCandidate
from pdkernel.errors import did_you_mean
from pdkernel.model import AppBinding

_MAX_NAMED_USERS = 10
"""External users that a message names."""


class DirectorySnapshot:
    """
    Users and accounts of a directory at one moment.

    Args:
        directory: The directory; all accounts of *users* are read in one call.
        environment: The users' environment.
        users: The external users of the snapshot.
        apps: The apps of the snapshot.
        found: External users that exist; the accounts of those whose `accounts` are known are not read again.
    """

    def __init__(
        self,
        directory: Directory,
        environment: Environment,
        users: Collection[str],
        apps: Collection[str],
        *,
        found: Sequence[FoundUser] = (),
    ) -> None:
        self._directory = directory
        self.environment: Environment = environment
        self.other_environment: Environment = "production" if environment == "development" else "development"
        self._accounts: dict[tuple[str, str], list[Account]] = defaultdict(list)
        self._candidates: dict[tuple[str, str], tuple[AccountCandidate, ...]] = {}
        self._own: dict[str, Account | None] = {}
        self._fields: dict[str, str] = {}
        self._exists: dict[tuple[str, Environment], bool] = {(each.external_id, environment): True for each in found}
        known = {each.external_id: each.accounts for each in found if each.accounts is not None}
        for account in (account for of_user in known.values() for account in of_user):
            of_app = self._accounts[account.external_user_id or "", account.app]
            if len(of_app) < MAX_CANDIDATES:
                of_app.append(account)
        unknown = [user for user in users if user not in known]
        if unknown and apps:
            for account in directory.newest_accounts(unknown, environment, apps, limit=MAX_CANDIDATES):
                user = account.external_user_id or ""
                self._accounts[user, account.app].append(account)
                self._exists[user, environment] = True  # an external user with an account exists

    @cached_property
    def plan(self) -> Plan:
        """The project's plan."""
        return self._directory.plan

    def describe_known_users(self, unknown: str) -> str:
        """A sentence that names the external users of the environment, after those with ids near the *unknown* id."""
        users = [user.external_id for user in self._directory.users(self.environment, limit=_MAX_NAMED_USERS + 1)]
        listed = ", ".join(users[:_MAX_NAMED_USERS]) + (" and more" if len(users) > _MAX_NAMED_USERS else "")
        if not users:
            return f"{self.environment} has no external users yet."
        near = did_you_mean(unknown, users, lists_all=False)
        return f"{near} External users in {self.environment}: {listed}.".lstrip()

    def has_user(self, external_user_id: str) -> bool:
        """Return whether the user exists in the environment."""
        return self._has(external_user_id, self.environment)

    def has_user_in_other_environment(self, external_user_id: str) -> bool:
        """Return whether the user exists in the other environment."""
        return self._has(external_user_id, self.other_environment)

    def accounts(self, external_user_id: str, app: str) -> Sequence[Account]:
        """Return the user's accounts of *app*, newest first, at most `MAX_CANDIDATES`."""
        return self._accounts.get((external_user_id, app), ())

    def candidates(self, external_user_id: str, app: str) -> tuple[AccountCandidate, ...]:
        """Return the same accounts in the form of the record."""
        key = (external_user_id, app)
        if key not in self._candidates:
            self._candidates[key] = tuple(
                AccountCandidate(each.id, each.name, format_iso(each.created_at), each.healthy, each.withheld)
                for each in self.accounts(*key)
            )
        return self._candidates[key]

    def find_account(self, account_id: str) -> Account | None:
        """Return the account with that id, or None."""
        if account_id not in self._own:
            self._own[account_id] = self._directory.find_account(account_id)
        return self._own[account_id]

    def format_connect_command(self, app: str, external_user_id: str) -> str:
        """Return the command that connects an account of *app*; it prompts for the credentials."""
        environment = "" if self.environment == "development" else f" --environment {self.environment}"
        user = shlex.quote(external_user_id)
        return f"pdkernel accounts add --external-user {user} --app {app}{environment}{self._credentials(app)}"

    def format_own_account_command(self, binding: AppBinding) -> str:
        """Return the command that adds the own account of *binding*; it prompts for the credentials."""
        return f"pdkernel accounts add --own --app {binding.app} --id {binding.account}{self._credentials(binding.app)}"

    def _credentials(self, app: str) -> str:
        if app not in self._fields:
            fields = self._directory.credential_fields(app) or ("api_key",)
            # an account with a token has further fields, which most steps do not need
            asked = fields[:1] if fields[0] == ACCESS_TOKEN_FIELD else fields
            self._fields[app] = "".join(f" --credential {name}" for name in asked)
        return self._fields[app]

    def _has(self, external_user_id: str, environment: Environment) -> bool:
        key = (external_user_id, environment)
        if key not in self._exists:
            self._exists[key] = self._directory.find_user(*key) is not None
        return self._exists[key]


def format_connect_account_command(
    app: str, external_user_id: str, environment: Environment, directory: Directory
) -> str:
    """Return the command that connects an account of *app*; it prompts for the credentials."""
    return DirectorySnapshot(directory, environment, (), ()).format_connect_command(app, external_user_id)

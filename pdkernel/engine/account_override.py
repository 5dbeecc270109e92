"""
A directory that returns the accounts a caller chose instead of the newest account of each app.

An account of another external user is never returned.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Unpack, cast

from pdkernel.common.identity import Account, AccountFilters, Directory, Environment


def override_accounts(directory: Directory, account_ids: Mapping[str, str]) -> Directory:
    """Return *directory*, with only the chosen account of each app in *account_ids*; own accounts stay."""
    return cast("Directory", _AccountOverrideDirectory(directory, account_ids)) if account_ids else directory


class _AccountOverrideDirectory:
    """A directory that hides accounts and delegates everything else."""

    def __init__(self, directory: Directory, chosen: Mapping[str, str]) -> None:
        self._directory = directory
        self._chosen = chosen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._directory, name)

    def newest_account(self, external_user_id: str, environment: Environment, app: str) -> Account | None:
        """Return the chosen account of *app*, or the newest."""
        found = self.accounts(external_user_id=external_user_id, environment=environment, app=app, own=False)
        return found[0] if found else None

    def newest_accounts(
        self, external_user_ids: Collection[str], environment: Environment, apps: Collection[str], *, limit: int
    ) -> Sequence[Account]:
        """Return the chosen account of each app, however old, or the newest accounts."""
        free = [app for app in apps if app not in self._chosen]
        found = [
            account
            for app in apps
            if app in self._chosen
            for user in external_user_ids
            for account in self.accounts(external_user_id=user, environment=environment, app=app, own=False)
        ]
        if free:
            found += self._directory.newest_accounts(external_user_ids, environment, free, limit=limit)
        return found

    def accounts(self, **filters: Unpack[AccountFilters]) -> Sequence[Account]:
        """Return matching accounts, without external users' accounts that were not chosen for their app."""
        return [
            account
            for account in self._directory.accounts(**filters)
            if account.external_user_id is None or self._chosen.get(account.app, account.id) == account.id
        ]

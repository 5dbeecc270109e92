"""
Resolves the accounts of a run: account uses for the record, credentials for steps, secrets for redaction.

Credentials that Connect withholds are replaced by placeholders. `account_lookup` chooses the accounts, unless the caller names
them (`override_accounts`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from secrets import token_hex
from typing import Any, Unpack, cast

from msgspec import UNSET

from pdkernel.common.identity import (
    Account,
    AccountFilters,
    AccountGoneError,
    Credentials,
    Directory,
    Environment,
    ProxyAccess,
)
from pdkernel.common.lookup import Lookup
from pdkernel.common.redaction import Secret
from pdkernel.common.secret_patterns import is_secret_field
from pdkernel.engine.account_lookup import (
    BindingsByStep,
    DirectorySnapshot,
    RunIdentity,
    look_up_accounts,
    steps_by_external_user_app,
)
from pdkernel.engine.variables import load_variables
from pdkernel.errors import PdkernelError, RequestError
from pdkernel.execution import AccountUse, Execution
from pdkernel.model import AppBinding
from pdkernel.storage import Project
from pdkernel.storage.settings import format_variable_ref


@dataclass(frozen=True)
class StepAccounts:
    """The accounts of one step: *uses* for the record, *credentials* (`$auth` by prop) for the step."""

    uses: tuple[AccountUse, ...] = ()
    credentials: Mapping[str, Credentials] = field(default_factory=dict)


_NO_ACCOUNTS = StepAccounts()
_PLACEHOLDER = re.compile(r"withheld-[0-9a-f]{32}")


@dataclass(frozen=True)
class AccountResolution:
    """
    The accounts of a run.

    Attributes:
        accounts_by_step: Accounts by step name.
        secrets: The secrets of the accounts; with an error, those of the accounts that exist.
        app_by_secret: The app by secret reference.
        proxy_by_secret: Access to Connect's proxy by the reference of a withheld secret.
        lookup: The record of the lookup, or None if no step uses an external user's account.
        error: Why the run is refused, or None. An `EndUserError` is the first of the four documented errors that
            applies.
        complete: Whether *secrets* holds all secrets.
    """

    accounts_by_step: Mapping[str, StepAccounts] = field(default_factory=dict)
    secrets: tuple[Secret, ...] = ()
    app_by_secret: Mapping[str, str] = field(default_factory=dict)
    proxy_by_secret: Mapping[str, ProxyAccess] = field(default_factory=dict)
    lookup: Lookup | None = None
    error: RequestError | None = None
    complete: bool = True

    def for_step(self, step: str) -> StepAccounts:
        """Return the accounts of *step*."""
        return self.accounts_by_step.get(step, _NO_ACCOUNTS)


def resolve_accounts(bindings: BindingsByStep, identity: RunIdentity, *, directory: Directory) -> AccountResolution:
    """Find the account and the credentials of every app prop; the result has the error that refuses the run, if any."""
    try:
        try:
            return _resolve(bindings, identity, directory)
        except AccountGoneError:  # the account was removed after its lookup: look up again
            return _resolve(bindings, identity, directory)
    except AccountGoneError as gone:
        return AccountResolution(
            error=RequestError(f"The account {gone} was removed while the run started.", fix="Run the workflow again."),
            complete=False,
        )


def _resolve(bindings: BindingsByStep, identity: RunIdentity, directory: Directory) -> AccountResolution:
    users = () if identity.external_user_id is None else (identity.external_user_id,)
    snapshot = DirectorySnapshot(directory, identity.environment, users, steps_by_external_user_app(bindings))
    found = look_up_accounts(bindings, identity, snapshot)
    if found.error is not None:
        try:
            secrets = tuple(_existing_secrets(bindings, identity, snapshot, directory))
        except (PdkernelError, AccountGoneError):  # the error of the lookup matters more
            return AccountResolution(lookup=found.lookup, error=found.error, complete=False)
        # without an account, the event stays encrypted: it may have the credentials of a user with another spelling
        return AccountResolution(secrets=secrets, lookup=found.lookup, error=found.error, complete=bool(secrets))
    return _build_resolution(bindings, found.accounts, directory, found.lookup)


def _build_use(binding: AppBinding, account: Account) -> AccountUse:
    return AccountUse(binding.prop, binding.app, account.id, account.owner, account.name or UNSET)


def list_account_secrets(account: Account, credentials: Mapping[str, str]) -> list[Secret]:
    """Return the secrets of *account*: each credential, and secret fields inside a credential that is a JSON object."""
    return [
        Secret(format_credential_ref(account, name) + part, text)
        for name, value in credentials.items()
        for part, text in (("", value), *_secret_fields(value))
    ]


def collect_secrets(project: Project, folder: Path) -> list[Secret]:
    """Return all secrets of *project* and of the `.env` in *folder*, including those that a run does not use."""
    secrets = [Secret(format_variable_ref(name), value) for name, value in load_variables(project, folder).items()]
    accounts = project.accounts
    for account in accounts.list_accounts():
        secrets += list_account_secrets(account, accounts.credentials(account.id))
    return secrets


def insert_placeholders(account: Account, credentials: Credentials) -> tuple[Credentials, Mapping[str, ProxyAccess]]:
    """
    Add a placeholder to *credentials* for each credential that Connect withholds.

    A placeholder is random and new for each run, so that the gateway recognises requests that carry it and sends them
    through Connect's proxy.

    Returns:
        The credentials for the step, and access to the proxy by secret reference.
    """
    if credentials.proxy is None:
        return credentials, {}
    # parity[withheld-credentials]: on the platform a step has the account's credentials
    placeholders = {name: f"withheld-{token_hex(16)}" for name in credentials.withheld_names}
    proxies = {format_credential_ref(account, name): credentials.proxy for name in placeholders}
    return Credentials({**credentials, **placeholders}), proxies


def restore_proxy_access(secrets: Iterable[Secret], directory: Directory) -> Mapping[str, ProxyAccess]:
    """
    Return access to Connect's proxy, by secret reference, for the placeholders of an earlier run among *secrets*.

    Raises:
        AccountGoneError: The account of a placeholder was removed, or Connect does not withhold its credentials any more.
    """
    proxies: dict[str, ProxyAccess] = {}
    for secret in secrets:
        if _PLACEHOLDER.fullmatch(secret.value):
            account_id = secret.ref.split("/")[1]
            credentials = directory.credentials(account_id)
            if credentials.proxy is None:
                raise AccountGoneError(account_id)
            proxies[secret.ref] = credentials.proxy
    return proxies


def format_credential_ref(account: Account, name: str) -> str:
    """Return the reference that replaces a credential's value in redacted text: `APP/ACCOUNT/NAME`."""
    return f"{account.app}/{account.id}/{name}"


def find_unauthorized_accounts(execution: Execution) -> frozenset[str]:
    """Return the ids of accounts whose app answered 401 to a call that carried their credentials."""
    return frozenset(
        use.id
        for step in execution.steps
        for call in step.requests
        for use in step.accounts
        if call.status == HTTPStatus.UNAUTHORIZED and call.outcome == "sent" and call.app == use.app
    )


def credentials_read_at(execution: Execution) -> datetime:
    """Return the start of the first step: the run had read its credentials and not used them yet."""
    starts = [step.started_at for step in execution.steps if step.started_at is not None]
    return datetime.fromisoformat(min(starts, default=execution.started_at))


def _existing_secrets(
    bindings: BindingsByStep, identity: RunIdentity, snapshot: DirectorySnapshot, directory: Directory
) -> Iterator[Secret]:
    """
    Yield secrets of the existing accounts that a refused run would have used, in any environment.

    The event of the run may contain them.
    """
    accounts: dict[str, Account] = {}
    user = identity.external_user_id
    apps = steps_by_external_user_app(bindings)
    elsewhere = directory.newest_accounts((user,), snapshot.other_environment, apps, limit=1) if user and apps else ()
    accounts.update((account.id, account) for account in elsewhere)
    for binding in (binding for apps in bindings.values() for binding in apps):
        if binding.account is not None:
            account = snapshot.find_account(binding.account)
        else:
            account = next(iter(snapshot.accounts(user or "", binding.app)), None)
        if account is not None:
            accounts[account.id] = account
    for account in accounts.values():
        yield from list_account_secrets(account, insert_placeholders(account, directory.credentials(account.id))[0])


def _secret_fields(value: str) -> Iterator[tuple[str, str]]:
    """Yield secret fields of a credential that is a JSON object, such as a service account's key file."""
    if not value.lstrip().startswith("{"):
        return
    try:
        fields = json.loads(value)
    except (ValueError, RecursionError):
        return
    for name, field_value in fields.items():
        if isinstance(field_value, str) and is_secret_field(name):
            yield f".{name}", field_value


def _build_resolution(
    bindings: BindingsByStep,
    accounts: Mapping[tuple[str, str | None], Account],
    directory: Directory,
    lookup: Lookup | None,
) -> AccountResolution:
    credentials: dict[str, Credentials] = {}
    proxied: dict[str, ProxyAccess] = {}
    for account in {account.id: account for account in accounts.values()}.values():
        credentials[account.id], refs = insert_placeholders(account, directory.credentials(account.id))
        proxied.update(refs)
    secrets: list[Secret] = []
    apps: dict[str, str] = {}
    for account in {account.id: account for account in accounts.values()}.values():
        for secret in list_account_secrets(account, credentials[account.id]):
            secrets.append(secret)
            apps[secret.ref] = account.app
    steps = {
        step: StepAccounts(
            uses=tuple(_build_use(b, accounts[b.app, b.account]) for b in group),
            credentials={b.prop: credentials[accounts[b.app, b.account].id] for b in group},
        )
        for step, group in bindings.items()
        if group
    }
    return AccountResolution(steps, tuple(secrets), apps, proxied, lookup)


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

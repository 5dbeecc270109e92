"""
The accounts of a run: what its record says of each, and what its steps are given.

Knows what of an account is secret. Whose account each step gets is for `lookup` to say. Knows nothing of HTTP: which
status a caller sees is the server's affair. Runs no code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus

from pdkernel.engine.account_lookup import BindingsByStep, RunIdentity, look_up_accounts, steps_by_external_user_app
from pdkernel.engine.directory_snapshot import DirectorySnapshot
from pdkernel.engine.withheld_credentials import format_credential_ref, insert_placeholders
from pdkernel.errors import PdkernelError, RequestError
from pdkernel.execution import AccountUse, Execution
from pdkernel.identity import Account, AccountGoneError, Credentials, Directory, ProxyAccess
from pdkernel.lookup import Lookup
from pdkernel.redaction import Secret

_SECRET_NAME = re.compile("key|secret|token|password", re.IGNORECASE)


@dataclass(frozen=True)
class StepAccounts:
    """The accounts of one step: what the record says, and what the step is given."""

    uses: tuple[AccountUse, ...] = ()
    auth: Mapping[str, Credentials] = field(default_factory=dict)


@dataclass(frozen=True)
class AccountResolution:
    """
    The accounts of a run.

    Attributes:
        accounts_by_step: By step.
        secrets: What of them is secret; if there is an error, what is secret of those that exist.
        app_by_secret: By a secret's reference, the app whose account it belongs to.
        proxy_by_secret: By a secret's reference, how requests with it are sent where Connect keeps it to itself.
        lookup: How they were found, or None where no step uses an external user's account.
        complete: Whether *secrets* are all of them.
        error: Why the run must not begin, or None. An `EndUserError` is one of the four documented errors, the first
            in their order.
    """

    accounts_by_step: Mapping[str, StepAccounts] = field(default_factory=dict)
    secrets: tuple[Secret, ...] = ()
    app_by_secret: Mapping[str, str] = field(default_factory=dict)
    proxy_by_secret: Mapping[str, ProxyAccess] = field(default_factory=dict)
    lookup: Lookup | None = None
    error: RequestError | None = None
    complete: bool = True

    def for_step(self, step: str) -> StepAccounts:
        """The accounts of *step*."""
        return self.accounts_by_step.get(step, StepAccounts())


def resolve_accounts(bindings: BindingsByStep, caller: RunIdentity, *, directory: Directory) -> AccountResolution:
    """Find the account of every app prop, with its credentials; what refuses the run is in the answer."""
    try:
        try:
            return _resolve(bindings, caller, directory)
        except AccountGoneError:  # removed since it was looked up: the next look finds what there is
            return _resolve(bindings, caller, directory)
    except AccountGoneError as gone:
        return AccountResolution(
            error=RequestError(f"The account {gone} is listed, but not there any more.", fix="Try again in a moment."),
            complete=False,
        )


def _resolve(bindings: BindingsByStep, caller: RunIdentity, directory: Directory) -> AccountResolution:
    users = () if caller.external_user_id is None else (caller.external_user_id,)
    facts = DirectorySnapshot(directory, caller.environment, users, steps_by_external_user_app(bindings))
    found = look_up_accounts(bindings, caller, facts)
    if found.error is not None:
        try:
            secrets = tuple(_existing_secrets(bindings, caller, facts, directory))
        except (PdkernelError, AccountGoneError):  # the run is refused for the reason that was found
            return AccountResolution(lookup=found.lookup, error=found.error, complete=False)
        return AccountResolution(secrets=secrets, lookup=found.lookup, error=found.error)
    return _build_resolution(bindings, found.accounts, directory, found.lookup)


def list_account_secrets(account: Account, credentials: Mapping[str, str]) -> list[Secret]:
    """What is secret of *account*: each credential, and secret fields inside one that is a JSON object."""
    return [
        Secret(format_credential_ref(account, name) + part, text)
        for name, value in credentials.items()
        for part, text in (("", value), *_secret_fields(value))
    ]


def find_unauthorized_accounts(execution: Execution) -> frozenset[str]:
    """The accounts whose app answered 401 to a call of a step that carried them."""
    return frozenset(
        use.id
        for step in execution.steps
        for call in step.requests
        for use in step.accounts
        if call.status == HTTPStatus.UNAUTHORIZED and call.outcome == "sent" and call.app == use.app
    )


def credentials_read_at(execution: Execution) -> datetime:
    """A moment when the run had its credentials and had sent nothing with them: its first step's start."""
    starts = [step.started_at for step in execution.steps if step.started_at is not None]
    return datetime.fromisoformat(min(starts, default=execution.started_at))


def _existing_secrets(
    bindings: BindingsByStep, caller: RunIdentity, facts: DirectorySnapshot, directory: Directory
) -> Iterator[Secret]:
    """What is secret of the accounts that a refused run would have used and that exist: its event may hold it."""
    accounts: dict[str, Account] = {}
    for binding in (binding for apps in bindings.values() for binding in apps):
        if binding.account is not None:
            account = facts.find_account(binding.account)
        else:
            account = next(iter(facts.accounts(caller.external_user_id or "", binding.app)), None)
        if account is not None:
            accounts[account.id] = account
    for account in accounts.values():
        yield from list_account_secrets(account, insert_placeholders(account, directory.credentials(account.id))[0])


def _secret_fields(value: str) -> Iterator[tuple[str, str]]:
    """Secret fields inside a credential that is a JSON object, such as a service account's key file."""
    if not value.lstrip().startswith("{"):
        return
    try:
        fields = json.loads(value)
    except ValueError:
        return
    for name, field_value in fields.items():
        if isinstance(field_value, str) and _SECRET_NAME.search(name):
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
            uses=tuple(
                AccountUse(b.prop, b.app, accounts[b.app, b.account].id, accounts[b.app, b.account].owner)
                for b in group
            ),
            auth={b.prop: credentials[accounts[b.app, b.account].id] for b in group},
        )
        for step, group in bindings.items()
        if group
    }
    return AccountResolution(steps, tuple(secrets), apps, proxied, lookup)

"""
Whose account each step gets, or which of the four documented errors says why it gets none.

Knows the order of the checks (header, user, account per app, plan) and the platform's wording.
Knows nothing of HTTP: which status a caller sees is the server's affair. Runs no code.
"""

from __future__ import annotations

import json
import re
import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

from pdkernel.engine.withheld import credential_ref, fill
from pdkernel.errors import (
    AccountNotFoundError,
    ExternalUserNotFoundError,
    ExternalUserRequiredError,
    ProductionPlanError,
    RequestError,
)
from pdkernel.execution import AccountUse, Execution
from pdkernel.identity import Account, Credentials, Directory, Environment, ProxyAccess
from pdkernel.model import AppBinding
from pdkernel.redaction import Secret

_TELLING = re.compile("key|secret|token|password", re.IGNORECASE)

Bindings = Mapping[str, tuple[AppBinding, ...]]
"""Step name to the app props that it has, from its directive and its code."""


@dataclass(frozen=True)
class StepAccounts:
    """The accounts of one step: what the record says, and what the step is given."""

    uses: tuple[AccountUse, ...] = ()
    auth: Mapping[str, Credentials] = field(default_factory=dict)


@dataclass(frozen=True)
class Resolution:
    """The accounts of a run."""

    steps: Mapping[str, StepAccounts] = field(default_factory=dict)
    secrets: tuple[Secret, ...] = ()
    apps: Mapping[str, str] = field(default_factory=dict)
    proxied: Mapping[str, ProxyAccess] = field(default_factory=dict)

    def of(self, step: str) -> StepAccounts:
        """The accounts of *step*."""
        return self.steps.get(step, StepAccounts())


def resolve_accounts(
    bindings: Bindings, *, directory: Directory, external_user_id: str | None, environment: Environment
) -> Resolution:
    """
    Find the account of every app prop.

    Raises:
        EndUserError: One of the four documented errors, the first in their order.
        RequestError: A step names an account of your own that the project does not have.
    """
    needing = _apps_of_external_user(bindings)
    found = _external_accounts(needing, directory, external_user_id, environment) if needing else {}
    own = _own_accounts(bindings, directory)
    return _hand_out(bindings, {**found, **own}, directory)


def _apps_of_external_user(bindings: Bindings) -> dict[str, list[str]]:
    needing: dict[str, list[str]] = defaultdict(list)
    for step, apps in bindings.items():
        for binding in apps:
            if binding.account is None and step not in needing[binding.app]:
                needing[binding.app].append(step)
    return dict(needing)


def _external_accounts(
    needing: Mapping[str, Sequence[str]],
    directory: Directory,
    external_user_id: str | None,
    environment: Environment,
) -> dict[tuple[str, str | None], Account]:
    steps = ", ".join(dict.fromkeys(step for names in needing.values() for step in names))
    if external_user_id is None:
        raise ExternalUserRequiredError(
            "No external user ID passed, but one or more steps require it",
            fix=f"Steps that use the external user's account: {steps}. Pick one with %pduser, pass --external-user ID, "
            "or send the header x-pd-external-user-id.",
            external_user_id=None,
            environment=environment,
        )
    if directory.find_user(external_user_id, environment) is None:
        raise _user_not_found(needing, directory, external_user_id, environment)
    found: dict[tuple[str, str | None], Account] = {}
    missing: list[str] = []
    for app in needing:
        account = directory.newest_account(external_user_id, environment, app)
        if account is None:
            missing.append(app)
        else:
            found[app, None] = account
    if missing:
        raise AccountNotFoundError(
            f"Required account for {missing[0]} not found for external user ID {external_user_id} in {environment}",
            fix="\n".join(
                f"Step {' and '.join(needing[app])} needs it. Connect one with %pduser, or: "
                + connect_command(app, external_user_id, environment, directory)
                for app in missing
            ),
            external_user_id=external_user_id,
            environment=environment,
            app=missing[0],
            steps=tuple(needing[missing[0]]),
        )
    if environment == "production" and directory.plan == "free":
        raise ProductionPlanError(
            "Running workflows for your users in production requires a higher tier plan",
            fix="This project rehearses the free plan. Use development, or: pdkernel project set plan business",
            external_user_id=external_user_id,
            environment=environment,
        )
    return found


def _user_not_found(
    needing: Mapping[str, Sequence[str]], directory: Directory, external_user_id: str, environment: Environment
) -> ExternalUserNotFoundError:
    users = [user.external_id for user in directory.users(environment)]
    listed = ", ".join(users[:10]) + (f" and {len(users) - 10} more" if len(users) > 10 else "")
    known = f"External users in {environment}: {listed}." if users else f"{environment} has no external users yet."
    other: Environment = "production" if environment == "development" else "development"
    elsewhere = directory.find_user(external_user_id, other) is not None
    hint = f" {external_user_id!r} exists in {other}." if elsewhere else ""
    app = next(iter(needing))
    return ExternalUserNotFoundError(
        f"No matching external user ID: {external_user_id} in {environment}",
        fix=f"{known}{hint} A user exists once their first account is connected: with %pduser, or "
        + connect_command(app, external_user_id, environment, directory),
        external_user_id=external_user_id,
        environment=environment,
    )


def connect_command(app: str, external_user_id: str, environment: Environment, directory: Directory) -> str:
    """The command that connects an account of *app*; it asks for the credentials, so none stands in it."""
    where = "" if environment == "development" else f" --environment {environment}"
    user = shlex.quote(external_user_id)
    return f"pdkernel accounts add --external-user {user} --app {app}{where}{_credentials(app, directory)}"


def own_account_command(binding: AppBinding, directory: Directory) -> str:
    """The command that adds the account of one's own that *binding* names; it asks for the credentials."""
    return (
        f"pdkernel accounts add --own --app {binding.app} --id {binding.account}{_credentials(binding.app, directory)}"
    )


def _credentials(app: str, directory: Directory) -> str:
    fields = directory.known_fields(app) or ("api_key",)
    # an account with a token has other fields, too, which most steps do without
    return "".join(f" --credential {name}" for name in (fields[:1] if fields[0] == "oauth_access_token" else fields))


def _own_accounts(bindings: Bindings, directory: Directory) -> dict[tuple[str, str | None], Account]:
    own: dict[tuple[str, str | None], Account] = {}
    for step, apps in bindings.items():
        for binding in apps:
            if binding.account is None:
                continue
            account = directory.find_account(binding.account)
            if account is None:
                raise RequestError(
                    f"Step {step!r} uses your own {binding.app} account {binding.account}, which this project does not have.",
                    fix=f"Add it: {own_account_command(binding, directory)}",
                )
            if account.external_user_id is not None:
                raise RequestError(
                    f"Step {step!r} names the account {binding.account} as your own, but it belongs to an external user.",
                    fix=f"Write --app {binding.app} to use the external user's account.",
                )
            if account.app != binding.app:
                raise RequestError(
                    f"Step {step!r} asks for a {binding.app} account, and {binding.account} is a {account.app} account."
                )
            own[binding.app, binding.account] = account
    return own


def account_secrets(account: Account, credentials: Mapping[str, str]) -> list[Secret]:
    """What is secret of *account*: each credential, and secret fields inside one that is a JSON object."""
    return [
        Secret(credential_ref(account, name) + part, text)
        for name, value in credentials.items()
        for part, text in (("", value), *_secret_fields(value))
    ]


def refused_accounts(execution: Execution) -> frozenset[str]:
    """The accounts whose app answered 401 to a call of a step that carried them."""
    return frozenset(
        use.id
        for step in execution.steps
        for call in step.requests
        for use in step.accounts
        if call.status == HTTPStatus.UNAUTHORIZED and call.outcome == "sent" and call.app == use.app
    )


def _secret_fields(value: str) -> Iterator[tuple[str, str]]:
    """Secret fields inside a credential that is a JSON object, such as a service account's key file."""
    if not value.lstrip().startswith("{"):
        return
    try:
        fields = json.loads(value)
    except ValueError:
        return
    for name, field_value in fields.items():
        if isinstance(field_value, str) and _TELLING.search(name):
            yield f".{name}", field_value


def _hand_out(
    bindings: Bindings, accounts: Mapping[tuple[str, str | None], Account], directory: Directory
) -> Resolution:
    credentials: dict[str, Credentials] = {}
    proxied: dict[str, ProxyAccess] = {}
    for account in {account.id: account for account in accounts.values()}.values():
        credentials[account.id], refs = fill(account, directory.credentials(account.id))
        proxied.update(refs)
    secrets: list[Secret] = []
    apps: dict[str, str] = {}
    for account in {account.id: account for account in accounts.values()}.values():
        for secret in account_secrets(account, credentials[account.id]):
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
    return Resolution(steps, tuple(secrets), apps, proxied)

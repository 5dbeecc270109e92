"""
The account lookup: the account of each app prop, or the end-user error in the platform's words.

The order of the checks is: header, user, account per app, plan; then accounts of the author. Runs, `doctor`, the matrix
and "what if" all use this lookup, on a snapshot of the directory in which each fact is read once. The lookup does not read
credentials and does not run code.
"""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from pdkernel.common.clock import format_iso
from pdkernel.common.identity import ACCESS_TOKEN_FIELD, Account, Directory, Environment, FoundUser, Plan
from pdkernel.common.lookup import MAX_CANDIDATES, AccountCandidate, AppLookup, Lookup, LookupFailure, LookupStage
from pdkernel.errors import (
    AccountNotFoundError,
    EndUserError,
    ExternalUserNotFoundError,
    ExternalUserRequiredError,
    ProductionPlanError,
    RequestError,
    did_you_mean,
)
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
        """Return a sentence that names the external users of the environment, after those with ids near the *unknown* id."""
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


Interface = Literal["terminal", "notebook", "python", "http"]
"""The interface that starts a run; the fix of an error names what the caller writes there."""
_PASS_USER: Mapping[Interface, str] = {
    "terminal": "Pass --external-user ID.",
    "notebook": "Select a user with %pduser.",
    "python": "Pass external_user=ID.",
    "http": "Send the header x-pd-external-user-id.",
}
BindingsByStep = Mapping[str, tuple[AppBinding, ...]]
"""App props by step name, from the step's directive and its code."""


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """
    The external user of a run.

    Attributes:
        external_user_id: The external user, or None.
        environment: The external user's environment.
        header: The value of `x-pd-external-user-id`, or None.
        environment_header: The value of `x-pd-environment`, or None.
        interface: The interface that starts the run.
    """

    external_user_id: str | None
    environment: Environment
    header: str | None = None
    environment_header: str | None = None
    interface: Interface = "terminal"


@dataclass(frozen=True)
class LookupResult:
    """
    The result of a lookup.

    Attributes:
        lookup: The record of the lookup, or None if no step uses an external user's account.
        accounts: Accounts by app and by the account id that the step names (None: the external user's); incomplete if
            there is an error.
        error: The error that refuses the run, or None.
    """

    lookup: Lookup | None = None
    accounts: Mapping[tuple[str, str | None], Account] = field(default_factory=dict)
    error: RequestError | None = None


def look_up_accounts(bindings: BindingsByStep, identity: RunIdentity, snapshot: DirectorySnapshot) -> LookupResult:
    """Find the account of every app prop of *bindings* for *identity*."""
    needing = steps_by_external_user_app(bindings)
    if not needing:
        own, refusal = _own_accounts(bindings, snapshot)
        return LookupResult(None, own, refusal)
    link, error = _first_failure(needing, identity, snapshot)
    lookup = _build_lookup(needing, identity, snapshot, link, error)
    if error is not None:
        return LookupResult(lookup, {}, error)
    user = identity.external_user_id or ""
    own, refusal = _own_accounts(bindings, snapshot)
    own.update({(app, None): snapshot.accounts(user, app)[0] for app in needing})
    return LookupResult(lookup, own, refusal)


def steps_by_external_user_app(bindings: BindingsByStep) -> dict[str, list[str]]:
    """Return the steps that use the external user's account, by app."""
    needing: dict[str, list[str]] = defaultdict(list)
    for step, apps in bindings.items():
        for binding in apps:
            if binding.account is None and step not in needing[binding.app]:
                needing[binding.app].append(step)
    return dict(needing)


def _first_failure(
    needing: Mapping[str, Sequence[str]], identity: RunIdentity, snapshot: DirectorySnapshot
) -> tuple[LookupStage | None, EndUserError | None]:
    user = identity.external_user_id
    if user is None:
        steps = ", ".join(dict.fromkeys(step for names in needing.values() for step in names))
        return "header", user_required_error(
            f"Steps that use the external user's account: {steps}.", identity.interface
        )
    form = "with %pduser, or: " if identity.interface == "notebook" else ""
    if not snapshot.has_user(user):
        return "user", _user_not_found(needing, user, snapshot, form)
    missing = [app for app in needing if not snapshot.accounts(user, app)]
    if missing:
        return "account", _account_not_found(needing, missing, user, snapshot, form)
    if snapshot.environment == "production" and snapshot.plan == "free":
        return "plan", ProductionPlanError(
            "Running workflows for your users in production requires a higher tier plan",
            fix="This project simulates the free plan. Use development, or: pdkernel project set plan business",
        )
    return None, None


def _build_lookup(
    needing: Mapping[str, Sequence[str]],
    identity: RunIdentity,
    snapshot: DirectorySnapshot,
    link: LookupStage | None,
    error: EndUserError | None,
) -> Lookup:
    user = identity.external_user_id
    known = user is not None and link not in ("header", "user")
    apps = []
    for app, steps in needing.items():
        candidates = snapshot.candidates(user, app) if user is not None and known else ()
        apps.append(AppLookup(app, tuple(steps), candidates, candidates[0].id if candidates else None))
    failed = LookupFailure(link, error.code, error.message, error.fix) if link and error else None
    return Lookup(
        external_user=user,
        environment=identity.environment,
        header=identity.header,
        environment_header=identity.environment_header,
        user_exists=None if user is None else known,
        apps=tuple(apps),
        plan=snapshot.plan if snapshot.environment == "production" else None,
        failed=failed,
    )


def user_required_error(reason: str, interface: Interface) -> EndUserError:
    """Return the error of a run without an external user; *reason* is a sentence about the steps that require one."""
    return ExternalUserRequiredError(
        "No external user ID passed, but one or more steps require it", fix=f"{reason} {_PASS_USER[interface]}"
    )


def _user_not_found(
    needing: Mapping[str, Sequence[str]], user: str, snapshot: DirectorySnapshot, form: str
) -> EndUserError:
    hint = f" {user!r} exists in {snapshot.other_environment}." if snapshot.has_user_in_other_environment(user) else ""
    return ExternalUserNotFoundError(
        f"No matching external user ID: {user} in {snapshot.environment}",
        fix=f"{snapshot.describe_known_users(user)}{hint} A user exists once their first account is connected: {form}"
        + snapshot.format_connect_command(next(iter(needing)), user),
    )


def _account_not_found(
    needing: Mapping[str, Sequence[str]], missing: Sequence[str], user: str, snapshot: DirectorySnapshot, form: str
) -> EndUserError:
    return AccountNotFoundError(
        f"Required account for {missing[0]} not found for external user ID {user} in {snapshot.environment}",
        fix="\n".join(
            f"Required by {' and '.join(needing[app])}. Connect an account{f' {form}' if form else ': '}"
            + snapshot.format_connect_command(app, user)
            for app in missing
        ),
    )


def _own_accounts(
    bindings: BindingsByStep, snapshot: DirectorySnapshot
) -> tuple[dict[tuple[str, str | None], Account], RequestError | None]:
    """Return the author's accounts that steps name, up to the first unusable account, and the error for that account."""
    own: dict[tuple[str, str | None], Account] = {}
    for step, apps in bindings.items():
        for binding in apps:
            if binding.account is None:
                continue
            account = snapshot.find_account(binding.account)
            refusal = _own_refusal(step, binding, account, snapshot)
            if account is None or refusal is not None:
                return own, refusal
            own[binding.app, binding.account] = account
    return own, None


def _own_refusal(
    step: str, binding: AppBinding, account: Account | None, snapshot: DirectorySnapshot
) -> RequestError | None:
    if account is None:
        return RequestError(
            f"Step {step!r} uses your own {binding.app} account {binding.account}, which this project does not have.",
            fix=f"Add it: {snapshot.format_own_account_command(binding)}",
        )
    if account.external_user_id is not None:
        return RequestError(
            f"Step {step!r} names the account {binding.account} as your own, but it belongs to an external user.",
            fix=f"Write --app {binding.app} to use the external user's account.",
        )
    if account.app != binding.app:
        return RequestError(
            f"Step {step!r} needs a {binding.app} account, and {binding.account} is a {account.app} account.",
            fix=f"Write --app {account.app}={binding.account}, or name a {binding.app} account.",
        )
    return None

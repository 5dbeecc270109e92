"""
The account look-up: whose account each app prop gets, or which error says why it gets none.

Knows the order of the checks (header, user, account per app, plan; then accounts of your own) and the platform's
wording. This is the only place that walks the chain: runs, `doctor`, the matrix and "what if" all ask here. Reads a
directory, never a credential, and runs no code.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pdkernel.engine.directory_snapshot import DirectorySnapshot
from pdkernel.errors import (
    AccountNotFoundError,
    EndUserError,
    ExternalUserNotFoundError,
    ExternalUserRequiredError,
    ProductionPlanError,
    RequestError,
)
from pdkernel.identity import Account, Environment
from pdkernel.lookup import AppLookup, Lookup, LookupFailure, LookupStage
from pdkernel.model import AppBinding

BindingsByStep = Mapping[str, tuple[AppBinding, ...]]
"""Step name to the app props that it has, from its directive and its code."""


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """
    Whom steps run for.

    Attributes:
        external_user_id: The external user, or None.
        environment: Theirs.
        header: What `x-pd-external-user-id` said, or None.
        environment_header: What `x-pd-environment` said, or None.
    """

    external_user_id: str | None
    environment: Environment
    header: str | None = None
    environment_header: str | None = None


@dataclass(frozen=True)
class LookupResult:
    """
    What a look-up came to.

    Attributes:
        lookup: The chain, or None where no step uses an external user's account.
        accounts: By app and by the account that the step names (None: the external user's); all of them, or fewer
            if there is an error.
        error: The error that a run ends with before any step, or None.
    """

    lookup: Lookup | None = None
    accounts: Mapping[tuple[str, str | None], Account] = field(default_factory=dict)
    error: RequestError | None = None


def look_up_accounts(bindings: BindingsByStep, identity: RunIdentity, snapshot: DirectorySnapshot) -> LookupResult:
    """Find the account of every app prop of *bindings* for *identity*, in the order of a run's checks."""
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
    """Apps of which steps use the external user's account, and those steps."""
    needing: dict[str, list[str]] = defaultdict(list)
    for step, apps in bindings.items():
        for binding in apps:
            if binding.account is None and step not in needing[binding.app]:
                needing[binding.app].append(step)
    return dict(needing)


def _first_failure(
    needing: Mapping[str, Sequence[str]], caller: RunIdentity, facts: DirectorySnapshot
) -> tuple[LookupStage | None, EndUserError | None]:
    user = caller.external_user_id
    if user is None:
        return "header", _user_required(needing, caller)
    if not facts.has_user(user):
        return "user", _user_not_found(needing, user, facts)
    missing = [app for app in needing if not facts.accounts(user, app)]
    if missing:
        return "account", _account_not_found(needing, missing, user, facts)
    if facts.environment == "production" and facts.plan == "free":
        return "plan", ProductionPlanError(
            "Running workflows for your users in production requires a higher tier plan",
            fix="This project rehearses the free plan. Use development, or: pdkernel project set plan business",
            external_user_id=user,
            environment=facts.environment,
        )
    return None, None


def _build_lookup(
    needing: Mapping[str, Sequence[str]],
    caller: RunIdentity,
    facts: DirectorySnapshot,
    link: LookupStage | None,
    error: EndUserError | None,
) -> Lookup:
    user = caller.external_user_id
    known = user is not None and link not in ("header", "user")
    apps = []
    for app, steps in needing.items():
        candidates = facts.candidates(user, app) if user is not None and known else ()
        apps.append(AppLookup(app, tuple(steps), candidates, candidates[0].id if candidates else None))
    failed = LookupFailure(link, error.code, error.message, error.fix) if link and error else None
    return Lookup(
        external_user=user,
        environment=caller.environment,
        header=caller.header,
        environment_header=caller.environment_header,
        user_exists=None if user is None else known,
        apps=tuple(apps),
        plan=facts.plan if facts.environment == "production" else None,
        failed=failed,
    )


def _user_required(needing: Mapping[str, Sequence[str]], caller: RunIdentity) -> EndUserError:
    steps = ", ".join(dict.fromkeys(step for names in needing.values() for step in names))
    return ExternalUserRequiredError(
        "No external user ID passed, but one or more steps require it",
        fix=f"Steps that use the external user's account: {steps}. Pick one with %pduser, pass --external-user ID, "
        "or send the header x-pd-external-user-id.",
        external_user_id=None,
        environment=caller.environment,
    )


def _user_not_found(needing: Mapping[str, Sequence[str]], user: str, facts: DirectorySnapshot) -> EndUserError:
    hint = f" {user!r} exists in {facts.other_environment}." if facts.has_user_in_other_environment(user) else ""
    return ExternalUserNotFoundError(
        f"No matching external user ID: {user} in {facts.environment}",
        fix=f"{facts.describe_known_users}{hint} A user exists once their first account is connected: with %pduser, or "
        + facts.format_connect_command(next(iter(needing)), user),
        external_user_id=user,
        environment=facts.environment,
    )


def _account_not_found(
    needing: Mapping[str, Sequence[str]], missing: Sequence[str], user: str, facts: DirectorySnapshot
) -> EndUserError:
    return AccountNotFoundError(
        f"Required account for {missing[0]} not found for external user ID {user} in {facts.environment}",
        fix="\n".join(
            f"Step {' and '.join(needing[app])} needs it. Connect one with %pduser, or: "
            + facts.format_connect_command(app, user)
            for app in missing
        ),
        external_user_id=user,
        environment=facts.environment,
        app=missing[0],
        steps=tuple(needing[missing[0]]),
    )


def _own_accounts(
    bindings: BindingsByStep, facts: DirectorySnapshot
) -> tuple[dict[tuple[str, str | None], Account], RequestError | None]:
    """The accounts of your own that steps name, up to the first that cannot be used, and why it cannot."""
    own: dict[tuple[str, str | None], Account] = {}
    for step, apps in bindings.items():
        for binding in apps:
            if binding.account is None:
                continue
            account = facts.find_account(binding.account)
            refusal = _own_refusal(step, binding, account, facts)
            if account is None or refusal is not None:
                return own, refusal
            own[binding.app, binding.account] = account
    return own, None


def _own_refusal(
    step: str, binding: AppBinding, account: Account | None, facts: DirectorySnapshot
) -> RequestError | None:
    if account is None:
        return RequestError(
            f"Step {step!r} uses your own {binding.app} account {binding.account}, which this project does not have.",
            fix=f"Add it: {facts.format_own_account_command(binding)}",
        )
    if account.external_user_id is not None:
        return RequestError(
            f"Step {step!r} names the account {binding.account} as your own, but it belongs to an external user.",
            fix=f"Write --app {binding.app} to use the external user's account.",
        )
    if account.app != binding.app:
        return RequestError(
            f"Step {step!r} asks for a {binding.app} account, and {binding.account} is a {account.app} account."
        )
    return None

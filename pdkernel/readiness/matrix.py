"""
The readiness of each step for each external user: the account lookup of a run, for all users and steps.

Finds app props without running code, and loads the accounts of all users from the directory at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pdkernel.actions import Catalog
from pdkernel.analysis import UNKNOWN_APP
from pdkernel.engine.account_lookup import (
    BindingsByStep,
    LookupResult,
    RunIdentity,
    look_up_accounts,
    steps_by_external_user_app,
)
from pdkernel.engine.directory_snapshot import DirectorySnapshot
from pdkernel.identity import Directory, Environment, FoundUser, fold_text
from pdkernel.lookup import Lookup
from pdkernel.model import Workflow
from pdkernel.render.matrix import MatrixCell, MatrixRow, ReadinessMatrix

ALL_USERS = 10**9
"""A limit that no search reaches."""


def build_matrix(
    workflow: Workflow,
    *,
    directory: Directory,
    catalog: Catalog,
    environment: Environment,
    users: Sequence[str] = (),
    test_users: Sequence[str] = (),
    search: str = "",
) -> ReadinessMatrix:
    """
    Build the readiness of each step, and of the whole workflow, for each user.

    Args:
        workflow: The workflow; disabled steps are left out.
        directory: Users and accounts of the project; the number of requests does not depend on the number of users.
        catalog: Pre-built actions of the project.
        environment: Environment of the users.
        users: External users; default: *test_users* and all users of the environment.
        test_users: The workflow's test users, which may not exist in the environment.
        search: Only users whose id, or the name of one of whose accounts, contains this text.

    Returns:
        A row for each user; without users, a row for a caller without an external user.
    """
    bindings = collect_app_bindings(workflow, catalog)
    found: Sequence[FoundUser] = ()
    chosen: Sequence[str] = users
    if search and not users:
        found = directory.search_users(environment, search, limit=ALL_USERS).users
        named = [user for user in test_users if fold_text(search) in fold_text(user)]
        chosen = (*named, *(each.external_id for each in found))
    elif not users:
        existing = directory.users(environment)
        found = [FoundUser(each, each.created_at, accounts=None) for each in existing]
        chosen = (*test_users, *(each.external_id for each in existing))
    chosen = list(dict.fromkeys(chosen))
    snapshot = DirectorySnapshot(directory, environment, chosen, steps_by_external_user_app(bindings), found=found)
    callers: Sequence[str | None] = chosen or ([] if search else [None])
    rows = [_row(bindings, RunIdentity(user, environment), snapshot) for user in callers]
    return ReadinessMatrix(workflow.name, environment, tuple(bindings), tuple(rows))


def check_found_users(
    workflow: Workflow,
    found: Sequence[FoundUser],
    *,
    directory: Directory,
    catalog: Catalog,
    environment: Environment,
) -> Mapping[str, MatrixCell]:
    """
    Check whether the whole *workflow* could run for users of a search; those whose accounts are not known are left out.

    Accounts of external users are not read again, so a cell does not show whether Connect withholds credentials.
    """
    bindings = collect_app_bindings(workflow, catalog)
    known = [each for each in found if each.accounts is not None]
    snapshot = DirectorySnapshot(directory, environment, (), (), found=known)
    callers = [RunIdentity(each.external_id, environment) for each in known]
    return {
        each.external_id: _cell("", look_up_accounts(bindings, caller, snapshot))
        for each, caller in zip(known, callers, strict=True)
    }


def preview_lookup(
    workflow: Workflow,
    *,
    directory: Directory,
    catalog: Catalog,
    environment: Environment,
    external_user_id: str | None,
) -> LookupResult:
    """
    How the accounts of *workflow* would be looked up for a caller who sends both headers.

    The `lookup` of the answer is None where no step uses an external user's account.
    """
    bindings = collect_app_bindings(workflow, catalog)
    users = () if external_user_id is None else (external_user_id,)
    snapshot = DirectorySnapshot(directory, environment, users, steps_by_external_user_app(bindings))
    as_sent = RunIdentity(external_user_id, environment, header=external_user_id, environment_header=environment)
    return look_up_accounts(bindings, as_sent, snapshot)


def collect_app_bindings(workflow: Workflow, catalog: Catalog) -> BindingsByStep:
    """Find the app props of each enabled step without running code; those of an unknown app are left out."""
    return {
        step.name: tuple(each for each in catalog.find_app_bindings(step) if each.app != UNKNOWN_APP)
        for step in workflow.steps
        if not step.disabled
    }


def _row(bindings: BindingsByStep, caller: RunIdentity, snapshot: DirectorySnapshot) -> MatrixRow:
    workflow_cell = _cell("", look_up_accounts(bindings, caller, snapshot))
    cells = tuple(_cell(step, look_up_accounts({step: apps}, caller, snapshot)) for step, apps in bindings.items())
    return MatrixRow(caller.external_user_id, workflow_cell, cells)


def _cell(step: str, found: LookupResult) -> MatrixCell:
    if found.error is not None:
        message, fix = found.error.message, found.error.fix
        return MatrixCell(
            step, "error", apps=_missing_apps(found.lookup), code=found.error.code, message=message, fix=fix
        )
    accounts = {account.id: account for account in found.accounts.values()}
    withheld = any(account.withheld for account in accounts.values())
    unhealthy = tuple(account.id for account in accounts.values() if not account.healthy)
    return MatrixCell(step, "proxy" if withheld else "ready", accounts=tuple(accounts), unhealthy=unhealthy)


def _missing_apps(lookup: Lookup | None) -> tuple[str, ...]:
    return tuple(app.app for app in lookup.apps if app.chosen is None) if lookup else ()

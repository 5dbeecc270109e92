"""
The readiness of each step for each external user: the account lookup of a run, for all users and steps.

Finds app props without running code, and loads the accounts of all users from the directory at once.
"""

from __future__ import annotations

from collections.abc import Sequence

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
from pdkernel.identity import Directory, Environment
from pdkernel.lookup import Lookup
from pdkernel.model import Workflow
from pdkernel.render.matrix import MatrixCell, MatrixRow, ReadinessMatrix

MAX_MATRIX_USERS = 100
"""Maximum number of external users in a matrix without named users."""


def build_matrix(
    workflow: Workflow,
    *,
    directory: Directory,
    catalog: Catalog,
    environment: Environment,
    users: Sequence[str] = (),
    test_users: Sequence[str] = (),
) -> ReadinessMatrix:
    """
    Build the readiness of each step, and of the whole workflow, for each user.

    Args:
        workflow: The workflow; disabled steps are left out.
        directory: Users and accounts of the project.
        catalog: Pre-built actions of the project.
        environment: Environment of the users.
        users: External users; default: *test_users* and the environment's users, at most `MAX_MATRIX_USERS`.
        test_users: The workflow's test users, which may not exist in the environment.

    Returns:
        A row for each user; without users, a row for a caller without an external user.
    """
    bindings = collect_app_bindings(workflow, catalog)
    known = users or _list_matrix_users(directory, environment, test_users)
    chosen: list[str] = list(dict.fromkeys(known))[: None if users else MAX_MATRIX_USERS]
    snapshot = DirectorySnapshot(directory, environment, chosen, steps_by_external_user_app(bindings))
    callers: Sequence[str | None] = chosen or [None]
    rows = [_row(bindings, RunIdentity(user, environment), snapshot) for user in callers]
    return ReadinessMatrix(
        workflow.name,
        environment,
        tuple(bindings),
        tuple(rows),
        has_more_users=not users and len(known) > MAX_MATRIX_USERS,
    )


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


def _list_matrix_users(directory: Directory, environment: Environment, test_users: Sequence[str]) -> list[str]:
    """The workflow's test users and the environment's users; at most one more than a matrix has."""
    existing = [user.external_id for user in directory.users(environment, limit=MAX_MATRIX_USERS + 1)]
    return list(dict.fromkeys((*test_users, *existing)))


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

"""
Which external users could run which steps: the look-up of a run, made for everybody and every step.

Knows a workflow's app props as they are known without running code, and asks the directory once for all users' accounts.
"""

from __future__ import annotations

from collections.abc import Sequence

from pdkernel.actions import Catalog
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
"""External users in a matrix that names none."""


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
    What a run of each step, and of the whole workflow, would come to for each user.

    Args:
        workflow: Whose steps; those that are disabled are left out.
        directory: Users and accounts of the project.
        catalog: Its pre-built actions.
        environment: Of the users.
        users: External users; none means *test_users* and those that the environment has, `MAX_USERS` at most.
        test_users: The workflow's own, whom the environment may not have yet.

    Returns:
        A row for each user; where there are no users, one for a caller that names nobody.
    """
    bindings = collect_app_bindings(workflow, catalog)
    known = users or _list_matrix_users(directory, environment, test_users)
    chosen: list[str] = list(dict.fromkeys(known))[: None if users else MAX_MATRIX_USERS]
    facts = DirectorySnapshot(directory, environment, chosen, steps_by_external_user_app(bindings))
    callers: Sequence[str | None] = chosen or [None]
    rows = [_row(bindings, RunIdentity(user, environment), facts) for user in callers]
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
    facts = DirectorySnapshot(directory, environment, users, steps_by_external_user_app(bindings))
    as_sent = RunIdentity(external_user_id, environment, header=external_user_id, environment_header=environment)
    return look_up_accounts(bindings, as_sent, facts)


def collect_app_bindings(workflow: Workflow, catalog: Catalog) -> BindingsByStep:
    """The app props of each step that is not disabled, as they are known without running code."""
    return {step.name: catalog.find_app_bindings(step) for step in workflow.steps if not step.disabled}


def _list_matrix_users(directory: Directory, environment: Environment, test_users: Sequence[str]) -> list[str]:
    """The workflow's test users, then the environment's, one more at most than a matrix has."""
    theirs = [user.external_id for user in directory.users(environment, limit=MAX_MATRIX_USERS + 1)]
    return list(dict.fromkeys((*test_users, *theirs)))


def _row(bindings: BindingsByStep, caller: RunIdentity, facts: DirectorySnapshot) -> MatrixRow:
    whole = _cell("", look_up_accounts(bindings, caller, facts))
    cells = tuple(_cell(step, look_up_accounts({step: apps}, caller, facts)) for step, apps in bindings.items())
    return MatrixRow(caller.external_user_id, whole, cells)


def _cell(step: str, found: LookupResult) -> MatrixCell:
    if found.error is not None:
        message, fix = found.error.message, found.error.fix
        return MatrixCell(
            step, "error", apps=_missing_apps(found.lookup), code=found.error.code, message=message, fix=fix
        )
    accounts = {account.id: account for account in found.accounts.values()}
    withheld = any(account.withheld for account in accounts.values())
    tired = tuple(account.id for account in accounts.values() if not account.healthy)
    return MatrixCell(step, "proxy" if withheld else "ready", accounts=tuple(accounts), unhealthy=tired)


def _missing_apps(lookup: Lookup | None) -> tuple[str, ...]:
    return tuple(app.app for app in lookup.apps if app.chosen is None) if lookup else ()

"""The search for external users, with the marks of each: ready, missing an account, failed today."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import datetime

from pdkernel.actions import Catalog
from pdkernel.blocking import run_blocking
from pdkernel.clock import Clock, format_iso
from pdkernel.engine.journal import FailedRun, open_journal_reader
from pdkernel.identity import MAX_FOUND_USERS, Directory, Environment, FoundUser, UserSearchResult
from pdkernel.model import Workflow
from pdkernel.project import Project
from pdkernel.readiness import check_found_users
from pdkernel.render.matrix import MatrixCell
from pdkernel.render.users import UserEntry, UserFailure, UserList


async def search_users(
    project: Project,
    directory: Directory,
    *,
    environment: Environment,
    text: str = "",
    limit: int = MAX_FOUND_USERS,
    workflow: Workflow | None = None,
    catalog: Catalog | None = None,
    report: Callable[[UserList], None] | None = None,
) -> UserList:
    """
    Search the external users whose id, or the name of one of whose accounts, contains *text*; most recently active first.

    Args:
        project: The local project, with the recorded runs.
        directory: Users and accounts.
        environment: The users' environment.
        text: The text, in which case does not count; empty for every user.
        limit: The most users to return.
        workflow: The workflow whose accounts the marks are about; None for no such mark.
        catalog: Pre-built actions of the project; required with *workflow*.
        report: Receives lists that are not complete yet, in another thread.

    Raises:
        PdkernelError: The project or Pipedream cannot be read.
    """
    with closing(await run_blocking(open_journal_reader, project)) as reader:
        last_runs = await reader.last_runs(environment)

        def report_incomplete(found: UserSearchResult) -> None:
            if report is not None:
                report(_build_list(found, text, environment, {}, {}))

        found = await run_blocking(
            lambda: directory.search_users(
                environment, text, limit=limit, last_runs=last_runs, report=report and report_incomplete
            )
        )
        users = [each.external_id for each in found.users]
        failures = await reader.newest_failures(users, environment, since=start_of_today(project.clock))
    cells: Mapping[str, MatrixCell] = {}
    if workflow is not None and catalog is not None:
        checked, known = workflow, catalog
        cells = await run_blocking(
            lambda: check_found_users(checked, found.users, directory=directory, catalog=known, environment=environment)
        )
    return _build_list(found, text, environment, failures, cells)


def start_of_today(clock: Clock) -> datetime:
    """The last midnight of this machine's time zone."""
    return clock.now().astimezone().replace(hour=0, minute=0, second=0, microsecond=0)


def _build_list(
    found: UserSearchResult,
    text: str,
    environment: Environment,
    failures: Mapping[str, FailedRun],
    cells: Mapping[str, MatrixCell],
) -> UserList:
    entries = (_build_entry(each, failures.get(each.external_id), cells.get(each.external_id)) for each in found.users)
    return UserList(tuple(entries), text.strip(), environment, found.more, found.progress)


def _build_entry(found: FoundUser, failure: FailedRun | None, cell: MatrixCell | None) -> UserEntry:
    accounts = found.accounts or ()
    return UserEntry(
        external_user_id=found.external_id,
        environment=found.user.environment,
        created_at=format_iso(found.user.created_at),
        active_at=format_iso(found.active_at),
        apps=None if found.accounts is None else tuple(dict.fromkeys(each.app for each in accounts)),
        names=tuple(dict.fromkeys(each.name for each in accounts if each.name and each.name != found.external_id)),
        accounts=len(accounts),
        readiness=cell,
        failure=None if failure is None else UserFailure(failure.id, failure.workflow, format_iso(failure.started_at)),
    )

"""
The page of external users: their accounts without credentials, the readiness of each served workflow, and failures today.

The most recently active users come first; a search finds others by their id or by the name of an account.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from starlette.responses import Response

from pdkernel.common.blocking import run_blocking
from pdkernel.common.encode import JsonStruct
from pdkernel.common.identity import (
    DEFAULT_ENVIRONMENT,
    ENVIRONMENTS,
    MAX_FOUND_USERS,
    Account,
    Environment,
    FoundUser,
    UserSearchResult,
)
from pdkernel.journal import FailedRun
from pdkernel.operations.readiness import check_found_users
from pdkernel.operations.readiness.matrix import MatrixCell
from pdkernel.operations.users import start_of_today
from pdkernel.server.app_context import AppContext
from pdkernel.server.console import pages
from pdkernel.server.console.access import Visit, for_visitors
from pdkernel.server.console.live import journal_reader


class AccountLine(JsonStruct, frozen=True):
    """An account of an external user, without credentials."""

    id: str
    app: str
    name: str
    healthy: bool


class WorkflowReadiness(JsonStruct, frozen=True):
    """Whether a served workflow can run for a user."""

    workflow: str
    cell: MatrixCell

    def json_form(self) -> object:
        """Return the cell with the workflow's name."""
        return {"workflow": self.workflow, "readiness": self.cell.json_form()}


class UserLine(JsonStruct, frozen=True):
    """An external user with accounts, the readiness of each served workflow, and the id of the newest run that failed today."""

    external_user: str
    environment: str
    accounts: tuple[AccountLine, ...]
    workflows: tuple[WorkflowReadiness, ...]
    failed_run: str | None = None

    def json_form(self) -> object:
        """Return the fields, with the JSON form of each workflow's readiness."""
        return {
            "external_user": self.external_user,
            "environment": self.environment,
            "accounts": self.accounts,
            "workflows": [each.json_form() for each in self.workflows],
            "failed_run": self.failed_run,
        }


@for_visitors("page")
async def users_page(visit: Visit) -> Response:
    """Answer GET `/-/users`: the external users of an environment that match `search`, or the user with that id."""
    given, context = visit.request.query_params, visit.state.context
    environment = next((each for each in ENVIRONMENTS if each == given.get("environment")), DEFAULT_ENVIRONMENT)
    user, search = given.get("external_user", "").strip(), given.get("search", "").strip()
    async with journal_reader(context) as reader:
        last_runs = await reader.last_runs(environment)
        # a real project asks Pipedream over the network
        found = await run_blocking(_find, context, environment, user, search, last_runs)
        names = [each.external_id for each in found.users]
        failures = await reader.newest_failures(names, environment, since=start_of_today(context.project.clock))
    lines = await run_blocking(_build_lines, context, environment, found.users, failures)
    if visit.wants_json:
        return pages.json_response([line.to_json() for line in lines])
    return visit.page(
        "users",
        users=lines,
        more=found.more,
        environment=environment,
        environments=ENVIRONMENTS,
        external_user=user,
        search=search or user,
    )


def _find(
    context: AppContext, environment: Environment, user: str, search: str, last_runs: Mapping[str, float]
) -> UserSearchResult:
    directory = context.directory
    if not user:
        return directory.search_users(environment, search, limit=MAX_FOUND_USERS, last_runs=last_runs)
    known = directory.find_user(user, environment)
    if known is None:
        return UserSearchResult(())
    accounts = directory.accounts(external_user_id=user, environment=environment)
    return UserSearchResult((FoundUser(known, known.created_at, tuple(accounts)),))


def _build_lines(
    context: AppContext, environment: Environment, users: Sequence[FoundUser], failures: Mapping[str, FailedRun]
) -> list[UserLine]:
    cells: dict[str, list[WorkflowReadiness]] = {each.external_id: [] for each in users}
    for served in context.workflows.list_workflows():
        workflow = served.source.workflow
        checked = check_found_users(
            workflow,
            users,
            directory=context.directory,
            catalog=context.engine.catalog,
            environment=environment,
        )
        for name, cell in checked.items():
            cells[name].append(WorkflowReadiness(workflow.name, cell))
    return [
        UserLine(
            each.external_id,
            environment,
            tuple(map(_account, each.accounts or ())),
            tuple(cells[each.external_id]),
            failures[each.external_id].id if each.external_id in failures else None,
        )
        for each in users
    ]


def _account(account: Account) -> AccountLine:
    return AccountLine(account.id, account.app, account.name, account.healthy)

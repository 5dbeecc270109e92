"""The page of external users: their accounts without credentials, and the readiness of each served workflow for each user."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.responses import Response

from pdkernel.blocking import run_blocking
from pdkernel.encode import JsonStruct
from pdkernel.identity import DEFAULT_ENVIRONMENT, ENVIRONMENTS, Account, Environment
from pdkernel.readiness import build_matrix
from pdkernel.render.matrix import MatrixCell
from pdkernel.server.app_context import AppContext
from pdkernel.server.console import pages
from pdkernel.server.console.access import Visit, for_visitors

MAX_USERS = 100
"""Users on a page; others are found by their id."""


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
        """The cell with the workflow's name."""
        return {"workflow": self.workflow, "readiness": self.cell.json_form()}


class UserLine(JsonStruct, frozen=True):
    """An external user with accounts, and the readiness of each served workflow."""

    external_user: str
    environment: str
    accounts: tuple[AccountLine, ...]
    workflows: tuple[WorkflowReadiness, ...]

    def json_form(self) -> object:
        """The fields, with the JSON form of each workflow's readiness."""
        return {
            "external_user": self.external_user,
            "environment": self.environment,
            "accounts": self.accounts,
            "workflows": [each.json_form() for each in self.workflows],
        }


@for_visitors("page")
async def users_page(visit: Visit) -> Response:
    """GET `/-/users`: the external users of an environment, or the user with the id `external_user`."""
    given = visit.request.query_params
    environment = next((each for each in ENVIRONMENTS if each == given.get("environment")), DEFAULT_ENVIRONMENT)
    user = given.get("external_user", "").strip()
    # a real project asks Pipedream over the network
    lines, has_more = await run_blocking(_load, visit.state.context, environment, user)
    if visit.wants_json:
        return pages.json_response([line.to_json() for line in lines])
    return visit.page(
        "users", users=lines, has_more=has_more, environment=environment, environments=ENVIRONMENTS, external_user=user
    )


def _load(context: AppContext, environment: Environment, user: str) -> tuple[list[UserLine], bool]:
    """The users, and whether there are more than a page shows."""
    directory, catalog = context.directory, context.engine.catalog
    if user:
        found = directory.find_user(user, environment)
        names = [] if found is None else [found.external_id]
    else:
        names = [each.external_id for each in directory.users(environment, limit=MAX_USERS + 1)]
    shown = names[:MAX_USERS]
    if not shown:
        return [], False
    cells: dict[str, list[WorkflowReadiness]] = {name: [] for name in shown}
    for served in context.workflows.list_workflows():
        workflow = served.source.workflow
        matrix = build_matrix(workflow, directory=directory, catalog=catalog, environment=environment, users=shown)
        for row in matrix.rows:
            assert row.external_user is not None
            cells[row.external_user].append(WorkflowReadiness(workflow.name, row.workflow_cell))
    lines = [
        UserLine(
            name,
            environment,
            _accounts(directory.accounts(external_user_id=name, environment=environment)),
            tuple(cells[name]),
        )
        for name in shown
    ]
    return lines, len(names) > MAX_USERS


def _accounts(accounts: Sequence[Account]) -> tuple[AccountLine, ...]:
    return tuple(AccountLine(each.id, each.app, each.name, each.healthy) for each in accounts)

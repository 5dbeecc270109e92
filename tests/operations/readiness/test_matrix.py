"""The readiness matrix, compared with a hand-written table, with real runs and with calls of endpoints."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pdkernel.accounts import LocalDirectory
from pdkernel.actions import Catalog
from pdkernel.common.identity import Account, Directory, Environment, Plan
from pdkernel.egress import parse_policy
from pdkernel.engine.run_request import RunRequest, TestOptions
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.execution import Execution
from pdkernel.model import Step, Workflow
from pdkernel.operations.readiness import build_matrix, check_found_users, preview_lookup
from pdkernel.operations.readiness.matrix import MatrixCell, ReadinessMatrix
from pdkernel.storage import Project
from tests.builders import a_workflow, an_event, go_step, node_step, python_step
from tests.engine.conftest import Run
from tests.server.site import Site, site_of

Connect = Callable[..., str]
Settle = Callable[[RunRequest], Execution]
DENY = parse_policy("deny")

NONE, SLACK, GITHUB, BOTH = (), ("slack",), ("github",), ("slack", "github")

TABLE: list[tuple[str, tuple[str, ...], Environment, Plan, str | None, str | None, str | None]] = [
    # who, accounts in development, environment, plan: the step with slack, the step with github, the workflow
    ("stranger", NONE, "development", "business", *3 * ("external_user_not_found",)),
    ("elsewhere", BOTH, "production", "business", *3 * ("external_user_not_found",)),
    ("elsewhere", BOTH, "production", "free", *3 * ("external_user_not_found",)),
    ("slack-only", SLACK, "development", "business", None, "account_not_found", "account_not_found"),
    ("github-only", GITHUB, "development", "business", "account_not_found", None, "account_not_found"),
    ("both", BOTH, "development", "business", None, None, None),
    ("both", BOTH, "development", "free", None, None, None),
]


@pytest.mark.parametrize(("user", "apps", "environment", "plan", "slack", "github", "whole"), TABLE)
def test_a_cell_has_the_error_of_the_table(
    project: Project,
    connect: Connect,
    user: str,
    apps: tuple[str, ...],
    environment: Environment,
    plan: Plan,
    slack: str | None,
    github: str | None,
    whole: str | None,
) -> None:
    """User, accounts, environment and plan decide in this order; a step by its own apps, the workflow by all apps."""
    for app in apps:
        connect(user, app=app)
    project.set_plan(plan)

    row = table_of(project, users=[user], environment=environment).rows[0]

    assert [cell.code for cell in (*row.cells, row.workflow_cell)] == [slack, github, None, whole]


@pytest.mark.parametrize(
    ("plan", "apps", "code"),
    [
        ("business", BOTH, None),
        ("free", BOTH, "production_plan"),
        ("free", SLACK, "account_not_found"),  # the account comes before the plan
    ],
)
def test_the_plan_comes_last(
    project: Project, connect: Connect, plan: Plan, apps: tuple[str, ...], code: str | None
) -> None:
    """In production the free plan refuses only a user with every account."""
    for app in apps:
        connect("ada", app=app, environment="production")
    project.set_plan(plan)

    assert table_of(project, users=["ada"], environment="production").rows[0].workflow_cell.code == code


def test_without_users_a_caller_without_a_user_is_shown(project: Project) -> None:
    """An empty environment has one row, for a caller without the header."""
    row = table_of(project).rows[0]

    assert row.external_user_id is None
    assert [cell.code for cell in row.cells] == ["external_user_required", "external_user_required", None]


def test_test_users_come_first(project: Project, connect: Connect) -> None:
    """Test users have a row even if the environment does not have them; each user has one row."""
    for user in ("ada", "bob"):
        connect(user, app="slack")
    workflow = a_workflow(python_step("say", options="--app slack"))

    rows = table_of(project, workflow, test_users=["grace", "bob"]).rows

    assert [(row.external_user_id, row.workflow_cell.code) for row in rows] == [
        ("grace", "external_user_not_found"),
        ("bob", None),
        ("ada", None),
    ]


def test_withheld_credentials_are_ready_by_proxy(project: Project, connect: Connect) -> None:
    """An account with withheld credentials makes its step ready by proxy."""
    connect("ada", app="slack")
    connect("ada", app="github")

    row = table_of(project, users=["ada"], directory=Withholding(project, "github")).rows[0]

    assert [cell.state for cell in (*row.cells, row.workflow_cell)] == ["ready", "proxy", "ready", "proxy"]


def test_a_missing_own_account_is_an_error(project: Project, connect: Connect) -> None:
    """A step with an own account needs no user, and is refused without the account."""
    own = connect(None, account_id="apn_own")
    workflow = a_workflow(
        python_step("there", options=f"--app slack={own}"), python_step("gone", options="--app slack=apn_gone")
    )

    row = table_of(project, workflow).rows[0]

    assert [(cell.state, cell.code) for cell in row.cells] == [("ready", None), ("error", "request")]


def test_a_cell_names_the_accounts_to_look_at(project: Project, connect: Connect) -> None:
    """A ready cell names the accounts that do not work any more, and a cell with an error the apps without an account."""
    connect("ada", app="github")
    broken = connect("ada", app="slack")
    project.accounts.mark_unhealthy(broken)
    workflow = a_workflow(python_step("both", options="--app slack --app github"), python_step("note", options="--app github --app notion"))  # fmt: skip

    both, note = table_of(project, workflow, users=["ada"]).rows[0].cells

    assert (both.state, both.unhealthy, both.apps) == ("ready", (broken,), ())
    assert (note.state, note.unhealthy, note.apps) == ("error", (), ("notion",))


def test_apps_in_code_are_looked_up(project: Project) -> None:
    """Props of Node.js code and accounts that Go code reads are looked up without an option on the directive."""
    workflow = a_workflow(
        node_step("chat", props='{ chat: { type: "app", app: "slack" } }'),
        go_step("sheet", 'fmt.Println(pd.Accounts["github"])', '"fmt'.strip('"')),
    )

    row = table_of(project, workflow, users=["ada"]).rows[0]

    assert [cell.code for cell in row.cells] == ["external_user_not_found"] * 2


def test_all_users_are_in_the_matrix(project: Project, connect: Connect) -> None:
    """A matrix without named users has every user of the environment, from a fixed number of queries."""
    for number in range(130):
        connect(f"user-{number:03}", app="slack" if number % 2 else "notion")
    directory = Counting(project)

    table = table_of(project, a_workflow(python_step("say", options="--app slack")), directory=directory)

    assert [row.external_user_id for row in table.rows] == [f"user-{number:03}" for number in range(130)]
    assert table.counts == {"missing Slack": 65, "ready": 65}
    assert directory.calls == {"users": 1, "newest_accounts": 1, "credential_fields": 1}


def test_a_search_selects_users(project: Project, connect: Connect) -> None:
    """With a search, the matrix has the test users and users that match, and no row if there are none."""
    for user in ("adam", "ada", "bob"):
        connect(user, app="slack")

    def users(search: str) -> list[str | None]:
        return [row.external_user_id for row in table_of(project, search=search, test_users=["Adalbert", "eve"]).rows]

    assert users("ADA") == ["Adalbert", "ada", "adam"]
    assert users("nobody") == []


def test_found_users_are_checked_without_another_query(project: Project, connect: Connect) -> None:
    """The accounts that a search has read decide; a user whose accounts are not known has no cell."""
    connect("ada", app="slack")
    connect("bob", app="github")
    found = LocalDirectory(project).search_users("development", "").users
    unknown = replace(found[0], user=replace(found[0].user, external_id="eve"), accounts=None)
    directory = Counting(project)

    cells = check_found_users(
        a_workflow(python_step("say", options="--app slack")),
        [*found, unknown],
        directory=directory,
        catalog=Catalog.for_project(project, environ={}),
        environment="development",
    )

    assert {user: cell.label for user, cell in cells.items()} == {"ada": "ready", "bob": "missing Slack"}
    assert directory.calls == {"credential_fields": 1}


async def test_the_preview_equals_the_record_of_a_run(project: Project, connect: Connect, run: Run) -> None:
    """The preview for a user equals the lookup in the record of their run."""
    connect("ada", app="slack")
    connect("ada", app="github")

    preview = preview_lookup(
        WORKFLOW,
        directory=LocalDirectory(project),
        catalog=Catalog.for_project(project, environ={}),
        environment="development",
        external_user_id="ada",
    ).lookup
    execution = await run(WORKFLOW, external_user_id="ada")

    assert execution.lookup is not None
    assert preview == msgspec.structs.replace(execution.lookup, header="ada", environment_header="development")


# ── against real runs ──────────────────────────────────────────────────────────────

APPS = ("slack", "github", "notion")
ENVIRONMENTS: tuple[Environment, ...] = ("development", "production")
USERS = ("ada", "grace", "joan")


@dataclass(frozen=True)
class World:
    """
    Accounts by user, environment and app in the order of connecting, steps by their apps, and the plan.

    The first `disabled` steps are disabled.
    """

    accounts: tuple[tuple[str, str, str], ...]
    steps: tuple[tuple[str, ...], ...]
    plan: Plan
    disabled: int = 0


worlds = st.builds(
    World,
    accounts=st.lists(
        st.tuples(st.sampled_from(USERS), st.sampled_from(ENVIRONMENTS), st.sampled_from(APPS)), max_size=14
    ).map(tuple),
    steps=st.lists(st.lists(st.sampled_from(APPS), unique=True, max_size=2).map(tuple), min_size=1, max_size=3).map(
        tuple
    ),
    plan=st.sampled_from(["free", "business"]),
    disabled=st.integers(0, 1),
)
numbers = count()


@pytest.fixture
def settled(project: Project) -> Iterator[Settle]:
    """Runs a workflow to its end, in a loop that exists as long as the engine."""
    with asyncio.Runner() as runner:
        runtime = runner.run(_engine(project))
        yield lambda request: runner.run(runtime.run(request))
        runner.run(runtime.close())


@settings(max_examples=settings().max_examples // 2, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(world=worlds)
@example(world=World((("ada", "production", "slack"),) * 2, (("slack",),), "business"))
def test_the_matrix_agrees_with_real_runs(world: World, project: Project, settled: Settle) -> None:
    """For generated users and workflows each cell and row equals the result of a run, with the newest accounts."""
    assert disagreements(world, project, settled, looking=LocalDirectory(project)) == []


@pytest.mark.parametrize("fault", ["environment", "app", "oldest"])
def test_a_faulty_lookup_is_a_disagreement(project: Project, settled: Settle, fault: str) -> None:
    """A directory that confuses environments, apps or ages makes the matrix differ from runs on a correct directory."""
    world = World((("ada", "production", "slack"),) * 2, (("slack",), ("github",)), "business")

    found = disagreements(world, project, settled, looking=Faulty(project, fault))

    assert found


async def _engine(project: Project) -> WorkflowEngine:
    return await WorkflowEngine.start(project, LocalDirectory(project))


def disagreements(world: World, project: Project, settled: Settle, *, looking: Directory) -> list[str]:
    """The differences between the matrix, built with *looking*, and real runs."""
    mark = f"{next(numbers)}-"
    true = LocalDirectory(project)
    newest = {}
    for user, environment, app in world.accounts:
        newest[mark + user, environment, app] = true.add_account(
            app=app,
            credentials={"oauth_access_token": "a-token-of-a-test"},
            external_user_id=mark + user,
            environment="production" if environment == "production" else "development",
        ).id
    project.set_plan(world.plan)
    steps = [replace(_step(number, apps), disabled=number < world.disabled) for number, apps in enumerate(world.steps)]
    workflow = a_workflow(*steps)
    found = []
    environments: tuple[Environment, ...] = ("development", "production")
    for environment in environments:
        users = [mark + user for user in USERS]
        table = table_of(project, workflow, users=users, environment=environment, directory=looking)
        for row in table.rows:
            for cell in (row.workflow_cell, *row.cells):
                only = frozenset({cell.step}) if cell.step else None
                request = RunRequest(
                    workflow, an_event(), DENY, row.external_user_id, environment, options=TestOptions(only_steps=only)
                )
                execution = settled(request)
                if _came_to(execution) != _told(cell):
                    found.append(
                        f"{row.external_user_id} {environment} {cell.step}: {_told(cell)}, {_came_to(execution)}"
                    )
                found += [
                    f"{row.external_user_id} {environment} {cell.step}: {use.id} is not the newest"
                    for step in execution.steps
                    for use in step.accounts
                    if use.id != newest[row.external_user_id or "", environment, use.app]
                ]
    return found


def _step(number: int, apps: tuple[str, ...]) -> Step:
    return python_step(f"step{number}", options=" ".join(f"--app {app}" for app in apps))


def _came_to(execution: Execution) -> tuple[str | None, str, frozenset[str]]:
    used = frozenset(use.id for step in execution.steps for use in step.accounts)
    error = execution.error
    return (error.code, error.message, used) if error else (None, "", used)


def _told(cell: MatrixCell) -> tuple[str | None, str, frozenset[str]]:
    if cell.state == "error":
        return cell.code, f"{cell.message}\n{cell.fix}", frozenset()
    return None, "", frozenset(cell.accounts)


# ── helpers ─────────────────────────────────────────────────────

WORKFLOW = a_workflow(
    python_step("say", options="--app slack"), python_step("look", options="--app github"), python_step("end")
)


def test_named_users_all_have_a_row(project: Project) -> None:
    """Named users have a row in their order, whether they exist or not."""
    users = [f"user-{number:03}" for number in range(101)]

    table = table_of(project, a_workflow(python_step("say")), users=users)

    assert [row.external_user_id for row in table.rows] == users


def table_of(
    project: Project,
    workflow: Workflow = WORKFLOW,
    *,
    directory: Directory | None = None,
    environment: Environment = "development",
    **choices: Any,
) -> ReadinessMatrix:
    """The matrix of *workflow* in *project*."""
    return build_matrix(
        workflow,
        directory=directory or LocalDirectory(project),
        catalog=Catalog.for_project(project, environ={}),
        environment=environment,
        **choices,
    )


class Counting(LocalDirectory):
    """
    A directory that counts its calls.

    Attributes:
        calls: The number of calls of each method.
    """

    def __init__(self, project: Project) -> None:
        super().__init__(project)
        self.calls: Counter[str] = Counter()

    def __getattribute__(self, name: str) -> Any:
        """Count the use of a public method."""
        found = super().__getattribute__(name)
        if callable(found) and not name.startswith("_"):
            self.calls[name] += 1
        return found


class Withholding(LocalDirectory):
    """A directory that withholds the credentials of one app, as Connect does."""

    def __init__(self, project: Project, app: str) -> None:
        super().__init__(project)
        self._withheld = app

    def newest_accounts(self, *given: Any, **more: Any) -> list[Account]:
        """The same accounts, marked."""
        found = super().newest_accounts(*given, **more)
        return [replace(account, withheld=account.app == self._withheld) for account in found]


class Faulty(LocalDirectory):
    """A directory that returns accounts of the other environment or of any app, or the oldest first."""

    def __init__(self, project: Project, fault: str) -> None:
        super().__init__(project)
        self._fault = fault

    def newest_accounts(self, users: Any, environment: Environment, apps: Any, *, limit: int) -> list[Account]:
        """The wrong accounts."""
        if self._fault == "environment":
            other: Environment = "production" if environment == "development" else "development"
            return list(super().newest_accounts(users, other, apps, limit=limit))
        if self._fault == "oldest":
            return list(super().newest_accounts(users, environment, apps, limit=limit))[::-1]
        found = super().newest_accounts(users, environment, APPS, limit=limit)
        return [replace(account, app=app) for account in found for app in apps]


# ── against calls of endpoints ──────────────────────────────────────────────────────────────────────────


CALLERS = (*USERS, "stranger")


@pytest.mark.parametrize("seed", range(4))
async def test_a_response_equals_the_matrix(tmp_path: Path, seed: int) -> None:
    """For generated accounts and workflows, a ready cell gives 200, an error cell 400 with the same message."""
    chance = random.Random(seed)
    workflows = [_workflow(f"W{number}", chance) for number in range(4)]
    async with site_of(tmp_path, *workflows) as site:
        _connect(site, chance)
        site.context.project.set_plan("free" if seed % 2 else "business")
        expected, actual = [], []
        for workflow in workflows:
            for environment in ENVIRONMENTS:
                for row in _matrix_of_site(site, workflow, environment):
                    expected.append((workflow.name, environment, row[0], *_expected(row[1])))
                    actual.append(
                        (workflow.name, environment, row[0], *await _called(site, workflow, environment, row[0]))
                    )

    assert actual == expected
    assert len({status for *_, status, _ in expected}) == 2


def _workflow(name: str, chance: random.Random) -> Workflow:
    steps = [
        python_step(f"s{number}", options=" ".join(f"--app {app}" for app in chance.sample(APPS, chance.randrange(3))))
        for number in range(chance.randrange(1, 3))
    ]
    answer = python_step("answer", "pd.respond({'status': 200, 'body': 'done'})")
    return a_workflow(*steps, answer, name=name, response="custom")


def _connect(site: Site, chance: random.Random) -> None:
    for user in USERS:
        for environment in ENVIRONMENTS:
            for app in APPS if user == "ada" else chance.sample(APPS, chance.randrange(len(APPS) + 1)):
                site.connect(user, app, {"oauth_access_token": "a-token-of-a-test"}, environment=environment)


def _matrix_of_site(site: Site, workflow: Workflow, environment: Environment) -> list[tuple[str, MatrixCell]]:
    catalog = Catalog.for_project(site.context.project, environ={})
    table = build_matrix(workflow, directory=site.directory, catalog=catalog, environment=environment, users=CALLERS)
    return [(row.external_user_id or "", row.workflow_cell) for row in table.rows]


def _expected(cell: MatrixCell) -> tuple[int, str]:
    # the rest of the text names other users and is only in the record
    return (400, cell.message) if cell.state == "error" else (200, "done")


async def _called(site: Site, workflow: Workflow, environment: str, user: str) -> tuple[int, str]:
    headers = {"x-pd-external-user-id": user, "x-pd-environment": environment}
    answer = await site.http.post(site.path(workflow.name), json={}, headers=headers)
    return answer.status_code, answer.text

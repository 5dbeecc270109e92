"""The matrix compared with calls of endpoints."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pdkernel.actions import Catalog
from pdkernel.identity import Environment
from pdkernel.model import Workflow
from pdkernel.readiness import build_matrix
from pdkernel.render.matrix import MatrixCell
from tests.builders import a_workflow, python_step
from tests.server.site import Site, site_of

APPS = ("slack", "github", "notion")
USERS = ("ada", "grace", "joan", "stranger")
ENVIRONMENTS: tuple[Environment, ...] = ("development", "production")


@pytest.mark.parametrize("seed", range(4))
async def test_a_response_equals_the_matrix(tmp_path: Path, seed: int) -> None:
    """For generated accounts and workflows, a ready cell gives 200, an error cell 400 with the same message."""
    chance = random.Random(seed)
    workflows = [_workflow(f"W{number}", chance) for number in range(4)]
    async with site_of(tmp_path, *workflows) as site:
        _connect(site, chance)
        site.context.project.set_plan("free" if seed % 2 else "business")
        told, got = [], []
        for workflow in workflows:
            for environment in ENVIRONMENTS:
                for row in _table(site, workflow, environment):
                    told.append((workflow.name, environment, row[0], *_expected(row[1])))
                    got.append(
                        (workflow.name, environment, row[0], *await _called(site, workflow, environment, row[0]))
                    )

    assert got == told
    assert len({status for *_, status, _ in told}) == 2


def _workflow(name: str, chance: random.Random) -> Workflow:
    steps = [
        python_step(f"s{number}", options=" ".join(f"--app {app}" for app in chance.sample(APPS, chance.randrange(3))))
        for number in range(chance.randrange(1, 3))
    ]
    answer = python_step("answer", "pd.respond({'status': 200, 'body': 'done'})")
    return a_workflow(*steps, answer, name=name, response="custom")


def _connect(site: Site, chance: random.Random) -> None:
    for user in USERS[:-1]:
        for environment in ENVIRONMENTS:
            for app in APPS if user == "ada" else chance.sample(APPS, chance.randrange(len(APPS) + 1)):
                site.directory.add_account(
                    app=app,
                    credentials={"oauth_access_token": "a-token-of-a-test"},
                    external_user_id=user,
                    environment=environment,
                )


def _table(site: Site, workflow: Workflow, environment: Environment) -> list[tuple[str, MatrixCell]]:
    catalog = Catalog.for_project(site.context.project, environ={})
    table = build_matrix(workflow, directory=site.directory, catalog=catalog, environment=environment, users=USERS)
    return [(row.external_user or "", row.workflow_cell) for row in table.rows]


def _expected(cell: MatrixCell) -> tuple[int, str]:
    # the rest of the text names other users and is only in the record
    return (400, cell.message) if cell.state == "error" else (200, "done")


async def _called(site: Site, workflow: Workflow, environment: str, user: str) -> tuple[int, str]:
    headers = {"x-pd-external-user-id": user, "x-pd-environment": environment}
    answer = await site.http.post(site.path(workflow.name), json={}, headers=headers)
    return answer.status_code, answer.text

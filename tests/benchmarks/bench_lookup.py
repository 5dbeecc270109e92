"""
The account lookup and the readiness matrix in a project of 10,000 external users with 50,000 accounts, and in a small one.

    python tests/benchmarks/bench_lookup.py
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from pdkernel.accounts import LocalDirectory
from pdkernel.actions import Catalog
from pdkernel.engine.account_lookup import DirectorySnapshot, RunIdentity, look_up_accounts, steps_by_external_user_app
from pdkernel.operations.readiness import build_matrix
from pdkernel.operations.readiness.matrix import collect_app_bindings
from pdkernel.storage import Project
from tests.builders import a_workflow, python_step
from tests.lookup_projects import fill

APPS = ("slack", "github", "notion", "hubspot", "linear_app")
LOOKUP_MS, MATRIX_MS = 1.0, 100.0
ROUNDS = 300


def milliseconds(act: Callable[[], Any], rounds: int) -> list[float]:
    """The duration of each call of *act*."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        act()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def look_ups(project: Project, users: int) -> float:
    """The median time in ms of a lookup of two apps for a random user."""
    directory = LocalDirectory(project)
    bindings = collect_app_bindings(_workflow(2), Catalog.for_project(project, environ={}))
    chance = random.Random(4815162342)

    def act() -> None:
        user = f"user-{chance.randrange(users)}"
        facts = DirectorySnapshot(directory, "development", [user], steps_by_external_user_app(bindings))
        assert look_up_accounts(bindings, RunIdentity(user, "development"), facts).error is None

    act()
    return statistics.median(milliseconds(act, ROUNDS))


def matrices(project: Project) -> float:
    """The median time in ms of a matrix of 100 users and 20 steps."""
    directory, catalog, workflow = LocalDirectory(project), Catalog.for_project(project, environ={}), _workflow(20)
    users = [f"user-{number}" for number in range(90)] + [f"stranger-{number}" for number in range(10)]

    def act() -> None:
        table = build_matrix(workflow, directory=directory, catalog=catalog, environment="development", users=users)
        assert (len(table.rows), len(table.steps)) == (100, 20)

    act()
    return statistics.median(milliseconds(act, 10))


def _workflow(steps: int) -> Any:
    apps = (*APPS[:4], "stripe") if steps > len(APPS) else APPS
    return a_workflow(*(python_step(f"s{each}", options=f"--app {apps[each % len(apps)]}") for each in range(steps)))


def main() -> None:
    """Print the figures; fail if a figure exceeds its limit."""
    with tempfile.TemporaryDirectory() as folder:
        figures = {}
        for users in (100, 10_000):
            project = Project.open(Path(folder) / str(users) / ".pdkernel")
            fill(project, users=users, apps=APPS)
            figures[users] = (look_ups(project, users), matrices(project))
            project.close()
    for users, (lookup, table) in figures.items():
        print(f"{users} users, {users * len(APPS)} accounts: lookup {lookup:.2f} ms, matrix of 100 x 20 {table:.0f} ms")
    print(f"lookup, large project over small: ratio {figures[10_000][0] / figures[100][0]:.2f}")
    lookup, table = figures[10_000]
    if lookup > LOOKUP_MS or table > MATRIX_MS:
        sys.exit(f"over the limits of {LOOKUP_MS} ms and {MATRIX_MS} ms")


if __name__ == "__main__":
    main()

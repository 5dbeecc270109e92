"""
The setup of `notebooks/02_languages_and_actions.ipynb` (accounts, table, actions, Go cache), and the results of its run.

The notebook runs in a kernel. A startup file of IPython stores the execution of the cell `%pdrun --skip-waits` and the
requests so far, so that one run serves the tests of the saved outputs and those of the requests.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pdkernel.accounts import LocalDirectory
from pdkernel.actions.source_settings import ActionSettings
from pdkernel.egress import Gateway, ReceivedRequest
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.execution import Execution
from pdkernel.kit.magics.notebook_context import get_session
from pdkernel.storage import Project
from tests import notebooks
from tests.notebooks import TOKEN
from tests.postgres import Postgres

NAME = "02_languages_and_actions"
NOTEBOOK = Path(__file__).parents[1] / "notebooks" / f"{NAME}.ipynb"
STAND_INS = ("openai", "github", "google_sheets", "slack")
ADAS: Mapping[str, str] = {"github": "apn_AdaGit1", "google_sheets": "apn_AdaShe1", "slack": "apn_AdaSlk1"}
"""Apps that the external user has connected, and the accounts' ids."""
OUR_OPENAI, OUR_POSTGRES = "apn_OpenAI1", "apn_Postgr1"
TABLE = "create table reports (id text primary key, customer text, category text, issue text, answer_by date)"


RESULT_FILE = "run.pickle"
STARTUP = "from tests.languages_notebook import store_run\nstore_run(get_ipython())\ndel store_run\n"


@dataclass(frozen=True)
class Ran:
    """
    A run of the notebook and its results.

    Attributes:
        notebook: The notebook with the outputs of the run.
        execution: The execution of the cell `%pdrun --skip-waits`.
        received: The requests of all cells, by the name of the stand-in: `%pdrun` sends none again that a step's cell has sent.
        rows: The rows of the table.
        reports: The records of the project's data store, which the steps' scratch copy leaves as it is.
    """

    notebook: Any
    execution: Execution
    received: Mapping[str, Sequence[ReceivedRequest]]
    rows: list[list[str]]
    reports: Any

    @property
    def issue(self) -> Mapping[str, Any]:
        """The exports of the step that opened the issue."""
        return next(step for step in self.execution.steps if step.name == "issue").exports


def token_of(app: str) -> str:
    """The credential of *app*."""
    return f"{TOKEN}-{app}"


def connect(directory: LocalDirectory, postgres: Postgres) -> None:
    """Connect the apps of the notebook's steps."""
    for app, account in ADAS.items():
        directory.add_account(
            app=app,
            credentials={"oauth_access_token": token_of(app)},
            external_user_id="ada",
            account_id=account,
            name="ada",
        )
    ours = (
        ("openai", {"api_key": token_of("openai")}, OUR_OPENAI, "workspace"),
        ("postgresql", postgres.credentials, OUR_POSTGRES, "reports"),
    )
    for app, credentials, account, name in ours:
        directory.add_account(app=app, credentials=credentials, external_user_id=None, account_id=account, name=name)


def prepare(project: Project, postgres: Postgres, go_cache: Path) -> None:
    """
    Set up everything that the notebook needs.

    Args:
        project: The project of the notebook.
        postgres: The server on which the table is created anew.
        go_cache: A cache of Go's own compiled packages, without the notebook's step.
    """
    actions = ActionSettings(project.settings)
    actions.accept_licence()
    actions.set_sources(["npm"], base=project.folder)
    connect(LocalDirectory(project), postgres)
    postgres.run(f"drop table if exists reports; {TABLE}")
    compiled = project.folder / "cache" / "go"
    compiled.mkdir(parents=True)
    (compiled / "build").symlink_to(go_cache / "build")


def run(folder: Path, postgres: Postgres, go_cache: Path) -> Ran:
    """Run the notebook in *folder*."""
    startup = folder / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "store_run.py").write_text(STARTUP)
    ran = notebooks.run(NOTEBOOK, folder, partial(prepare, postgres=postgres, go_cache=go_cache))
    work = folder / "work"
    execution, received = pickle.loads((work / RESULT_FILE).read_bytes())
    rows = postgres.run("select id, customer, category, issue, answer_by from reports")
    with Project.open(work / ".pdkernel") as project:
        reports = [record.value for record in project.data_stores.iter_records("reports")]
    return Ran(ran, execution, received, rows, reports)


def store_run(shell: Any) -> None:
    """In the kernel: after the cell `%pdrun --skip-waits`, store its execution and the requests so far in `RESULT_FILE`."""

    async def received(engine: WorkflowEngine) -> dict[str, list[ReceivedRequest]]:
        assert isinstance(engine.gateway, Gateway)
        return {name: list(engine.gateway.stand_ins[name].received) for name in STAND_INS}

    def after_cell(result: Any) -> None:
        if result.info.raw_cell == "%pdrun --skip-waits":
            session = get_session(shell)
            Path(RESULT_FILE).write_bytes(pickle.dumps((session.last_execution, session.call_engine(received))))

    shell.events.register("post_run_cell", after_cell)

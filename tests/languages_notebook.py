"""The setup of `notebooks/02_languages_and_actions.ipynb`: accounts, a table, npm's actions, a Go build cache."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pdkernel.actions.source_settings import ActionSettings
from pdkernel.connect import LocalDirectory
from pdkernel.project import Project
from tests.notebooks import TOKEN
from tests.postgres import Postgres

NAME = "02_languages_and_actions"
ADAS: Mapping[str, str] = {"github": "apn_AdaGit1", "google_sheets": "apn_AdaShe1", "slack": "apn_AdaSlk1"}
"""Apps that the external user has connected, and the accounts' ids."""
OUR_OPENAI, OUR_POSTGRES = "apn_OpenAI1", "apn_Postgr1"
TABLE = "create table reports (id text primary key, customer text, category text, issue text, answer_by date)"


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
    actions.set_source("npm", base=project.folder)
    connect(LocalDirectory(project), postgres)
    postgres.run(f"drop table if exists reports; {TABLE}")
    compiled = project.folder / "cache" / "go"
    compiled.mkdir(parents=True)
    (compiled / "build").symlink_to(go_cache / "build")

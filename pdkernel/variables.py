"""
The environment variables that steps may see: the project's, and those of a `.env` beside the notebook.

Knows which wins. Values are secrets like credentials: they are given to steps and to nobody else.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pdkernel.project import Project
    from pdkernel.redaction import Secret


def project_variables(project: Project, folder: Path) -> dict[str, str]:
    """
    Variables by name; a `.env` in *folder* wins over the project's, being nearer to the notebook.

    A line of `.env` without a value sets nothing.
    """
    from dotenv import dotenv_values

    beside = dotenv_values(folder / ".env", interpolate=False) if (folder / ".env").is_file() else {}
    return {**project.variables.values(), **{name: value for name, value in beside.items() if value is not None}}


def secrets_of(project: Project, folder: Path) -> list[Secret]:
    """Everything secret that *project* holds, and a `.env` in *folder*: a run knows its own, which are fewer."""
    from pdkernel.engine.end_users import account_secrets
    from pdkernel.redaction import Secret

    secrets = [Secret(f"env/{name}", value) for name, value in project_variables(project, folder).items()]
    held = project.accounts
    for account in held.list():
        secrets += account_secrets(account, held.credentials(account.id))
    return secrets

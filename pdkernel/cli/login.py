"""
`pdkernel login`: which Connect project at Pipedream the local project works with.

Knows where id, secret and project are taken from; the secret never stands on a command line. Keeping it is `project.login`'s.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pdkernel.cli.app import CliContext, command, json_option, print_json

if TYPE_CHECKING:
    from pdkernel.project import Login

_WHERE = {"keyring": "in this machine's keyring", "project": "in the project, encrypted"}


@command(name="login")
@click.option("--client-id", metavar="ID", help="Of an OAuth client of your workspace.")
@click.option("--client-secret", metavar="@FILE|-", help="Where its secret is; it is asked for without this.")
@click.option("--project-id", metavar="proj_...", help="The Connect project.")
@click.option("--environment", metavar="ENV", help="development (default) or production.")
@click.option("--base-url", metavar="URL", help="Of the API, if it is not Pipedream's own.")
@click.option("--remove", is_flag=True, help="Forget it: work with the local project only.")
@json_option
def login(state: CliContext, remove: bool, as_json: bool, **given: str | None) -> int:
    """
    Work with a real Connect project: its users, accounts and credentials; steps still run here.

    What is not given comes from PDKERNEL_CLIENT_ID, PDKERNEL_CLIENT_SECRET, PDKERNEL_PROJECT_ID,
    PDKERNEL_PROJECT_ENVIRONMENT and PDKERNEL_BASE_URL, or the same with PIPEDREAM_, else it is asked for.
    """
    table = state.open_project().login
    if remove:
        removed = table.remove()
        if as_json:
            print_json({"removed": removed})
        else:
            click.echo(
                "Logged out: users and accounts are the local project's." if removed else "Nobody was logged in."
            )
        return 0
    asked = _login(given)
    _check_login(asked)
    where = table.save(asked)
    if as_json:
        print_json({**encode_login(asked), "secret": where})
    else:
        click.echo(f"Users and accounts are now those of {asked.project_id} at {asked.base_url}.")
        click.echo(f"The client's secret is kept {_WHERE[where]}. Back to the local project: pdkernel login --remove")
    return 0


def encode_login(login: Login) -> dict[str, Any]:
    """A login as JSON, without its secret."""
    return {
        "project_id": login.project_id,
        "client_id": login.client_id,
        "environment": login.environment,
        "base_url": login.base_url,
    }


def _login(given: dict[str, str | None]) -> Login:
    from pdkernel.identity import parse_environment
    from pdkernel.project.login import PIPEDREAM_API_URL, Login, check_base_url, read_environment, read_setting

    environment = given["environment"]
    return Login(
        client_id=_require_value("client_id", "Client id", given["client_id"] or read_setting(os.environ, "CLIENT_ID")),
        client_secret=_secret(given["client_secret"])
        or _require_value("client_secret", "Client secret", None, hidden=True),
        project_id=_require_value(
            "project_id", "Project id", given["project_id"] or read_setting(os.environ, "PROJECT_ID")
        ),
        environment=parse_environment(environment) if environment else read_environment(os.environ),
        base_url=check_base_url(given["base_url"] or read_setting(os.environ, "BASE_URL") or PIPEDREAM_API_URL),
    )


def _secret(given: str | None) -> str | None:
    """The secret from where *given* says, else from the environment."""
    from pdkernel.errors import RequestError
    from pdkernel.project.login import read_setting

    if given is None:
        return read_setting(os.environ, "CLIENT_SECRET")
    if given == "-":
        return sys.stdin.readline().rstrip("\n")
    if not given.startswith("@"):
        raise RequestError(
            "A secret does not belong on a command line: others can read it there.",
            fix="Leave --client-secret out and it is asked for; or --client-secret @FILE, or PDKERNEL_CLIENT_SECRET.",
        )
    try:
        return Path(given[1:]).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as fault:
        why = getattr(fault, "strerror", None) or "it is not text"
        raise RequestError(f"The client's secret cannot be read from {given[1:]}: {why}.") from None


def _require_value(name: str, prompt: str, value: str | None, *, hidden: bool = False) -> str:
    from pdkernel.errors import RequestError

    if not value and sys.stdin.isatty():
        value = click.prompt(prompt, hide_input=hidden)
    if not value:
        raise RequestError(
            f"The {prompt.lower()} is missing.",
            fix=f"Give --{name.replace('_', '-')}{' @FILE' if hidden else ''}, or set PDKERNEL_{name.upper()}.",
        )
    return value.strip()


def _check_login(asked: Login) -> None:
    """Ask for one account, so that what is wrong is said now and nothing wrong is kept."""
    from pdkernel.connect.sdk import Sdk

    sdk = Sdk(asked)
    sdk.call(lambda client: client.accounts.list(limit=1, request_options=sdk.build_request_options(asked.environment)))

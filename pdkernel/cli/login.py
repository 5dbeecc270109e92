"""
`pdkernel login` and `logout`: connect the local project to a Connect project at Pipedream.

Reads id, secret and project from options, the environment or a prompt. `project.login` stores them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import cloup

from pdkernel.cli.app import PROJECT, CliContext, command, environment_option, json_option
from pdkernel.cli.terminal import print_json
from pdkernel.errors import RequestError

if TYPE_CHECKING:
    from pdkernel.storage import Login

_SECRET_LOCATIONS = {"keyring": "in this machine's keyring", "project": "in the project, encrypted"}


@command(
    name="login",
    section=PROJECT,
    examples=("pdkernel login", "pdkernel login --client-id 4f2a --client-secret @secret.txt --project-id proj_1a2b3c"),
)
@cloup.option("--client-id", metavar="ID", help="Id of an OAuth client of your workspace.")
@cloup.option("--client-secret", metavar="@FILE|-", help="Source of the client's secret; default: a prompt.")
@cloup.option("--project-id", metavar="proj_...", help="The Connect project.")
@environment_option()
@cloup.option("--base-url", metavar="URL", help="Base URL of the API; default: Pipedream's.")
@json_option
def login(state: CliContext, as_json: bool, **given: str | None) -> int:
    """
    Use the external users and accounts of a Connect project.

    Steps still run on this machine. Missing options are read from PDKERNEL_CLIENT_ID, PDKERNEL_CLIENT_SECRET, PDKERNEL_PROJECT_ID,
    PDKERNEL_PROJECT_ENVIRONMENT and PDKERNEL_BASE_URL, or the same with PIPEDREAM_, else from a prompt.
    """
    table = state.open_project().login
    new_login = _login(given)
    _check_login(new_login)
    location = table.save(new_login)
    if as_json:
        print_json({**encode_login(new_login), "secret": location})
    else:
        click.echo(f"Users and accounts are now those of {new_login.project_id} at {new_login.base_url}.")
        click.echo(
            f"The client's secret is stored {_SECRET_LOCATIONS[location]}. To return to the local project: pdkernel logout"
        )
    return 0


@command(name="logout", section=PROJECT, examples=("pdkernel logout",))
@json_option
def logout(state: CliContext, as_json: bool) -> int:
    """Use the external users and accounts of the local project.

    Removes the stored login.
    """
    removed = state.open_project().login.remove()
    if as_json:
        print_json({"removed": removed})
    else:
        click.echo(
            "Logged out: users and accounts are the local project's." if removed else "The project was not logged in."
        )
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
    from pdkernel.common.identity import PIPEDREAM_API_URL, parse_environment
    from pdkernel.storage.login import Login, check_base_url, read_environment, read_setting

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
    """Read the secret from the source *given*, else from the environment."""
    from pdkernel.storage.login import read_setting

    if given is None:
        return read_setting(os.environ, "CLIENT_SECRET")
    if given == "-":
        return sys.stdin.readline().rstrip("\n")
    if not given.startswith("@"):
        raise RequestError(
            "A secret on a command line is visible to other users of this machine.",
            fix="Leave out --client-secret for a prompt, pass --client-secret @FILE, or set PDKERNEL_CLIENT_SECRET.",
        )
    try:
        return Path(given[1:]).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as fault:
        why = getattr(fault, "strerror", None) or "the file is not text"
        raise RequestError(
            f"Cannot read the client's secret from {given[1:]}: {why}.",
            fix="Pass a text file, or leave out --client-secret for a prompt.",
        ) from None


def _require_value(name: str, prompt: str, value: str | None, *, hidden: bool = False) -> str:
    if not value and sys.stdin.isatty():
        value = click.prompt(prompt, hide_input=hidden)
    if not value:
        raise RequestError(
            f"The {prompt.lower()} is missing.",
            fix=f"Pass --{name.replace('_', '-')}{' @FILE' if hidden else ''}, or set PDKERNEL_{name.upper()}.",
        )
    return value.strip()


def _check_login(login: Login) -> None:
    """Request one account, so that a wrong login is reported before it is stored."""
    from pdkernel.accounts.sdk import Sdk

    sdk = Sdk(login)
    sdk.call(lambda client: client.accounts.list(limit=1, request_options=sdk.build_request_options(login.environment)))

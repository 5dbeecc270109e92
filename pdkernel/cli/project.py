"""
`pdkernel project`, `env`, `secrets`, `login` and `logout`: settings, variables, secret props and the Connect project.

Secret values are read from a prompt, standard input, a file or the environment, and never printed.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click
import cloup

from pdkernel.cli.app import PROJECT, CliContext, command, environment_option, group, json_option, yes_option
from pdkernel.cli.terminal import confirm, print_json, print_text, read_hidden
from pdkernel.errors import RequestError

if TYPE_CHECKING:
    from pdkernel.storage import Login

TEXT_SETTINGS = ("mail_to", "mail_server", "mail_user", "error_notification")
"""Settings with a plain text value."""


@group(section=PROJECT)
def env() -> None:
    """
    Set environment variables of steps.

    Values are encrypted in the project, passed to steps that name them, and redacted like credentials.
    """


@group(section=PROJECT)
def project() -> None:
    """Show and set the local project's settings."""


@command(env, name="set", examples=("pdkernel env set STRIPE_KEY", "pdkernel env set STRIPE_KEY <key.txt"))
@cloup.argument("name")
@json_option
def set_variable(state: CliContext, name: str, as_json: bool) -> int:
    """Set NAME to a value from a prompt or standard input."""
    from pdkernel.operations.environment import set_variable

    set_variable(state.open_project(), name, lambda: read_hidden(name))
    if as_json:
        print_json({"name": name, "set": True})
    else:
        click.echo(f"Set {name}.")
    return 0


@command(env, name="list", examples=("pdkernel env list --json",))
@json_option
def list_variables(state: CliContext, as_json: bool) -> int:
    """List the names of variables, without values."""
    names = state.open_project().variables.list()
    if as_json:
        print_json([{"name": name} for name in names])
    else:
        click.echo("\n".join(names) or "No environment variables. To set a variable: pdkernel env set NAME")
    return 0


@command(env, name="remove", examples=("pdkernel env remove STRIPE_KEY --yes",))
@cloup.argument("name")
@yes_option
@json_option
def remove_variable(state: CliContext, name: str, yes: bool, as_json: bool) -> int:
    """Remove the variable NAME and its value."""
    table = state.open_project().variables
    if name not in table.list():
        raise RequestError(f"There is no environment variable {name!r}.", fix="See: pdkernel env list")
    confirm(f"Remove {name} and its value", yes=yes)
    table.remove(name)
    if as_json:
        print_json({"name": name, "removed": True})
    else:
        click.echo(f"Removed {name}.")
    return 0


@command(project, name="restore", examples=("pdkernel project restore --yes",))
@yes_option
@json_option
def restore_project(state: CliContext, yes: bool, as_json: bool) -> int:
    """
    Continue with a database that commands refuse.

    A command refuses a SQLite database that has lost commits, is missing, or is not that of the project. Put a backup in its place, or
    accept what is lost. If the database is missing, the next command creates a new project with the old key.
    """
    from pdkernel.operations.projects import accept_database

    confirm("Continue with the database as it is", yes=yes)
    database = accept_database(Path.cwd(), os.environ, folder=state.project_folder, database_url=state.database_url)
    if as_json:
        print_json({"database": str(database), "accepted": True})
    else:
        click.echo(f"Accepted {database}.")
    return 0


@command(project, name="show", examples=("pdkernel project show --json",))
@json_option
def show_project(state: CliContext, as_json: bool) -> int:
    """Show the project's id, folder, settings and login."""
    opened = state.open_project()
    login = opened.login.load(os.environ)
    value = {
        "project_id": opened.project_id,
        "folder": str(opened.folder),
        "plan": opened.plan,
        **opened.settings.all_settings(),
        "login": encode_login(login) if login is not None else None,
    }
    if as_json:
        print_json(value)
    else:
        for key, text in value.items():
            if key != "login":
                click.echo(f"{key}: {', '.join(map(str, text)) if isinstance(text, list) else text}")
        if login is None:
            click.echo("users and accounts: of this project (to use a Connect project: pdkernel login)")
        else:
            click.echo(f"users and accounts: of {login.project_id} at {login.base_url}, as client {login.client_id}")
    return 0


@command(
    project,
    name="set",
    examples=(
        "pdkernel project set plan free",
        "pdkernel project set actions npm --accept-licence",
        "pdkernel project set actions components npm",
        "pdkernel project set mail_server smtp.example.com:587",
    ),
)
@cloup.argument("setting", type=click.Choice(["plan", "actions", "connect_data_stores", *TEXT_SETTINGS]))
@cloup.argument("values", metavar="VALUE...", nargs=-1, required=True)
@cloup.option("--accept-licence", is_flag=True, help="Accept the licence of the components on npm, for this project.")
def set_project(state: CliContext, setting: str, values: tuple[str, ...], accept_licence: bool) -> int:
    """
    Set one of the project's settings; an empty VALUE resets it.

    \b
    actions      builtin (default), npm, connect, or a FOLDER of components: the
                 source of pre-built actions that are not built in; several
                 sources are searched in this order
    plan         business (default), or free: then runs for external users in
                 production are refused, as on Pipedream's free plan
    connect_data_stores
                 NAME,...: data stores that actions and triggers of a Connect token
                 may read, write and empty (default: none)
    mail_to      your own address: the recipient of $.send.email
    mail_server  HOST or HOST:PORT of the mail server (port 465 uses TLS)
    mail_user    login at the server; the variable PDKERNEL_MAIL_PASSWORD is the password
    error_notification
                 URL (gets a POST) or e-mail address that receives each failed run
                 of a served workflow
    """  # noqa: D301 - \b is click's mark for text that is not wrapped
    if setting == "actions":
        return _set_actions(state, values, accept_licence)
    if len(values) > 1:
        raise RequestError(f"{setting} has one value.", fix=f"pdkernel project set {setting} VALUE")
    (value,) = values
    if setting == "connect_data_stores":
        return _set_connect_data_stores(state, value)
    if setting != "plan":
        if value:
            if setting == "mail_server":
                from pdkernel.engine.deliveries import parse_mail_server

                parse_mail_server(value)
            if setting == "error_notification":
                _check_notification(value)
            state.open_project().settings.set(setting, value)
        else:
            state.open_project().settings.remove(setting)
        click.echo(f"{setting} is {value or 'not set'}.")
        return 0
    if value not in ("free", "business"):
        raise RequestError(f"{value!r} is not a plan.", fix="Use free or business.")
    state.open_project().set_plan(value)
    click.echo(f"{setting} is {value}.")
    return 0


def _check_notification(value: str) -> None:
    parts = urlsplit(value)
    if (parts.scheme in ("http", "https") and parts.hostname) or re.fullmatch(r"[^@\s:/]+@[^@\s:/]+", value):
        return
    raise RequestError(
        f"{value!r} is neither a URL nor an e-mail address.", fix="Write https://HOST/PATH, or NAME@HOST."
    )


def _set_connect_data_stores(state: CliContext, value: str) -> int:
    names = sorted({name.strip() for name in value.split(",")} - {""})
    state.open_project().set_connect_data_stores(names)
    click.echo(f"Data stores that Connect tokens may use: {', '.join(names) or 'none'}.")
    return 0


def _set_actions(state: CliContext, values: tuple[str, ...], accept_licence: bool) -> int:
    from pdkernel.actions.source_settings import (
        BUILTIN_SOURCE_NAME,
        LICENCE_NAME,
        LICENCE_TEXT,
        ActionSettings,
        format_sources,
    )

    choices = ActionSettings(state.open_project().settings)
    if "npm" in values and not choices.is_licence_accepted:
        if not accept_licence and sys.stdin.isatty():
            click.echo(LICENCE_TEXT)
            accept_licence = click.confirm(f"Accept the {LICENCE_NAME} for this project?")
        if accept_licence:
            choices.accept_licence()
    sources = choices.set_sources([value or BUILTIN_SOURCE_NAME for value in values], base=Path.cwd())
    if len(sources) > 1:
        click.echo(f"Sources of actions that are not built in, in this order: {format_sources(sources)}.")
    else:
        click.echo(f"Source of actions that are not built in: {format_sources(sources)}.")
    return 0


@group(section=PROJECT)
def secrets() -> None:
    """
    Give the values of secret props.

    Pipedream writes a secret prop to Git as {_enc: ...}, which only Pipedream can read. Give its value once: it is encrypted in
    the project, passed to its step only, redacted like a credential, and never exported.
    """


@command(
    secrets,
    name="set",
    examples=(
        "pdkernel secrets set sync/notify-p_Ab12Cd3 notify api_key",
        "pdkernel secrets set notify.ipynb notify headers.Authorization <token.txt",
    ),
)
@cloup.argument("source", type=click.Path(path_type=Path))
@cloup.argument("step")
@cloup.argument("prop")
@json_option
def set_secret(state: CliContext, source: Path, step: str, prop: str, as_json: bool) -> int:
    """
    Set PROP of STEP to a value from a prompt or standard input.

    SOURCE is a notebook or a workflow's folder. PROP may be a path into an object or a list: headers.Authorization.
    """
    from pdkernel.files.source import load_source
    from pdkernel.operations.environment import set_secret_prop

    workflow = load_source(source, unanswered="keep").workflow
    name = set_secret_prop(state.open_project(), workflow, step, prop, lambda: read_hidden(f"{step}.{prop}"))
    if as_json:
        print_json({"name": name, "step": step, "prop": prop, "set": True})
    else:
        click.echo(f"Set {prop} of step {step}.")
    return 0


@command(secrets, name="list", examples=("pdkernel secrets list sync/ --json",))
@cloup.argument("source", required=False, type=click.Path(path_type=Path))
@json_option
def list_secrets(state: CliContext, source: Path | None, as_json: bool) -> int:
    """
    List secret props of SOURCE, or all that have a value.

    SOURCE is a notebook, a workflow's folder, or a folder of them. Values are not shown.
    """
    stored = state.open_project().variables.list_secret_props()
    if source is None:
        if as_json:
            print_json([{"name": name, "set": True} for name in stored])
        else:
            print_text("\n".join(stored) or "No secrets. To give a value: pdkernel secrets set SOURCE STEP PROP")
        return 0
    rows = _collect_rows(state, source)
    if as_json:
        print_json(rows)
        return 0
    for row in rows:
        line = f"{row['source']}  {row['step']}.{row['prop']}"
        quoted = shlex.quote(str(row["source"]))
        command_line = f"pdkernel secrets set {quoted} {row['step']} {shlex.quote(row['prop'])}"
        print_text(f"{line}  set" if row["set"] else f"{line}  NOT SET: {command_line}")
    if not rows:
        click.echo("No secret props.")
    return 0


@command(secrets, name="remove", examples=("pdkernel secrets remove notify.api_key --yes",))
@cloup.argument("name")
@yes_option
@json_option
def remove_secret(state: CliContext, name: str, yes: bool, as_json: bool) -> int:
    """
    Remove the value NAME.

    NAME is a name that `pdkernel secrets list` shows, or STEP.PROP.
    """
    from pdkernel.operations.environment import find_stored_secret

    project = state.open_project()
    found = find_stored_secret(project, name)
    confirm(f"Remove the value of {found}", yes=yes)
    project.variables.remove(found)
    if as_json:
        print_json({"name": found, "removed": True})
    else:
        click.echo(f"Removed the value of {found}.")
    return 0


def _collect_rows(state: CliContext, source: Path) -> list[dict[str, Any]]:
    """Return the secret props of every workflow in *source*; a workflow that cannot be read is reported and left out."""
    from pdkernel.engine.variables import load_variables
    from pdkernel.errors import PdkernelError
    from pdkernel.files.source import find_sources, load_source
    from pdkernel.language.analysis import find_secret_props

    rows: list[dict[str, Any]] = []
    places = find_sources(source)
    for place in places:
        try:
            opened = load_source(place, unanswered="keep")
            variables = load_variables(state.open_project(), opened.folder)
        except PdkernelError as error:
            if len(places) == 1:
                raise
            state.print_note(f"Cannot read {place}: {error}")
            continue
        rows += [
            {
                "source": str(place),
                "workflow": opened.workflow.name,
                "step": prop.step,
                "prop": prop.prop,
                "name": prop.key,
                "set": prop.find_value(variables) is not None,
            }
            for prop in find_secret_props(opened.workflow)
        ]
    return rows


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
    """Return a login as JSON, without its secret."""
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

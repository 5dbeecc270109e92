"""
`pdkernel env` and `pdkernel project`: variables and settings of the project.

Values of variables are read from a prompt or standard input and never printed.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from urllib.parse import urlsplit

import click
import cloup

from pdkernel.cli.app import PROJECT, CliContext, command, group, json_option, yes_option
from pdkernel.cli.terminal import confirm, print_json, read_hidden
from pdkernel.errors import RequestError

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
    from pdkernel.cli.login import encode_login

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

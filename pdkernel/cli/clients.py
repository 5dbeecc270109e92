"""
`pdkernel clients` and `pdkernel keys`: OAuth clients of the endpoint, and the project's keys.

A client's secret is printed once. The project stores only a hash.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO

import click
import cloup

from pdkernel.cli.app import SERVE, CliContext, command, group, json_option, yes_option
from pdkernel.cli.terminal import confirm, is_interactive, print_json, print_text
from pdkernel.errors import RequestError, format_count

if TYPE_CHECKING:
    from pdkernel.storage import Project
    from pdkernel.storage.key_rotation import RotationResult
    from pdkernel.storage.oauth_clients import OAuthClient


@group(section=SERVE)
def clients() -> None:
    """Create OAuth clients of the endpoint and the Connect API."""


@group(section=SERVE)
def keys() -> None:
    """Replace the keys that encrypt values and sign access tokens."""


@command(clients, name="create", examples=("pdkernel clients create --name backend --scope connect:workflow:invoke",))
@cloup.option("--name", metavar="NAME", help="A display name.")
@cloup.option("--scope", "scopes", metavar="SCOPE", multiple=True, help="A scope of the client's tokens; default: all.")
@cloup.option(
    "--public-key",
    type=click.File("r", encoding="utf-8"),
    metavar="FILE",
    help="A public key (PEM; EC P-256 or RSA) instead of a secret.",
)
@json_option
def create_client(
    state: CliContext, name: str | None, scopes: tuple[str, ...], public_key: TextIO | None, as_json: bool
) -> int:
    """
    Create a client and print its secret.

    The secret is shown once; the project stores a hash of it.
    """
    project = state.open_project()
    if public_key is not None:
        keyed = project.oauth_clients.create_with_key(_text(public_key), name or "", scopes or ("*",))
        if as_json:
            print_json({"client_id": keyed.id, "project_id": project.project_id})
        else:
            click.echo(f"client id      {keyed.id}")
            click.echo(f"project id     {project.project_id}")
            _print_scope_hint(project)
        return 0
    new = project.oauth_clients.create(name or "", scopes or ("*",))
    if as_json:
        print_json({"client_id": new.client.id, "client_secret": new.secret, "project_id": project.project_id})
    else:
        click.echo(f"client id      {new.client.id}")
        click.echo(f"client secret  {new.secret}")
        click.echo(f"project id     {project.project_id}")
        click.echo("The secret is shown only once: store it with the secrets of your product.", err=True)
        _print_scope_hint(project)
    return 0


def _print_scope_hint(project: Project) -> None:
    from pdkernel.errors import ConnectSettingsError

    login = None
    with suppress(ConnectSettingsError):  # commands that need the login report the error
        login = project.login.load(os.environ)
    if login is not None:
        click.echo(
            f"The client can call the local workflow endpoints. Connect's routes belong to {login.project_id} "
            "and need an OAuth client of its workspace.",
            err=True,
        )


@command(clients, name="list", examples=("pdkernel clients list --json",))
@json_option
def list_clients(state: CliContext, as_json: bool) -> int:
    """List clients without their secrets."""
    found = state.open_project().oauth_clients.list_clients()
    if as_json:
        print_json([encode_client(client) for client in found])
    else:
        for client in found:
            print_text(f"{client.id}  {' '.join(client.scopes)}  {client.name}".rstrip())
        if not found:
            click.echo("No clients yet. Create one: pdkernel clients create")
    return 0


@command(clients, name="remove", examples=("pdkernel clients remove 4f2a --yes",))
@cloup.argument("client_id", metavar="ID")
@yes_option
@json_option
def remove_client(state: CliContext, client_id: str, yes: bool, as_json: bool) -> int:
    """Remove a client; its tokens are refused within seconds."""
    table = state.open_project().oauth_clients
    if client_id in {client.id for client in table.list_clients()}:
        confirm(f"Remove the client {client_id}, whose tokens are refused from then on", yes=yes)
    if not table.remove(client_id):
        raise RequestError(f"There is no client {client_id!r}.", fix="See: pdkernel clients list")
    if as_json:
        print_json({"client_id": client_id, "removed": True})
    else:
        click.echo(f"Removed {client_id}. Its tokens are refused within seconds.")
    return 0


@command(
    keys,
    name="rotate",
    examples=("pdkernel keys rotate --yes", "pdkernel keys rotate --only access-tokens --yes"),
)
@cloup.option(
    "--only",
    type=click.Choice(["encryption", "access-tokens"]),
    help="Replace one of the two keys; default: both.",
)
@yes_option
@json_option
def rotate_keys(state: CliContext, only: str | None, yes: bool, as_json: bool) -> int:
    """
    Replace the project's keys.

    \b
    encryption     Every credential, variable, event and run is encrypted again
                   with a new key, in one transaction. Servers and notebooks of
                   the project must be stopped. URLs that resume or cancel a run
                   stay valid. The old key file is removed: copies of the database
                   from before need it, so copy it first if you keep them.
    access-tokens  New access tokens of OAuth clients are signed with a new key.
                   Existing tokens stay valid until they expire. Nothing needs to
                   be stopped.
    """  # noqa: D301 - \b is click's mark for text that is not wrapped
    project = state.open_project()
    if only == "access-tokens":
        confirm("Sign new access tokens with a new key", yes=yes)
        key_id = project.access_tokens.rotate_signing_key()
        if as_json:
            print_json({"key_id": key_id})
        else:
            _print_token_key(key_id)
        return 0
    confirm(f"Encrypt every value with a new key, and remove the old key in {project.key_file}", yes=yes)
    rotation = _rotate_encryption(state, project, access_tokens=only is None)
    if as_json:
        tokens = {} if rotation.token_key_id is None else {"key_id": rotation.token_key_id}
        print_json({**tokens, "values": rotation.values, "key_file": str(rotation.key_file)})
        return 0
    click.echo(f"Encrypted {format_count(rotation.values, 'value')} with the new key in {rotation.key_file}.")
    if rotation.token_key_id is not None:
        _print_token_key(rotation.token_key_id)
    if rotation.keeps_signing_key:
        click.echo("URLs that resume or cancel a run stay valid until their runs end.")
    state.print_note("Copies of the database from before need the old key, which is removed: make a new copy.")
    if project.sqlite_path is None or rotation.key_file.parent != project.folder.resolve():
        state.print_note(f"Every other host of this project needs the new file {rotation.key_file}.")
    return 0


def _rotate_encryption(state: CliContext, project: Project, *, access_tokens: bool) -> RotationResult:
    """Replace the encryption key; show the progress on a terminal."""
    from pdkernel.operations.keys import rotate_encryption_key

    shows_progress = is_interactive(sys.stderr) and not state.quiet

    def show(text: str) -> None:
        if shows_progress:
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()

    try:
        return asyncio.run(
            rotate_encryption_key(
                project,
                access_tokens=access_tokens,
                on_progress=lambda done, total: show(f"encrypting value {done:,} of {total:,}"),
            )
        )
    finally:
        show("")


def _print_token_key(key_id: str) -> None:
    click.echo(f"New access tokens are signed with the key {key_id}. Existing tokens stay valid for at most an hour.")


def _text(file: TextIO) -> str:
    try:
        return file.read()
    except UnicodeDecodeError:
        return ""  # the project refuses an empty key with a message


def encode_client(client: OAuthClient) -> dict[str, Any]:
    """Return a client as JSON, without its secret."""
    from pdkernel.common.clock import format_iso

    return {
        "client_id": client.id,
        "name": client.name,
        "scopes": list(client.scopes),
        "created_at": format_iso(client.created_at),
    }

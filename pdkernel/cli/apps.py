"""
`pdkernel apps`: register apps and the OAuth clients that connect their accounts.

Reads client secrets from a prompt, standard input or the environment. `accounts` stores the registrations.
"""

from __future__ import annotations

import os
import shlex
from typing import Any, Literal

import click
import cloup

from pdkernel.cli.actions import open_catalog
from pdkernel.cli.app import RUN, CliContext, command, group, json_option
from pdkernel.cli.terminal import print_json, read_hidden
from pdkernel.errors import RequestError


@group(section=RUN)
def apps() -> None:
    """List and register apps whose accounts workflows use."""


@command(
    apps,
    name="add",
    examples=(
        "pdkernel apps add acme --field api_key --field subdomain",
        "pdkernel apps add acme --oauth-authorize-url URL --oauth-token-url URL --oauth-client-id 4f2a",
    ),
)
@cloup.argument("slug")
@cloup.option("--field", "fields", metavar="NAME", multiple=True, help="Name of a credential in accounts of the app.")
@cloup.option("--oauth-authorize-url", metavar="URL", help="Authorization endpoint, for accounts connected by OAuth 2.")
@cloup.option("--oauth-token-url", metavar="URL", help="Token endpoint of the app.")
@cloup.option(
    "--oauth-client-id", metavar="ID", help="Id of your OAuth client at the app; the command asks for the secret."
)
@cloup.option("--oauth-scope", "scopes", metavar="SCOPE", multiple=True, help="A scope to request; repeatable.")
@cloup.option(
    "--oauth-client-auth", "client_auth", type=click.Choice(["post", "basic"]), default="post",
    help="How the client's secret is sent: in the body (post, the default) or by HTTP Basic.",
)  # fmt: skip
@cloup.option("--oauth-public", "public", is_flag=True, help="The OAuth client has no secret.")
@json_option
def add_app(
    state: CliContext,
    slug: str,
    fields: tuple[str, ...],
    oauth_authorize_url: str | None,
    oauth_token_url: str | None,
    oauth_client_id: str | None,
    scopes: tuple[str, ...],
    client_auth: Literal["post", "basic"],
    public: bool,
    as_json: bool,
) -> int:
    """
    Register an app.

    An app has the credentials that --field names, or an OAuth client that connects its accounts. The command asks for the
    OAuth client's secret, or reads it from standard input or PDKERNEL_OAUTH_CLIENT_SECRET.
    """
    from pdkernel.accounts.oauth_providers import OAuthProvider, register_provider
    from pdkernel.accounts.registered_apps import register_app
    from pdkernel.server.link.connect_page import CALLBACK_PATH

    oauth_options = (oauth_authorize_url, oauth_token_url, oauth_client_id)
    if not any(oauth_options):
        register_app(state.open_project(), slug, fields)
        if as_json:
            print_json({"app": slug, "fields": list(fields)})
        else:
            click.echo(f"An account of {slug} holds {', '.join(fields)}.")
        return 0
    if oauth_authorize_url is None or oauth_token_url is None or oauth_client_id is None or fields:
        raise RequestError(
            "OAuth 2 needs --oauth-authorize-url, --oauth-token-url and --oauth-client-id, without --field.",
            fix=f"pdkernel apps add {shlex.quote(slug)} --oauth-authorize-url URL --oauth-token-url URL --oauth-client-id ID",
        )
    secret = None if public else _client_secret()
    provider = OAuthProvider(oauth_authorize_url, oauth_token_url, oauth_client_id, secret, scopes, client_auth)
    register_provider(state.open_project(), slug, provider)
    if as_json:
        print_json({"app": slug, "oauth_client_id": oauth_client_id, "scopes": list(scopes), "callback": CALLBACK_PATH})
    else:
        click.echo(f"Accounts of {slug} are connected through {oauth_authorize_url}.")
        click.echo(f"Register this redirect URL at the app, after your server's base URL: {CALLBACK_PATH}")
    return 0


def _client_secret() -> str:
    secret = os.environ.get("PDKERNEL_OAUTH_CLIENT_SECRET")
    if secret is None:
        secret = read_hidden("OAuth client secret")
    if not secret:
        raise RequestError(
            "The OAuth client's secret is empty.", fix="For a client without a secret, pass --oauth-public."
        )
    return secret


@command(apps, name="list", examples=("pdkernel apps list --json",))
@json_option
def list_apps(state: CliContext, as_json: bool) -> int:
    """
    List apps with the fields of their credentials.

    These are the apps of accounts, the apps of actions, and registered apps.
    """
    from pdkernel.accounts.oauth_providers import find_provider, list_provider_apps
    from pdkernel.accounts.registered_apps import load_registered_apps
    from pdkernel.common.identity import ACCESS_TOKEN_FIELD

    project, directory = state.open_project(), state.open_directory()
    known = (
        {account.app for account in directory.accounts()}
        | set(load_registered_apps(project))
        | list_provider_apps(project)
    )
    known |= set(open_catalog(state).list_apps())
    rows: list[dict[str, Any]] = []
    for app in sorted(known):
        provider = find_provider(project, app)
        if provider is None:
            rows.append({"app": app, "fields": list(directory.credential_fields(app))})
        else:
            rows.append({"app": app, "fields": [ACCESS_TOKEN_FIELD], "oauth_authorize_url": provider.authorize_url})
    if as_json:
        print_json(rows)
    else:
        for row in rows:
            signs_in = f" (OAuth 2 at {row['oauth_authorize_url']})" if "oauth_authorize_url" in row else ""
            click.echo(f"{row['app']}  {', '.join(row['fields'])}{signs_in}")
        if not rows:
            click.echo("No apps yet. Add one: pdkernel apps add SLUG --field NAME")
    return 0


@command(apps, name="webhook-key", examples=("pdkernel apps webhook-key",))
@json_option
def webhook_key(state: CliContext, as_json: bool) -> int:
    """
    Print the key that signs webhooks.

    It signs the webhooks of Connect tokens; the signature is in the header x-pd-signature.
    """
    from pdkernel.server.webhooks import get_signing_key

    key = get_signing_key(state.open_project())
    if as_json:
        print_json({"signing_key": key})
    else:
        click.echo(key)
    return 0

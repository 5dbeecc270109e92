"""
`pdkernel users`, `accounts` and `apps`: external users, their accounts, and the OAuth clients that connect accounts.

Credentials and client secrets are read from a prompt, a file, standard input or the environment. `storage` stores them.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
import cloup

from pdkernel.cli.actions import open_catalog
from pdkernel.cli.app import RUN, CliContext, command, environment_option, group, json_option, yes_option
from pdkernel.cli.terminal import confirm, print_json, print_text, read_hidden
from pdkernel.errors import RequestError, format_count

if TYPE_CHECKING:
    from pdkernel.common.identity import Account
    from pdkernel.storage import Project


@group(section=RUN)
def users() -> None:
    """List and remove external users."""


@group(section=RUN)
def accounts() -> None:
    """Connect accounts of external users and your own."""


@command(
    users,
    name="list",
    examples=("pdkernel users list --environment production", "pdkernel users list --search acme --limit 5"),
)
@environment_option(default="both")
@cloup.option("--search", metavar="TEXT", default="", help="Only users whose id or account name contains TEXT.")
@cloup.option("--limit", type=click.IntRange(min=1), metavar="N", help="The most users of an environment to list.")
@json_option
def list_users(state: CliContext, environment: str | None, search: str, limit: int | None, as_json: bool) -> int:
    """
    List external users by their ids.

    With --search or --limit, the most recently active come first.
    """
    from pdkernel.common.identity import ENVIRONMENTS, parse_environment
    from pdkernel.operations.readiness.matrix import ALL_USERS
    from pdkernel.operations.users import format_entry, search_users

    project, directory = state.open_project(), state.open_directory()
    found = [
        asyncio.run(search_users(project, directory, environment=each, text=search, limit=limit or ALL_USERS))
        for each in ([parse_environment(environment)] if environment else ENVIRONMENTS)
    ]
    by_id = not search and limit is None
    entries = [
        entry
        for each in found
        for entry in (sorted(each.entries, key=lambda entry: entry.external_user_id) if by_id else each.entries)
    ]
    if as_json:
        print_json([entry.json_form() for entry in entries])
        return 0
    for each in found:
        for entry in (entry for entry in entries if entry.environment == each.environment):
            print_text(format_entry(entry, shows_names=bool(search)))
        if each.more:
            print_text(f"{each.more:,} more in {each.environment}. Pass a larger --limit, or narrow the --search.")
    if not entries:
        if search:
            print_text(f"There are no external users whose id or account name contains {search!r}.")
            return 0
        click.echo("No external users yet. Connect an account to create one:")
        click.echo("  pdkernel accounts add --external-user ID --app SLUG --credential KEY")
    return 0


@command(users, name="remove", examples=("pdkernel users remove ada", "pdkernel users remove ada --yes"))
@cloup.argument("external_user_id", metavar="ID")
@environment_option()
@yes_option
@json_option
def remove_user(state: CliContext, external_user_id: str, environment: str | None, yes: bool, as_json: bool) -> int:
    """Remove an external user with their accounts and runs."""
    from pdkernel.common.identity import parse_environment
    from pdkernel.journal import ExecutionQuery
    from pdkernel.operations import run_history

    where, directory = parse_environment(environment), state.open_directory()
    if directory.find_user(external_user_id, where) is None:
        raise RequestError(
            f"There is no external user {external_user_id!r} in {where}.", fix="See: pdkernel users list"
        )
    lost = len(directory.accounts(external_user_id=external_user_id, environment=where, own=False))
    query = ExecutionQuery(external_user_id=external_user_id, environment=where)
    project = state.open_project()
    run_ids = asyncio.run(run_history.find_run_ids(project, query))
    confirm(
        f"Remove {external_user_id}, {format_count(lost, 'account')} with credentials and "
        f"{format_count(len(run_ids), 'recorded run')} in {where}",
        yes=yes,
    )
    removed = asyncio.run(_remove_runs(project, run_ids)) if run_ids else 0
    directory.delete_user(external_user_id, where)
    if as_json:
        print_json({"external_user_id": external_user_id, "environment": where, "removed": True, "runs": removed})
    else:
        print_text(f"Removed {external_user_id}, their accounts and {format_count(removed, 'run')} in {where}.")
    return 0


async def _remove_runs(project: Project, run_ids: Sequence[str]) -> int:
    """Remove runs. Raises `RequestError` if one is executing."""
    from pdkernel.operations import run_history

    async with run_history.open_journal(project) as journal:
        return await run_history.remove_runs(journal, run_ids)


@command(accounts, name="list", examples=("pdkernel accounts list --external-user ada", "pdkernel accounts list --own"))
@cloup.option("--external-user", metavar="ID", help="Only accounts of this external user.")
@environment_option(default="both")
@cloup.option("--app", metavar="SLUG", help="Only accounts of this app.")
@cloup.option("--own", is_flag=True, help="Only your own accounts.")
@json_option
def list_accounts(state: CliContext, external_user: str | None, environment: str | None, app: str | None, own: bool, as_json: bool) -> int:  # fmt: skip
    """
    List accounts, newest first, without credentials.

    Your own accounts are valid in both environments, and listed for both.
    """
    from pdkernel.common.identity import parse_environment

    found = state.open_directory().accounts(
        external_user_id=external_user,
        environment=parse_environment(environment) if environment else None,
        app=app,
        own=True if own else None,
    )
    if as_json:
        print_json([encode_account(account) for account in found])
    else:
        for account in found:
            print_text(format_account(account))
        if not found:
            click.echo("No accounts.")
    return 0


@command(accounts, name="show", examples=("pdkernel accounts show apn_1a2b3c4",))
@cloup.argument("account_id", metavar="ID")
@json_option
def show_account(state: CliContext, account_id: str, as_json: bool) -> int:
    """Show an account without its credentials."""
    account = _require(state, account_id)
    if as_json:
        print_json(encode_account(account))
    else:
        print_text(format_account(account))
        print_text(f"  credentials: {', '.join(account.credential_fields)} (values are never shown)")
    return 0


@command(accounts, name="remove", examples=("pdkernel accounts remove apn_1a2b3c4 --yes",))
@cloup.argument("account_id", metavar="ID")
@yes_option
@json_option
def remove_account(state: CliContext, account_id: str, yes: bool, as_json: bool) -> int:
    """Remove an account and its credentials."""
    account = _require(state, account_id)
    confirm(f"Remove {format_account(account)} and its credentials", yes=yes)
    state.open_directory().remove_account(account_id)
    if as_json:
        print_json(encode_account(account))
    else:
        print_text(f"Removed {format_account(account)}")
    return 0


@command(
    accounts,
    name="add",
    examples=(
        "pdkernel accounts add --external-user ada --app slack --credential oauth_access_token",
        "pdkernel accounts add --own --app postgresql --credential host=db --credential password=@password.txt",
    ),
)
@cloup.option("--external-user", metavar="ID", help="The external user who owns the account.")
@cloup.option("--own", is_flag=True, help="Your own account, not an external user's.")
@cloup.option("--app", metavar="SLUG", required=True, help="The app, such as slack.")
@environment_option()
@cloup.option("--id", "account_id", metavar="apn_...", help="The id of the account; generated by default.")
@cloup.option("--name", metavar="NAME", help="A display name.")
@cloup.option(
    "--credential", "credentials", metavar="KEY[=VALUE|=@FILE|=-]", multiple=True, required=True,
    help="A credential: a bare KEY prompts, @FILE reads a file, - reads standard input.",
)  # fmt: skip
@json_option
def add_account(
    state: CliContext,
    external_user: str | None,
    own: bool,
    app: str,
    environment: str | None,
    account_id: str | None,
    name: str | None,
    credentials: tuple[str, ...],
    as_json: bool,
) -> int:
    """
    Connect an account of an external user, or your own.

    The first account of an external user creates the user.
    """
    from pdkernel.common.identity import check_external_user_id, parse_environment
    from pdkernel.operations.users import connect_account

    if own == (external_user is not None):
        raise RequestError(
            "The owner of the account is missing or given twice.", fix="Pass either --external-user ID or --own."
        )
    where = parse_environment(environment)
    if external_user is not None:
        check_external_user_id(external_user)  # before the prompts for credentials
    account = connect_account(
        state.open_directory(),
        app,
        [_credential(text) for text in credentials],
        external_user_id=external_user,
        environment=where,
        account_id=account_id,
        name=name,
    )
    if as_json:
        print_json(encode_account(account))
    else:
        print_text(f"Connected {format_account(account)}")
    return 0


def _credential(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator:
        value = click.prompt(key, hide_input=True) if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
    elif value == "-":
        value = sys.stdin.read().rstrip("\n")
    elif value.startswith("@"):
        try:
            value = Path(value[1:]).read_text(encoding="utf-8").rstrip("\n")
        except (OSError, UnicodeDecodeError) as fault:
            why = getattr(fault, "strerror", None) or "the file is not UTF-8 text"
            raise RequestError(
                f"Cannot read the credential {key} from {value[1:]}: {why}.",
                fix=f"Pass a text file, or {key} alone for a prompt.",
            ) from None
    return key, value


def _require(state: CliContext, account_id: str) -> Account:
    account = state.open_directory().find_account(account_id)
    if account is None:
        raise RequestError(f"There is no account {account_id!r}.", fix="See: pdkernel accounts list")
    return account


def encode_account(account: Account) -> dict[str, Any]:
    """Return an account as JSON, without credentials."""
    from pdkernel.common.clock import format_iso

    return {
        "id": account.id,
        "app": account.app,
        "name": account.name,
        "owner": account.owner,
        "external_user_id": account.external_user_id,
        "environment": account.environment,
        "created_at": format_iso(account.created_at),
        "healthy": account.healthy,
        "fields": list(account.credential_fields),
    }


def format_account(account: Account) -> str:
    """Return an account in one line."""
    owner = "your own" if account.external_user_id is None else f"{account.external_user_id} in {account.environment}"
    broken = "" if account.healthy else "  no longer works: connect it again"
    return f"{account.id}  {account.app}  {owner}  {account.name}".rstrip() + broken


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
    from pdkernel.accounts.apps import OAuthProvider, register_app, register_provider
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
    from pdkernel.accounts.apps import find_provider, list_provider_apps, load_registered_apps
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

"""
`pdkernel triggers`: sources that are deployed at Pipedream.

Knows that nothing is changed before somebody has seen it and said yes. What changes is for `connect.moving` to know.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from pdkernel.cli.app import CliContext, command, env_option, json_option, pdkernel, print_json

if TYPE_CHECKING:
    from pdkernel.connect.webhook_migration import WebhookMigration, WebhookMigrator
    from pdkernel.project import Login


@pdkernel.group()
def triggers() -> None:
    """Sources that are deployed at Pipedream."""


@command(triggers, name="move")
@click.option("--to", metavar="URL", help="The workflow's endpoint here, as Pipedream can reach it.")
@click.option(
    "--from", "instead_of", metavar="URL", multiple=True, help="A webhook to replace, besides Pipedream's own."
)
@env_option("--external-user", "users", metavar="ID", multiple=True, help="Only the sources of this external user.")
@env_option("--environment", metavar="ENV", help="development (default) or production.")
@click.option("--only", metavar="dc_...", multiple=True, help="Only this source, even if it has nothing to replace.")
@click.option("--undo", is_flag=True, help="Take back what was changed: each source gets the webhooks that it had.")
@click.option("--dry-run", is_flag=True, help="Change nothing; the default without --yes.")
@click.option("--yes", is_flag=True, help="Make the changes.")
@json_option
def move(state: CliContext, yes: bool, dry_run: bool, undo: bool, as_json: bool, **chosen: Any) -> int:
    """
    Lead the webhooks of deployed sources to an endpoint here.

    Webhooks of Pipedream's workflow endpoints (*.m.pipedream.net) and those given with --from are replaced, others
    stay; a source that has none of these is left alone. Without --yes it only says what would change. What was changed
    is kept, and --undo takes it back, as long as nobody else has changed it since.
    """
    from pdkernel.connect.sdk import Sdk
    from pdkernel.connect.webhook_migration import WebhookMigrator

    login = _login(state)
    webhooks = WebhookMigrator(Sdk(login), state.open_project().settings)
    plan = _plan_undo(webhooks, chosen) if undo else _plan(state, webhooks, login, chosen)
    changing = [each for each in plan if each.has_changes]
    does = yes and not dry_run
    for each in changing if does else ():
        if undo:
            webhooks.undo(each)
        else:
            webhooks.apply(each)
        if not as_json:
            click.echo("\n".join(_lines(each)))
    if as_json:
        print_json([_json(each, done=does and each.has_changes) for each in plan])
    else:
        _say(changing, len(plan), done=does, undo=undo)
    return 0


def _plan(state: CliContext, webhooks: WebhookMigrator, login: Login, chosen: dict[str, Any]) -> list[WebhookMigration]:
    from pdkernel.connect.webhook_migration import check_target_url
    from pdkernel.errors import RequestError
    from pdkernel.identity import parse_environment

    to = chosen["to"]
    if not to:
        raise RequestError("Where are the webhooks to lead?", fix="Give the endpoint's URL: --to URL")
    check_target_url(to, api_url=login.base_url)
    where = parse_environment(chosen["environment"])
    users = chosen["users"] or [user.external_id for user in state.open_directory().users(where)]
    return webhooks.plan_migrations(
        users, where, target_url=to, replaced_urls=chosen["instead_of"], source_ids=chosen["only"]
    )


def _plan_undo(webhooks: WebhookMigrator, chosen: dict[str, Any]) -> list[WebhookMigration]:
    from pdkernel.errors import RequestError
    from pdkernel.identity import parse_environment

    if chosen["to"] or chosen["instead_of"]:
        raise RequestError(
            "--undo leads each source back to where it was led before.", fix="Leave --to and --from out."
        )
    where = parse_environment(chosen["environment"]) if chosen["environment"] else None
    return [
        each
        for each in webhooks.plan_undo()
        if (where is None or each.environment == where)
        and (not chosen["users"] or each.external_user in chosen["users"])
        and (not chosen["only"] or each.id in chosen["only"])
    ]


def _login(state: CliContext) -> Login:
    from pdkernel.errors import ConnectSettingsError

    login = state.open_project().login.load(os.environ)
    if login is None:
        raise ConnectSettingsError(
            "This project works with no Connect project, and sources are deployed in one.", fix="Log in: pdkernel login"
        )
    return login


def _say(changing: list[WebhookMigration], looked_at: int, *, done: bool, undo: bool) -> None:
    sources = "1 source" if looked_at == 1 else f"{looked_at} sources"
    if not changing:
        click.echo(f"Nothing to change: looked at {sources}.")
        return
    if done:
        back = "" if undo else " Back to what was: pdkernel triggers move --undo --yes"
        click.echo(f"Changed {len(changing)} of {sources}.{back}")
        return
    for each in changing:
        click.echo("\n".join(_lines(each)))
    click.echo(f"Would change {len(changing)} of {sources}. Nothing was changed; --yes makes the changes.")


def _lines(each: WebhookMigration) -> list[str]:
    gone = [f"  - {url}" for url in each.urls_before if url not in each.urls_after]
    kept = [f"    {url}" for url in each.urls_after if url in each.urls_before]
    new = [f"  + {url}" for url in each.urls_after if url not in each.urls_before]
    return [f"{each.id}  {each.name}  {each.external_user} in {each.environment}", *gone, *kept, *new]


def _json(each: WebhookMigration, *, done: bool) -> dict[str, Any]:
    return {
        "id": each.id,
        "name": each.name,
        "external_user": each.external_user,
        "environment": each.environment,
        "before": list(each.urls_before),
        "after": list(each.urls_after),
        "changed": done,
    }

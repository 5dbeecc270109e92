"""
`pdkernel triggers`: sources that are deployed at Pipedream.

Prints planned changes and applies them only with `--yes`. `connect.webhook_migration` plans and applies them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import click
import cloup

from pdkernel.cli.app import MIGRATE, CliContext, command, environment_option, group, json_option
from pdkernel.cli.terminal import print_json
from pdkernel.errors import RequestError

if TYPE_CHECKING:
    from pdkernel.connect.webhook_migration import WebhookMigration, WebhookMigrator
    from pdkernel.project import Login


@group(section=MIGRATE)
def triggers() -> None:
    """Move the webhooks of sources that are deployed at Pipedream."""


class MoveOptions(TypedDict):
    """Options of `pdkernel triggers move` that select webhooks."""

    to: str | None
    instead_of: tuple[str, ...]
    users: tuple[str, ...]
    environment: str | None
    only: tuple[str, ...]


@command(
    triggers,
    name="move",
    examples=(
        "pdkernel triggers move --to https://hooks.example.com/eo1a2b3c4d",
        "pdkernel triggers move --to https://hooks.example.com/eo1a2b3c4d --yes",
        "pdkernel triggers move --undo --yes",
    ),
)
@cloup.option("--to", metavar="URL", help="The workflow's local endpoint, at a URL that Pipedream can reach.")
@cloup.option(
    "--from",
    "instead_of",
    metavar="URL",
    multiple=True,
    help="Also replace this webhook; Pipedream's own are always replaced.",
)
@cloup.option("--external-user", "users", metavar="ID", multiple=True, help="Only the sources of this external user.")
@environment_option()
@cloup.option("--only", metavar="dc_...", multiple=True, help="Only this source, even without a webhook to replace.")
@cloup.option("--undo", is_flag=True, help="Undo earlier changes: each source gets its previous webhooks.")
@cloup.option("--dry-run", is_flag=True, help="Change nothing; the default without --yes.")
@cloup.option("--yes", is_flag=True, help="Make the changes.")
@json_option
def move(state: CliContext, yes: bool, dry_run: bool, undo: bool, as_json: bool, **options: Unpack[MoveOptions]) -> int:
    """
    Point the webhooks of deployed sources to a local endpoint.

    Replaces webhooks of Pipedream's workflow endpoints (*.m.pipedream.net) and those given with --from. Other webhooks
    and sources without such a webhook stay unchanged. Without --yes the command only prints the changes. --undo
    restores the previous webhooks of each source, unless they were changed in the meantime.
    """
    from pdkernel.connect.sdk import Sdk
    from pdkernel.connect.webhook_migration import WebhookMigrator

    login = _login(state)
    webhooks = WebhookMigrator(Sdk(login), state.open_project().settings)
    plan = _plan_undo(webhooks, options) if undo else _plan(state, webhooks, login, options)
    changing = [each for each in plan if each.has_changes]
    is_applied = yes and not dry_run
    for each in changing if is_applied else ():
        if undo:
            webhooks.undo(each)
        else:
            webhooks.apply(each)
        if not as_json:
            click.echo("\n".join(_lines(each)))
    if as_json:
        print_json([_json(each, done=is_applied and each.has_changes) for each in plan])
    else:
        _print_summary(changing, len(plan), done=is_applied, undo=undo)
    return 0


def _plan(state: CliContext, webhooks: WebhookMigrator, login: Login, options: MoveOptions) -> list[WebhookMigration]:
    from pdkernel.connect.webhook_migration import check_target_url
    from pdkernel.identity import parse_environment

    to = options["to"]
    if not to:
        raise RequestError("The target of the webhooks is missing.", fix="Pass the endpoint's URL: --to URL")
    check_target_url(to, api_url=login.base_url)
    where = parse_environment(options["environment"])
    users = options["users"] or [user.external_id for user in state.open_directory().users(where)]
    return webhooks.plan_migrations(
        users, where, target_url=to, replaced_urls=options["instead_of"], source_ids=options["only"]
    )


def _plan_undo(webhooks: WebhookMigrator, options: MoveOptions) -> list[WebhookMigration]:
    from pdkernel.identity import parse_environment

    if options["to"] or options["instead_of"]:
        raise RequestError("--undo restores the previous webhooks of each source.", fix="Leave out --to and --from.")
    where = parse_environment(options["environment"]) if options["environment"] else None
    return [
        each
        for each in webhooks.plan_undo()
        if (where is None or each.environment == where)
        and (not options["users"] or each.external_user in options["users"])
        and (not options["only"] or each.id in options["only"])
    ]


def _login(state: CliContext) -> Login:
    from pdkernel.errors import ConnectSettingsError

    login = state.open_project().login.load(os.environ)
    if login is None:
        raise ConnectSettingsError(
            "This project is not logged in to a Connect project, where sources are deployed.",
            fix="Log in: pdkernel login",
        )
    return login


def _print_summary(changing: list[WebhookMigration], checked: int, *, done: bool, undo: bool) -> None:
    sources = "1 source" if checked == 1 else f"{checked} sources"
    if not changing:
        click.echo(f"Nothing to change: checked {sources}.")
        return
    if done:
        back = "" if undo else " To undo: pdkernel triggers move --undo --yes"
        click.echo(f"Changed {len(changing)} of {sources}.{back}")
        return
    for each in changing:
        click.echo("\n".join(_lines(each)))
    click.echo(f"Would change {len(changing)} of {sources}. Nothing was changed; --yes makes the changes.")


def _lines(each: WebhookMigration) -> list[str]:
    removed = [f"  - {url}" for url in each.urls_before if url not in each.urls_after]
    kept = [f"    {url}" for url in each.urls_after if url in each.urls_before]
    new = [f"  + {url}" for url in each.urls_after if url not in each.urls_before]
    return [f"{each.id}  {each.name}  {each.external_user} in {each.environment}", *removed, *kept, *new]


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

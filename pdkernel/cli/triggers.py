"""
`pdkernel triggers`: sources that are deployed at Pipedream.

Knows that nothing is changed before somebody has seen it and said yes. What changes is for `connect.moving` to know.
"""

from __future__ import annotations

import os
from typing import Any

import click

from pdkernel.cli.app import State, command, json_option, option, pdkernel, print_json


@pdkernel.group()
def triggers() -> None:
    """Sources that are deployed at Pipedream."""


@command(triggers, name="move")
@click.option("--to", metavar="URL", help="The workflow's endpoint here, as Pipedream can reach it.")
@click.option(
    "--from", "instead_of", metavar="URL", multiple=True, help="A webhook to replace, besides Pipedream's own."
)
@option("--external-user", "users", metavar="ID", multiple=True, help="Only the sources of this external user.")
@option("--environment", metavar="ENV", help="development (default) or production.")
@click.option("--only", metavar="dc_...", multiple=True, help="Only this source, even if it has nothing to replace.")
@click.option("--undo", is_flag=True, help="Take back what was changed: each source gets the webhooks that it had.")
@click.option("--dry-run", is_flag=True, help="Change nothing; the default without --yes.")
@click.option("--yes", is_flag=True, help="Make the changes.")
@json_option
def move(state: State, yes: bool, dry_run: bool, undo: bool, as_json: bool, **chosen: Any) -> int:
    """
    Lead the webhooks of deployed sources to an endpoint here.

    Webhooks of Pipedream's workflow endpoints (*.m.pipedream.net) and those given with --from are replaced, others
    stay; a source that has none of these is left alone. Without --yes it only says what would change. What was changed
    is kept, and --undo takes it back, as long as nobody else has changed it since.
    """
    from pdkernel.connect.moving import Webhooks
    from pdkernel.connect.sdk import Sdk

    login = _login(state)
    webhooks = Webhooks(Sdk(login), state.project().settings)
    plan = _plan_undo(webhooks, chosen) if undo else _plan(state, webhooks, login, chosen)
    changing = [each for each in plan if each.changes]
    does = yes and not dry_run
    for each in changing if does else ():
        if undo:
            webhooks.undo(each)
        else:
            webhooks.apply(each)
        if not as_json:
            click.echo("\n".join(_lines(each)))
    if as_json:
        print_json([_json(each, done=does and each.changes) for each in plan])
    else:
        _say(changing, len(plan), done=does, undo=undo)
    return 0


def _plan(state: State, webhooks: Any, login: Any, chosen: dict[str, Any]) -> list[Any]:
    from pdkernel.connect.moving import check_target
    from pdkernel.errors import RequestError
    from pdkernel.identity import parse_environment

    to = chosen["to"]
    if not to:
        raise RequestError("Where are the webhooks to lead?", fix="Give the endpoint's URL: --to URL")
    check_target(to, api=login.base_url)
    where = parse_environment(chosen["environment"])
    users = chosen["users"] or [user.external_id for user in state.directory().users(where)]
    plan: list[Any] = webhooks.plan(users, where, to=to, instead_of=chosen["instead_of"], only=chosen["only"])
    return plan


def _plan_undo(webhooks: Any, chosen: dict[str, Any]) -> list[Any]:
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


def _login(state: State) -> Any:
    from pdkernel.errors import ConnectSettingsError

    login = state.project().login.find(os.environ)
    if login is None:
        raise ConnectSettingsError(
            "This project works with no Connect project, and sources are deployed in one.", fix="Log in: pdkernel login"
        )
    return login


def _say(changing: list[Any], looked_at: int, *, done: bool, undo: bool) -> None:
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


def _lines(each: Any) -> list[str]:
    gone = [f"  - {url}" for url in each.before if url not in each.after]
    kept = [f"    {url}" for url in each.after if url in each.before]
    new = [f"  + {url}" for url in each.after if url not in each.before]
    return [f"{each.id}  {each.name}  {each.external_user} in {each.environment}", *gone, *kept, *new]


def _json(each: Any, *, done: bool) -> dict[str, Any]:
    return {
        "id": each.id,
        "name": each.name,
        "external_user": each.external_user,
        "environment": each.environment,
        "before": list(each.before),
        "after": list(each.after),
        "changed": done,
    }

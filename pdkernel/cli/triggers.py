"""
`pdkernel triggers`: triggers of workflows that fire while `pdkernel serve` runs, and webhooks of sources at Pipedream.

`operations.triggers` turns triggers on and off. `connect.webhook_migration` moves webhooks; `move` prints planned changes and
applies them only with `--yes`.
"""

from __future__ import annotations

import asyncio
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import click
import cloup

from pdkernel.cli.app import SERVE, CliContext, command, environment_option, group, json_option
from pdkernel.cli.terminal import print_json, print_text
from pdkernel.common.clock import format_iso
from pdkernel.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pdkernel.accounts.webhook_migration import WebhookMigration, WebhookMigrator
    from pdkernel.operations.triggers import TriggerView
    from pdkernel.storage import Login, Project, TriggerState


@group(section=SERVE)
def triggers() -> None:
    """Turn triggers other than HTTP on and off, and move webhooks from Pipedream."""


@command(triggers, name="list", examples=("pdkernel triggers list", "pdkernel triggers list workflows/ --json"))
@cloup.argument("sources", nargs=-1, metavar="[SOURCE]...", type=click.Path(path_type=Path))
@json_option
def list_triggers(state: CliContext, sources: tuple[Path, ...], as_json: bool) -> int:
    """
    List triggers, with their next and last fire.

    SOURCE is a notebook, a workflow's folder, or a folder of them; the default is the current folder. Triggers elsewhere are
    listed if they are on.
    """
    from pdkernel.operations.triggers import list_triggers

    project = state.open_project()
    views = list_triggers(project, sources or (Path.cwd(),))
    if as_json:
        print_json([_trigger_json(project, view) for view in views])
    else:
        print_text("\n".join(trigger_lines(project, views)) or "No workflow here has a trigger other than HTTP.")
    return 0


@command(
    triggers,
    name="enable",
    examples=(
        "pdkernel triggers enable reports.ipynb",
        "pdkernel triggers enable p_5xHmDqK",
        'pdkernel triggers enable "Reports of the week"',
    ),
)
@cloup.argument("workflow")
@json_option
def enable(state: CliContext, workflow: str, as_json: bool) -> int:
    """
    Turn the triggers of a workflow on.

    WORKFLOW is a workflow's name or id in the current folder, or the path of its notebook or folder. The triggers fire while
    `pdkernel serve` serves the workflow. First turn the workflow off at Pipedream, which fires them as well.
    """
    from pdkernel.operations.triggers import enable_triggers

    return _print_changed(state, enable_triggers(state.open_project(), workflow, Path.cwd()), as_json=as_json)


@command(
    triggers,
    name="disable",
    examples=("pdkernel triggers disable reports.ipynb", "pdkernel triggers disable p_5xHmDqK --json"),
)
@cloup.argument("workflow")
@json_option
def disable(state: CliContext, workflow: str, as_json: bool) -> int:
    """
    Turn the triggers of a workflow off.

    WORKFLOW is the name or id of a workflow whose triggers are on, or the path of its notebook or folder. Runs go on, and events
    that wait still start their runs.
    """
    from pdkernel.operations.triggers import disable_triggers

    return _print_changed(state, disable_triggers(state.open_project(), workflow, Path.cwd()), as_json=as_json)


def _print_changed(state: CliContext, views: list[TriggerView], *, as_json: bool) -> int:
    project = state.open_project()
    if as_json:
        print_json([_trigger_json(project, view) for view in views])
    else:
        print_text("\n".join(trigger_lines(project, views)))
    return 0


def trigger_lines(project: Project, views: Sequence[TriggerView], *, base_url: str = "") -> list[str]:
    """
    Return a line for each trigger: on or off, workflow, what fires it, and its state or the command that turns it on.

    Args:
        project: The project.
        views: The triggers.
        base_url: The URL of the server, for the URLs of endpoints.
    """
    rows = [("on " if view.is_enabled else "off", view.workflow_name, view.description) for view in views]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        + f"  {_trigger_state(project, view, base_url)}"
        for row, view in zip(rows, views, strict=True)
    ]


def _trigger_state(project: Project, view: TriggerView, base_url: str) -> str:
    from pdkernel.render.formatting import format_timestamp

    state = view.state
    parts = []
    if state is None or not state.enabled:
        parts = [f"pdkernel triggers enable {shlex.quote(_shown_path(view.source))}"]
    elif state.due is not None:
        parts = [f"next {format_timestamp(format_iso(state.due))}"]
    elif view.trigger is not None and view.trigger.type == "source" and not state.is_active:
        parts = ["starts when it is served"]
    elif state.type in ("errors", "emit"):
        parts = ["fires when a run fails" if state.type == "errors" else "fires when a run emits an event"]
    elif state.result is None or state.fired is not None:
        parts = [f"fires on requests to {base_url}/{project.endpoint_keys.ensure_trigger_key(state.id)}"]
    if state is not None and state.fired is not None:
        result = _last_result(project, state)
        parts.append(f"last {format_timestamp(format_iso(state.fired))}" + (f", {result}" if result else ""))
    elif state is not None and state.result:
        parts.append(state.result)
    return ", ".join(parts)


def _shown_path(path: Path) -> str:
    here = Path.cwd()
    return str(path.resolve().relative_to(here)) if path.resolve().is_relative_to(here) else str(path)


def _last_result(project: Project, state: TriggerState) -> str | None:
    """Return the result of the source's last run, or the status of the trigger's last run."""
    from pdkernel.operations.run_history import get_run

    if state.result is not None or state.run_id is None:
        return state.result
    try:
        return asyncio.run(get_run(project, state.run_id)).status
    except RequestError:  # the run was removed
        return None


def _trigger_json(project: Project, view: TriggerView) -> dict[str, Any]:
    state = view.state
    return {
        "workflow": view.workflow_name,
        "id": view.workflow_id,
        "source": str(view.source),
        "trigger": view.key,
        "type": view.trigger.type if view.trigger is not None else None,
        "description": view.description,
        "enabled": view.is_enabled,
        "next_fire": format_iso(state.due) if state is not None and state.due is not None else None,
        "last_fire": format_iso(state.fired) if state is not None and state.fired is not None else None,
        "last_run": state.run_id if state is not None else None,
        "last_result": _last_result(project, state) if state is not None else None,
    }


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
    from pdkernel.accounts.sdk import Sdk
    from pdkernel.accounts.webhook_migration import WebhookMigrator

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
            print_text("\n".join(_lines(each)))
    if as_json:
        print_json([_json(each, done=is_applied and each.has_changes) for each in plan])
    else:
        _print_summary(changing, len(plan), done=is_applied, undo=undo)
    return 0


def _plan(state: CliContext, webhooks: WebhookMigrator, login: Login, options: MoveOptions) -> list[WebhookMigration]:
    from pdkernel.accounts.webhook_migration import check_target_url
    from pdkernel.common.identity import parse_environment

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
    from pdkernel.common.identity import parse_environment

    if options["to"] or options["instead_of"]:
        raise RequestError("--undo restores the previous webhooks of each source.", fix="Leave out --to and --from.")
    where = parse_environment(options["environment"]) if options["environment"] else None
    return [
        each
        for each in webhooks.plan_undo()
        if (where is None or each.environment == where)
        and (not options["users"] or each.external_user_id in options["users"])
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
        print_text("\n".join(_lines(each)))
    click.echo(f"Would change {len(changing)} of {sources}. Nothing was changed; --yes makes the changes.")


def _lines(each: WebhookMigration) -> list[str]:
    removed = [f"  - {url}" for url in each.urls_before if url not in each.urls_after]
    kept = [f"    {url}" for url in each.urls_after if url in each.urls_before]
    new = [f"  + {url}" for url in each.urls_after if url not in each.urls_before]
    return [f"{each.id}  {each.name}  {each.external_user_id} in {each.environment}", *removed, *kept, *new]


def _json(each: WebhookMigration, *, done: bool) -> dict[str, Any]:
    return {
        "id": each.id,
        "name": each.name,
        "external_user": each.external_user_id,
        "environment": each.environment,
        "before": list(each.urls_before),
        "after": list(each.urls_after),
        "changed": done,
    }

"""
`pdkernel source poll` and `forget`: events from the event source that is a workflow's trigger.

Knows the options and how what a source did is printed. Running one is the engine's work.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from pdkernel.cli.app import CliContext, command, env_option, json_option, pdkernel, print_json, read_input

if TYPE_CHECKING:
    from pdkernel.engine.event_sources import SourceRequest, SourceResult


@pdkernel.group()
def source() -> None:
    """Event sources: what starts a workflow whose trigger is one."""


_USER = env_option("--external-user", metavar="ID", help="Whose account the source uses.")
_ENVIRONMENT = env_option("--environment", metavar="ENV", help="development (default) or production.")


@command(source, name="poll")
@click.argument("workflow", metavar="SOURCE", type=click.Path(path_type=Path))
@_USER
@_ENVIRONMENT
@env_option(
    "--hook", metavar="NAME", help="Run a hook instead: deploy (often emits past events), activate, deactivate."
)
@env_option(
    "--event", metavar="FILE|-", help="What its interface gets, such as a webhook's request; else a timer's tick."
)
@env_option("--endpoint", metavar="URL", help="Where its HTTP interface is reached from outside: a tunnel to you, say.")
@env_option("--egress", metavar="MODE", help="Outside calls, as for `pdkernel run`.")
@env_option("--save", metavar="NAME", help="Save the new events as events/NAME-1.json, ... beside the workflow.")
@env_option("--no-install", is_flag=True, help="Install nothing.")
@json_option
def poll(state: CliContext, workflow: Path, as_json: bool, **chosen: Any) -> int:
    """Run the event source of the workflow in SOURCE once, and list the events that it emits for the first time."""
    request, folder = _request(workflow, chosen)
    ran = asyncio.run(_poll(state, request))
    saved = _save(folder, chosen["save"], ran) if chosen["save"] else []
    if as_json:
        print_json(_json(ran, saved))
    else:
        _print(ran, saved, workflow)
    return 1 if ran.record.error else 0


@command(source, name="forget")
@click.argument("workflow", metavar="SOURCE", type=click.Path(path_type=Path))
@_USER
@_ENVIRONMENT
@json_option
def forget(state: CliContext, workflow: Path, as_json: bool, **chosen: Any) -> int:
    """Forget what the source remembers, so that every event is new again."""
    request, _ = _request(
        workflow, {**chosen, "hook": None, "event": None, "egress": None, "endpoint": None, "no_install": True}
    )
    forgotten = state.open_project().source_states.remove(request.state_key)
    if as_json:
        print_json({"forgotten": forgotten})
    else:
        click.echo("Everything is new to the source again." if forgotten else "The source remembered nothing.")
    return 0


def _request(path: Path, chosen: dict[str, Any]) -> tuple[SourceRequest, Path]:
    from pdkernel.egress import default_mode, parse_policy
    from pdkernel.engine.event_sources import SourceAct, SourceRequest, require_source_trigger
    from pdkernel.errors import RequestError
    from pdkernel.event import parse_json
    from pdkernel.identity import parse_environment
    from pdkernel.model import DEFAULT_TIMEOUT_S
    from pdkernel.source import load_source

    opened = load_source(path)
    hook = chosen["hook"]
    if hook is not None and hook not in get_args(SourceAct):
        raise RequestError(f"{hook!r} is not a hook of sources.", fix="They are deploy, activate and deactivate.")
    event = chosen["event"]
    request = SourceRequest(
        trigger=require_source_trigger(opened.workflow.trigger),
        owner_key=str(opened.path.resolve()),
        policy=parse_policy(chosen["egress"] or default_mode(os.environ)),
        act=hook or "run",
        event=parse_json(read_input(event), label=event) if event else None,
        external_user_id=chosen["external_user"],
        environment=parse_environment(chosen["environment"]),
        folder=opened.folder.resolve(),
        timeout_s=DEFAULT_TIMEOUT_S["source"],
        install=not chosen["no_install"],
        endpoint_url=chosen["endpoint"],
    )
    return request, opened.folder


async def _poll(state: CliContext, request: SourceRequest) -> SourceResult:
    from pdkernel.engine.workflow_engine import WorkflowEngine

    async with await WorkflowEngine.start(state.open_project(), state.open_directory(), max_active_runs=1) as runtime:
        return await runtime.source_runner.run(request)


def _save(folder: Path, name: str, ran: SourceResult) -> list[Path]:
    from pdkernel.session.event_library import EventLibrary

    library = EventLibrary(folder)
    return [library.save(f"{name}-{number}", found.event) for number, found in enumerate(ran.events, start=1)]


def _json(ran: SourceResult, saved: list[Path]) -> dict[str, Any]:
    return {
        "source": ran.component.uses,
        "events": [
            {"event": dict(found.event.data), "id": found.id, "summary": found.summary, "ts": found.ts}
            for found in ran.events
        ],
        "repeated": ran.repeated_count,
        "performed": ran.had_hook,
        "response": ran.response,
        "record": ran.record.to_json(),
        "saved": [str(path) for path in saved],
    }


def _print(ran: SourceResult, saved: list[Path], workflow: Path) -> None:
    for log in ran.record.logs:
        click.echo(log.text, nl=False, err=log.stream == "stderr")
    if ran.record.error is not None:
        click.echo(f"Error: {ran.component.uses}: {ran.record.error.message}", err=True)
    if not ran.had_hook and ran.record.error is None:
        click.echo(f"{ran.component.uses} has no such hook.")
        return
    for number, found in enumerate(ran.events, start=1):
        click.echo(f"{number}. {found.summary or found.id or 'event'}")
    if ran.response is not None:
        click.echo(f"It answered the request with status {ran.response['status']}.")
    new = len(ran.events)
    click.echo(f"{new} new event{'' if new == 1 else 's'}, {ran.repeated_count} emitted before.")
    if saved:
        click.echo(f"Run one: pdkernel run {workflow} --event {saved[0]}")
    elif new:
        click.echo("--save NAME saves them as test events.")

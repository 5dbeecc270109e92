"""
`pdkernel source poll` and `forget`: events from the event source that is a workflow's trigger.

Knows the options and how what a source did is printed. Running one is the engine's work.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any, get_args

import click

from pdkernel.cli.app import State, command, json_option, option, pdkernel, print_json, read_input


@pdkernel.group()
def source() -> None:
    """Event sources: what starts a workflow whose trigger is one."""


_USER = option("--external-user", metavar="ID", help="Whose account the source uses.")
_ENVIRONMENT = option("--environment", metavar="ENV", help="development (default) or production.")


@command(source, name="poll")
@click.argument("workflow", metavar="SOURCE", type=click.Path(path_type=Path))
@_USER
@_ENVIRONMENT
@option("--hook", metavar="NAME", help="Run a hook instead: deploy (often emits past events), activate, deactivate.")
@option("--event", metavar="FILE|-", help="What its interface gets, such as a webhook's request; else a timer's tick.")
@option("--endpoint", metavar="URL", help="Where its HTTP interface is reached from outside: a tunnel to you, say.")
@option("--egress", metavar="MODE", help="Outside calls, as for `pdkernel run`.")
@option("--save", metavar="NAME", help="Save the new events as events/NAME-1.json, ... beside the workflow.")
@option("--no-install", is_flag=True, help="Install nothing.")
@json_option
def poll(state: State, workflow: Path, as_json: bool, **chosen: Any) -> int:
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
def forget(state: State, workflow: Path, as_json: bool, **chosen: Any) -> int:
    """Forget what the source remembers, so that every event is new again."""
    request, _ = _request(
        workflow, {**chosen, "hook": None, "event": None, "egress": None, "endpoint": None, "no_install": True}
    )
    forgotten = state.project().source_states.remove(request.key)
    if as_json:
        print_json({"forgotten": forgotten})
    else:
        click.echo("Everything is new to the source again." if forgotten else "The source remembered nothing.")
    return 0


def _request(path: Path, chosen: dict[str, Any]) -> tuple[Any, Path]:
    from pdkernel.egress import default_mode, parse_mode
    from pdkernel.engine.sources import Act, SourceRequest, source_of
    from pdkernel.errors import RequestError
    from pdkernel.event import parse_json
    from pdkernel.identity import parse_environment
    from pdkernel.model import DEFAULT_TIMEOUT_S
    from pdkernel.source import read_source

    opened = read_source(path)
    hook = chosen["hook"]
    if hook is not None and hook not in get_args(Act):
        raise RequestError(f"{hook!r} is not a hook of sources.", fix="They are deploy, activate and deactivate.")
    event = chosen["event"]
    request = SourceRequest(
        trigger=source_of(opened.workflow.trigger),
        workflow=str(opened.path.resolve()),
        policy=parse_mode(chosen["egress"] or default_mode(os.environ)),
        act=hook or "run",
        event=parse_json(read_input(event), name=event) if event else None,
        external_user_id=chosen["external_user"],
        environment=parse_environment(chosen["environment"]),
        folder=opened.folder.resolve(),
        timeout_s=DEFAULT_TIMEOUT_S["source"],
        install=not chosen["no_install"],
        endpoint=chosen["endpoint"],
    )
    return request, opened.folder


async def _poll(state: State, request: Any) -> Any:
    from pdkernel.engine.runtime import Runtime

    async with await Runtime.start(state.project(), state.directory(), size=1) as runtime:
        return await runtime.sources.run(request)


def _save(folder: Path, name: str, ran: Any) -> list[Path]:
    from pdkernel.session.events import EventLibrary

    library = EventLibrary(folder)
    return [library.save(f"{name}-{number}", found.event) for number, found in enumerate(ran.events, start=1)]


def _json(ran: Any, saved: list[Path]) -> dict[str, Any]:
    return {
        "source": ran.component.uses,
        "events": [
            {"event": dict(found.event.data), "id": found.id, "summary": found.summary, "ts": found.ts}
            for found in ran.events
        ],
        "repeated": ran.repeated,
        "performed": ran.performed,
        "response": ran.response,
        "record": ran.record.to_json(),
        "saved": [str(path) for path in saved],
    }


def _print(ran: Any, saved: list[Path], workflow: Path) -> None:
    for log in ran.record.logs:
        click.echo(log.text, nl=False, err=log.stream == "stderr")
    if ran.record.error is not None:
        click.echo(f"Error: {ran.component.uses}: {ran.record.error.message}", err=True)
    if not ran.performed and ran.record.error is None:
        click.echo(f"{ran.component.uses} has no such hook.")
        return
    for number, found in enumerate(ran.events, start=1):
        click.echo(f"{number}. {found.summary or found.id or 'event'}")
    if ran.response is not None:
        click.echo(f"It answered the request with status {ran.response['status']}.")
    new = len(ran.events)
    click.echo(f"{new} new event{'' if new == 1 else 's'}, {ran.repeated} emitted before.")
    if saved:
        click.echo(f"Run one: pdkernel run {workflow} --event {saved[0]}")
    elif new:
        click.echo("--save NAME saves them as test events.")

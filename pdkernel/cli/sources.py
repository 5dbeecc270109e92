"""
`pdkernel source poll` and `forget`: events from the event source that is a workflow's trigger.

Options of the commands and the output of a poll. The engine runs the source.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, cast, get_args

import click

from pdkernel.cli.app import CliContext, command, env_option, json_option, pdkernel, print_json, read_input

if TYPE_CHECKING:
    from pdkernel.engine.event_sources import SourceRequest, SourceResult


@pdkernel.group()
def source() -> None:
    """Event sources that trigger workflows."""


_USER = env_option("--external-user", metavar="ID", help="The external user whose account the source uses.")
_ENVIRONMENT = env_option("--environment", metavar="ENV", help="development (default) or production.")


class PollOptions(TypedDict):
    """Options of `pdkernel source poll`."""

    external_user: str | None
    environment: str | None
    hook: str | None
    event: str | None
    endpoint: str | None
    egress: str | None
    save: str | None
    no_install: bool


@command(source, name="poll")
@click.argument("workflow", metavar="SOURCE", type=click.Path(path_type=Path))
@_USER
@_ENVIRONMENT
@env_option(
    "--hook",
    metavar="NAME",
    help="Run a hook instead of run(): deploy (often emits past events), activate or deactivate.",
)
@env_option(
    "--event", metavar="FILE|-", help="The event for run(), such as a webhook request; default: a tick of its timer."
)
@env_option("--endpoint", metavar="URL", help="Public URL of the source's HTTP interface, such as the URL of a tunnel.")
@env_option("--egress", metavar="MODE", help="Outbound calls, as for `pdkernel run`.")
@env_option("--save", metavar="NAME", help="Save the new events as events/NAME-1.json, ... beside the workflow.")
@env_option("--no-install", is_flag=True, help="Do not install packages.")
@json_option
def poll(state: CliContext, workflow: Path, as_json: bool, **options: Unpack[PollOptions]) -> int:
    """Run the event source of the workflow in SOURCE once and list its new events."""
    request, folder = _request(workflow, options)
    result = asyncio.run(_poll(state, request))
    saved = _save(folder, options["save"], result) if options["save"] else []
    if as_json:
        print_json(_json(result, saved))
    else:
        _print(result, saved, workflow)
    return 1 if result.record.error else 0


@command(source, name="forget")
@click.argument("workflow", metavar="SOURCE", type=click.Path(path_type=Path))
@_USER
@_ENVIRONMENT
@json_option
def forget(state: CliContext, workflow: Path, external_user: str | None, environment: str | None, as_json: bool) -> int:
    """Remove the source's stored state, so that every event is new again."""
    options = PollOptions(
        external_user=external_user,
        environment=environment,
        hook=None,
        event=None,
        endpoint=None,
        egress=None,
        save=None,
        no_install=True,
    )
    request, _ = _request(workflow, options)
    forgotten = state.open_project().source_states.remove(request.state_key)
    if as_json:
        print_json({"forgotten": forgotten})
    else:
        click.echo(
            "Removed the source's state: every event is new again." if forgotten else "The source has no stored state."
        )
    return 0


def _request(path: Path, options: PollOptions) -> tuple[SourceRequest, Path]:
    from pdkernel.egress import default_mode, parse_policy
    from pdkernel.engine.event_sources import SourceAct
    from pdkernel.errors import RequestError
    from pdkernel.event import parse_json
    from pdkernel.identity import parse_environment
    from pdkernel.operations.sources import build_source_request
    from pdkernel.source import load_source

    opened = load_source(path)
    hook = options["hook"]
    if hook is not None and hook not in get_args(SourceAct):
        raise RequestError(f"{hook!r} is not a hook of a source.", fix="Use deploy, activate or deactivate.")
    event = options["event"]
    request = build_source_request(
        opened,
        policy=parse_policy(options["egress"] or default_mode(os.environ)),
        external_user_id=options["external_user"],
        environment=parse_environment(options["environment"]),
        event=parse_json(read_input(event), label=event) if event else None,
        install=not options["no_install"],
    )
    act = cast("SourceAct", hook or "run")
    return replace(request, act=act, endpoint_url=options["endpoint"]), opened.folder


async def _poll(state: CliContext, request: SourceRequest) -> SourceResult:
    from pdkernel.engine.workflow_engine import WorkflowEngine

    async with await WorkflowEngine.start(state.open_project(), state.open_directory(), max_active_runs=1) as engine:
        return await engine.source_runner.run(request)


def _save(folder: Path, name: str, result: SourceResult) -> list[Path]:
    from pdkernel.operations.events import EventLibrary

    library = EventLibrary(folder)
    return [library.save(f"{name}-{number}", found.event) for number, found in enumerate(result.events, start=1)]


def _json(result: SourceResult, saved: list[Path]) -> dict[str, Any]:
    return {
        "source": result.component.uses,
        "events": [
            {"event": dict(found.event.data), "id": found.id, "summary": found.summary, "ts": found.ts}
            for found in result.events
        ],
        "repeated": result.repeated_count,
        "performed": result.had_hook,
        "response": result.response.to_json() if result.response else None,
        "record": result.record.to_json(),
        "saved": [str(path) for path in saved],
    }


def _print(result: SourceResult, saved: list[Path], workflow: Path) -> None:
    from pdkernel.operations.sources import describe_events

    for log in result.record.logs:
        click.echo(log.text, nl=False, err=log.stream == "stderr")
    if result.record.error is not None:
        click.echo(f"Error: {result.component.uses}: {result.record.error.message}", err=True)
    if not result.had_hook and result.record.error is None:
        click.echo(f"{result.component.uses} does not have this hook.")
        return
    if result.response is not None:
        click.echo(f"The source answered the request with status {result.response.status}.")
    click.echo("\n".join(describe_events(result)))
    if saved:
        click.echo(f"Run one: pdkernel run {workflow} --event {saved[0]}")
    elif result.events:
        click.echo("To save them as test events, pass --save NAME.")

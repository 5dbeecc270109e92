"""
`pdkernel source poll` and `forget`: events from the event source that is a workflow's trigger.

Options of the commands and the output of a poll. The engine runs the source.
"""

from __future__ import annotations

import asyncio
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, cast, get_args

import click
import cloup

from pdkernel.cli.app import (
    EXIT_STATUSES,
    TEST,
    CliContext,
    command,
    egress_option,
    environment_option,
    group,
    json_option,
    yes_option,
)
from pdkernel.cli.run import choose_run_policy
from pdkernel.cli.terminal import confirm, print_json, print_text, read_input
from pdkernel.errors import RequestError

if TYPE_CHECKING:
    from pdkernel.engine.event_sources import SourceRequest, SourceResult


@group(section=TEST)
def source() -> None:
    """Run event sources that trigger workflows."""


_USER = cloup.option("--external-user", metavar="ID", help="The external user whose account the source uses.")
_ENVIRONMENT = environment_option()


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


@command(
    source,
    name="poll",
    examples=(
        "pdkernel source poll inbox.ipynb --external-user ada",
        "pdkernel source poll inbox.ipynb --external-user ada --hook deploy --save mail",
    ),
    exit_statuses={**EXIT_STATUSES, 1: "the source failed"},
)
@cloup.argument("workflow", metavar="SOURCE", type=click.Path(path_type=Path))
@_USER
@_ENVIRONMENT
@cloup.option(
    "--hook",
    metavar="NAME",
    help="Run a hook instead of run(): deploy (often emits past events), activate or deactivate.",
)
@cloup.option(
    "--event", metavar="FILE|-", help="The event for run(), such as a webhook request; default: a tick of its timer."
)
@cloup.option(
    "--endpoint", metavar="URL", help="Public URL of the source's HTTP interface, such as the URL of a tunnel."
)
@egress_option()
@cloup.option("--save", metavar="NAME", help="Save the new events as events/NAME-1.json, ... beside the workflow.")
@cloup.option(
    "--no-install",
    is_flag=True,
    envvar="PDKERNEL_NO_INSTALL",
    help="Do not install packages (also PDKERNEL_NO_INSTALL=1).",
)
@json_option
def poll(state: CliContext, workflow: Path, as_json: bool, **options: Unpack[PollOptions]) -> int:
    """
    Run the event source of a workflow once.

    Lists the new events. SOURCE is a notebook or a workflow's folder.
    """
    request, folder = _request(state, workflow, options)
    result = asyncio.run(_poll(state, request))
    saved = _save(folder, options["save"], result) if options["save"] else []
    if as_json:
        print_json(_json(result, saved))
    else:
        _print(result, saved, workflow)
    return 1 if result.record.error else 0


@command(source, name="forget", examples=("pdkernel source forget inbox.ipynb --external-user ada --yes",))
@cloup.argument("workflow", metavar="SOURCE", type=click.Path(path_type=Path))
@_USER
@_ENVIRONMENT
@yes_option
@json_option
def forget(
    state: CliContext, workflow: Path, external_user: str | None, environment: str | None, yes: bool, as_json: bool
) -> int:
    """
    Remove the stored state of the source.

    Every event is new again then.
    """
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
    request, _ = _request(state, workflow, options)
    confirm("Remove the stored state of the source, so that every event is new again", yes=yes)
    forgotten = state.open_project().source_states.remove(request.state_key)
    if as_json:
        print_json({"forgotten": forgotten})
    else:
        click.echo(
            "Removed the source's state: every event is new again." if forgotten else "The source has no stored state."
        )
    return 0


def _request(state: CliContext, path: Path, options: PollOptions) -> tuple[SourceRequest, Path]:
    from pdkernel.common.identity import parse_environment
    from pdkernel.engine.event_sources import SourceAct
    from pdkernel.event import parse_json
    from pdkernel.files.source import load_source
    from pdkernel.operations.triggers import build_source_request

    opened = load_source(path)
    hook = options["hook"]
    if hook is not None and hook not in get_args(SourceAct):
        raise RequestError(f"{hook!r} is not a hook of a source.", fix="Use deploy, activate or deactivate.")
    event = options["event"]
    request = build_source_request(
        opened,
        policy=choose_run_policy(state, opened, options["egress"]),
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
    from pdkernel.operations.triggers import describe_events

    for log in result.record.logs:
        print_text(log.text, nl=False, err=log.stream == "stderr")
    if result.record.error is not None:
        print_text(f"Error: {result.component.uses}: {result.record.error.message}", err=True)
    if not result.had_hook and result.record.error is None:
        click.echo(f"{result.component.uses} does not have this hook.")
        return
    if result.response is not None:
        click.echo(f"The source answered the request with status {result.response.status}.")
    print_text("\n".join(describe_events(result)))
    if saved:
        click.echo(f"Run one: pdkernel run {shlex.quote(str(workflow))} --event {shlex.quote(str(saved[0]))}")
    elif result.events:
        click.echo("To save them as test events, pass --save NAME.")

"""
`pdkernel runs`: the recorded runs of the project.

Options and output of the commands. The operations are in `operations.run_history`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypedDict, Unpack, get_args

import click
import cloup

from pdkernel.cli.app import RUN, CliContext, command, environment_option, group, json_option
from pdkernel.cli.terminal import color_statuses, print_json
from pdkernel.execution import Status

if TYPE_CHECKING:
    from datetime import datetime

    from pdkernel.identity import Environment


class ListOptions(TypedDict):
    """Options of `pdkernel runs list`."""

    workflow: str | None
    external_user: str | None
    environment: Environment | None
    status: Status | None
    since: str | None
    until: str | None
    limit: int
    before: str | None


@group(section=RUN)
def runs() -> None:
    """List and show recorded runs."""


@command(
    runs,
    name="list",
    examples=(
        "pdkernel runs list",
        "pdkernel runs list --workflow Greet --status error --since yesterday",
        'pdkernel runs list --external-user ada --since "last tuesday" --json',
    ),
)
@cloup.option("--workflow", metavar="NAME", help="Only runs of this workflow.")
@cloup.option("--external-user", metavar="ID", help="Only runs of this external user.")
@environment_option(default="both")
@cloup.option("--status", type=click.Choice(get_args(Status)), help="Only runs with this status.")
@cloup.option(
    "--since", metavar="TIME", help='Only runs that started then or later: 2h, 3d, 2026-11-24, "last tuesday".'
)
@cloup.option("--until", metavar="TIME", help="Only runs that started before then.")
@cloup.option(
    "--limit",
    type=click.IntRange(1, 1000),
    metavar="N",
    default=20,
    show_default=True,
    help="How many runs to list, the newest first.",
)
@cloup.option("--before", metavar="ID", help="Continue a list: only runs that are older than this one.")
@json_option
def list_runs(state: CliContext, as_json: bool, **options: Unpack[ListOptions]) -> int:
    """List runs, newest first."""
    from pdkernel.engine.journal import ExecutionQuery
    from pdkernel.operations import run_history
    from pdkernel.render import runs as runs_view

    project = state.open_project()

    def moment(option: str, text: str | None) -> datetime | None:
        return None if text is None else run_history.parse_moment(text, option=option, clock=project.clock)

    query = ExecutionQuery(
        workflow=options["workflow"],
        external_user=options["external_user"],
        environment=options["environment"],
        status=options["status"],
        since=moment("--since", options["since"]),
        until=moment("--until", options["until"]),
        limit=options["limit"],
        before_id=options["before"],
    )
    found = asyncio.run(run_history.list_runs(project, query))
    if as_json:
        print_json([execution.to_json() for execution in found])
        return 0
    click.echo(color_statuses(runs_view.render_text(found)), nl=False)
    if len(found) == options["limit"]:
        state.print_note(f"For older runs: --before {found[-1].id}")
    return 0


@command(
    runs,
    name="show",
    examples=(
        "pdkernel runs show 2abcdefghijklmnopqrstuvwxyz",
        "pdkernel runs show --explain",
        "pdkernel runs show --json",
    ),
)
@cloup.argument("run_id", metavar="[ID]", required=False)
@cloup.option("--explain", is_flag=True, help="Show how the account of the external user was found.")
@json_option
def show_run(state: CliContext, run_id: str | None, explain: bool, as_json: bool) -> int:
    """
    Show the timeline of a run.

    Without ID, shows the newest run.
    """
    from pdkernel.operations.run_history import get_run
    from pdkernel.render import timeline

    execution = asyncio.run(get_run(state.open_project(), run_id))
    if as_json:
        print_json(execution.to_json())
    else:
        click.echo(color_statuses(timeline.render_text(execution, explain_lookup=explain)), nl=False)
    return 0

"""
`pdkernel runs`: the recorded runs of the project.

Options and output of the commands. The operations are in `operations.run_history`. `replay` has the commands that run a
recorded event again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, Unpack, get_args

import click
import cloup

from pdkernel.cli.app import (
    RUN,
    CliContext,
    command,
    environment_option,
    group,
    json_option,
    yes_option,
)
from pdkernel.cli.command_help import RUN_EXIT_STATUSES
from pdkernel.cli.run_output import open_engine, print_next_command, resolve_exit_status, watch_run
from pdkernel.cli.terminal import color_statuses, confirm, print_json, read_body
from pdkernel.errors import RequestError, format_count
from pdkernel.execution import Status

if TYPE_CHECKING:
    from pdkernel.common.identity import Environment
    from pdkernel.execution import Execution
    from pdkernel.journal import ExecutionQuery, Journal

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


class FilterOptions(TypedDict):
    """Options that select runs."""

    workflow: str | None
    external_user: str | None
    environment: Environment | None
    status: Status | None
    since: str | None
    until: str | None


def filter_options(external_user_help: str = "Only runs of this external user.") -> Callable[[F], F]:
    """The options of `FilterOptions`."""
    options = (
        cloup.option("--workflow", metavar="NAME", help="Only runs of this workflow."),
        cloup.option("--external-user", metavar="ID", help=external_user_help),
        environment_option(default="both"),
        cloup.option("--status", type=click.Choice(get_args(Status)), help="Only runs with this status."),
        cloup.option(
            "--since", metavar="TIME", help='Only runs that started then or later: 2h, 3d, 2026-11-24, "last tuesday".'
        ),
        cloup.option("--until", metavar="TIME", help="Only runs that started before then."),
    )

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


@group(section=RUN)
def runs() -> None:
    """List recorded runs, show them, and act on them."""


@command(
    runs,
    name="list",
    examples=(
        "pdkernel runs list",
        "pdkernel runs list --workflow Greet --status error --since yesterday",
        'pdkernel runs list --external-user ada --since "last tuesday" --json',
    ),
)
@filter_options()
@cloup.option("--batch", metavar="ID", help="Only runs of this batch; see `pdkernel runs batches`.")
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
def list_runs(
    state: CliContext,
    as_json: bool,
    batch: str | None,
    limit: int,
    before: str | None,
    **filters: Unpack[FilterOptions],
) -> int:
    """List runs, newest first."""
    from pdkernel.operations import run_history
    from pdkernel.render import runs as runs_view

    project = state.open_project()
    query = run_history.build_query(project.clock, batch=batch, limit=limit, before=before, **filters)
    found = asyncio.run(run_history.list_runs(project, query))
    if as_json:
        print_json([execution.to_json() for execution in found])
        return 0
    click.echo(color_statuses(runs_view.render_text(found)), nl=False)
    if len(found) == limit:
        state.print_note(f"For older runs: --before {found[-1].id}")
    return 0


@command(
    runs,
    name="show",
    examples=("pdkernel runs show 2abcdefghijklmnopqrstuvwxyz", "pdkernel runs show --json"),
)
@cloup.argument("run_id", metavar="[ID]", required=False)
@json_option
def show_run(state: CliContext, run_id: str | None, as_json: bool) -> int:
    """
    Show the timeline of a run.

    Shows also its account lookup, its pause and its messages, and why it has not succeeded. Without ID, shows the newest run.
    """
    from pdkernel.operations.run_history import get_run
    from pdkernel.render import timeline
    from pdkernel.render.runs import explain_status

    execution = asyncio.run(get_run(state.open_project(), run_id))
    if as_json:
        print_json(execution.to_json())
    else:
        text = timeline.render_text(
            execution, timeline.TimelineContext(explain_lookup=True, note=explain_status(execution))
        )
        click.echo(color_statuses(text), nl=False)
    return 0


@command(
    runs,
    name="cancel",
    examples=(
        "pdkernel runs cancel 2abcdefghijklmnopqrstuvwxyz",
        "pdkernel runs cancel --batch batch_3f9c2a1e7b5d04c68a90",
    ),
)
@cloup.argument("run_id", metavar="[ID]", required=False)
@cloup.option("--batch", "batch_id", metavar="ID", help="Cancel all runs of this batch that have not ended.")
@json_option
def cancel_run(state: CliContext, run_id: str | None, batch_id: str | None, as_json: bool) -> int:
    """
    Cancel a run that has not ended, or those of a batch.

    A run in progress in another process ends within a second.
    """
    from pdkernel.operations import run_history

    if (run_id is None) == (batch_id is None):
        raise RequestError("Name a run or a batch.", fix="Pass the ID of a run, or --batch ID.")
    if batch_id is not None:
        return _cancel_batch(state, batch_id, as_json=as_json)
    assert run_id is not None
    execution = _with_journal(
        state, lambda journal: run_history.cancel_run(journal, run_id, by=run_history.name_caller("terminal"))
    )
    if as_json:
        print_json(execution.to_json())
    else:
        click.echo(f"Cancelled {run_id}.")
    return 0


def _cancel_batch(state: CliContext, batch_id: str, *, as_json: bool) -> int:
    from pdkernel.operations.batches import cancel_batch
    from pdkernel.operations.run_history import name_caller

    project, by = state.open_project(), name_caller("terminal")
    cancelled = _with_journal(state, lambda journal: cancel_batch(project, journal, batch_id, by=by))
    if as_json:
        print_json({"cancelled": cancelled})
    else:
        click.echo(f"Cancelled {format_count(cancelled, 'run')} of {batch_id}.")
    return 0


@command(
    runs,
    name="resume",
    examples=(
        "pdkernel runs resume 2abcdefghijklmnopqrstuvwxyz",
        "pdkernel runs resume 2abcdefghijklmnopqrstuvwxyz --body '{\"approved\": true}'",
    ),
    exit_statuses=RUN_EXIT_STATUSES,
)
@cloup.argument("run_id", metavar="ID")
@cloup.option(
    "--body", metavar="FILE|JSON", help="What the step gets, as from a call of its resume_url; - reads standard input."
)
@json_option
def resume_run(state: CliContext, run_id: str, body: str | None, as_json: bool) -> int:
    """
    End the pause of a run now: a delay, a suspend or a rerun.

    A served run goes on in its server. Any other run goes on in this command.
    """
    from pdkernel.journal import NewDecision
    from pdkernel.operations import run_history

    async def resume() -> tuple[Execution, str | None]:
        async with open_engine(state) as engine:
            decision = NewDecision("resumed", run_history.name_caller("terminal"))
            payload = None if body is None else read_body(body)
            resumed = await run_history.resume_run(engine, run_id, payload, decision=decision)
            if resumed.claimed is None:
                return resumed.execution, run_history.describe_resumed(resumed)
            with watch_run(state, is_shown=not as_json) as watcher:
                return await engine.continue_run(resumed.claimed, watcher), None

    execution, message = asyncio.run(resume())
    if as_json:
        print_json(execution.to_json())
    elif message is not None:
        click.echo(message)
    else:
        _print_run(state, execution)
    return 0 if message is not None else resolve_exit_status(execution)


@command(
    runs,
    name="remove",
    examples=(
        "pdkernel runs remove 2abcdefghijklmnopqrstuvwxyz --yes",
        "pdkernel runs remove --status success --until 7d",
    ),
)
@cloup.argument("run_ids", metavar="[ID]...", nargs=-1)
@filter_options()
@yes_option
@json_option
def remove_runs(
    state: CliContext, run_ids: tuple[str, ...], yes: bool, as_json: bool, **filters: Unpack[FilterOptions]
) -> int:
    """
    Remove runs with everything that is recorded of them.

    Without ID, the options select runs. A run that is executing is not removed.
    """
    from pdkernel.operations import run_history

    query = build_selection(state, run_ids, filters)
    if query is not None:
        run_ids = tuple(asyncio.run(run_history.find_run_ids(state.open_project(), query)))
    confirm(f"Remove {format_count(len(run_ids), 'run')} with their events and exports", yes=yes or not run_ids)
    removed = _with_journal(
        state, lambda journal: run_history.remove_runs(journal, run_ids, keeps_executing=query is not None)
    )
    if as_json:
        print_json({"removed": removed})
        return 0
    click.echo(f"Removed {format_count(removed, 'run')}.")
    if removed < len(run_ids):
        state.print_note(f"{format_count(len(run_ids) - removed, 'run')} in progress stayed.")
    return 0


def _with_journal(state: CliContext, act: Callable[[Journal], Awaitable[T]]) -> T:
    """Call *act* with the project's journal."""

    async def call() -> T:
        from pdkernel.operations.run_history import open_journal

        async with open_journal(state.open_project()) as journal:
            return await act(journal)

    return asyncio.run(call())


def build_selection(state: CliContext, run_ids: Sequence[str], filters: Any) -> ExecutionQuery | None:
    """The query of the filters; None if runs are named. Raises `RequestError` unless there is one of both."""
    from pdkernel.operations import run_history

    if run_ids and any(value is not None for value in filters.values()):
        raise RequestError("Ids and options that select runs exclude each other.", fix="Leave out one of them.")
    return None if run_ids else run_history.build_selection(state.open_project().clock, **filters)


def _print_run(state: CliContext, execution: Execution) -> None:
    """Print a run that has gone on in this command."""
    from pdkernel.render import timeline

    click.echo(color_statuses(timeline.render_text(execution)), nl=False)
    print_next_command(state, execution)

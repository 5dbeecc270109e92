"""
`pdkernel runs`: the recorded runs of the project, their events run again, and batches of runs for several external users.

Options and output of the commands. The operations are in `operations.run_history`, `run_replay` and `batches`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, Unpack, get_args

import click
import cloup

from pdkernel.cli.app import (
    RUN,
    RUN_EXIT_STATUSES,
    CliContext,
    command,
    encode_error,
    environment_option,
    group,
    json_option,
    print_error,
    yes_option,
)
from pdkernel.cli.run import read_pins
from pdkernel.cli.run_output import (
    open_engine,
    print_execution,
    print_next_command,
    print_progress,
    resolve_exit_status,
    watch_run,
)
from pdkernel.cli.terminal import color_statuses, confirm, print_json, read_body
from pdkernel.errors import RequestError, format_count
from pdkernel.execution import Status

if TYPE_CHECKING:
    from pdkernel.common.identity import Environment
    from pdkernel.engine.workflow_engine import WorkflowEngine
    from pdkernel.execution import Execution
    from pdkernel.journal import ExecutionQuery, Journal
    from pdkernel.operations.run_replay import Replay

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
    """Return the options of `FilterOptions`."""
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
@cloup.option("--step", metavar="STEP", help="The step whose pause ends, if several branches wait.")
@json_option
def resume_run(state: CliContext, run_id: str, body: str | None, step: str | None, as_json: bool) -> int:
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
            resumed = await run_history.resume_run(engine, run_id, payload, step=step, decision=decision)
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
    """Return the query of the filters; None if runs are named. Raises `RequestError` unless there is one of both."""
    from pdkernel.operations import run_history

    if run_ids and any(value is not None for value in filters.values()):
        raise RequestError("Ids and options that select runs exclude each other.", fix="Leave out one of them.")
    return None if run_ids else run_history.build_selection(state.open_project().clock, **filters)


def _print_run(state: CliContext, execution: Execution) -> None:
    """Print a run that has gone on in this command."""
    from pdkernel.render import timeline

    click.echo(color_statuses(timeline.render_text(execution)), nl=False)
    print_next_command(state, execution)


send_option = cloup.option(
    "--send",
    "sends",
    is_flag=True,
    help="Send outbound calls under the policy of the recorded run, also those that it sent. Without it they are refused.",
)
policy_option = cloup.option(
    "--egress",
    metavar="POLICY",
    help="Outbound calls: live (sends also those that the recorded run sent), stand-in=URL|slack,github,..., replay=FILE, ... "
    "(also PDKERNEL_EGRESS; default: deny).",
)


@command(
    runs,
    name="replay",
    examples=(
        "pdkernel runs replay 2abcdefghijklmnopqrstuvwxyz",
        "pdkernel runs replay 2abcdefghijklmnopqrstuvwxyz --send",
        "pdkernel runs replay 2abcdefghijklmnopqrstuvwxyz --egress stand-in=slack",
        "pdkernel runs replay --status error --since 2h",
        "pdkernel runs replay --status error --since 2h --yes",
    ),
    exit_statuses=RUN_EXIT_STATUSES,
)
@cloup.argument("run_ids", metavar="[ID]...", nargs=-1)
@filter_options("With ID: run as this external user. Else: only runs of this external user.")
@send_option
@policy_option
@cloup.option("-y", "--yes", is_flag=True, help="Run the selected runs; without it, they are only listed.")
@json_option
def replay_runs(
    state: CliContext,
    run_ids: tuple[str, ...],
    sends: bool,
    egress: str | None,
    yes: bool,
    as_json: bool,
    **filters: Unpack[FilterOptions],
) -> int:
    """
    Run the event of a run again.

    The current workflow of its source runs; if the source does not exist any more, the recorded definition. A served run is
    queued for the project's server, if one serves the project. Without ID, the options select runs, and --yes runs them.
    """
    from pdkernel.operations import run_history, run_replay

    policy = run_replay.choose_replay_policy(egress, os.environ, sends=sends)
    external_user = filters["external_user"] if run_ids else None
    query = build_selection(state, run_ids, {**filters, "external_user": None} if run_ids else filters)

    async def replay() -> int:
        async with open_engine(state) as engine:
            if query is None:
                prepared = [
                    await run_replay.prepare_replay(
                        engine, run_id, external_user_id=external_user, sends=sends, policy=policy
                    )
                    for run_id in run_ids
                ]
                return await _start_all(state, engine, prepared, is_list=len(prepared) > 1, as_json=as_json)
            found = await run_history.find_run_ids(state.open_project(), query)
            selected, refused = await run_replay.prepare_replays(engine, [*reversed(found)], sends=sends, policy=policy)
            if yes or not as_json:
                for run_id, error in refused:
                    print_error(error.code, f"{run_id}: {error}")
            if yes:
                status = await _start_all(state, engine, selected, is_list=True, as_json=as_json)
                return max([status, *(error.exit_status for _, error in refused)])
            _print_plan(selected, refused, as_json=as_json)
            return 0

    return asyncio.run(replay())


@command(
    runs,
    name="fork",
    examples=(
        "pdkernel runs fork 2abcdefghijklmnopqrstuvwxyz --from notify",
        "pdkernel runs fork 2abcdefghijklmnopqrstuvwxyz --from notify greet.ipynb --pin build=build.json",
    ),
    exit_statuses=RUN_EXIT_STATUSES,
)
@cloup.argument("run_id", metavar="ID")
@cloup.argument("source", metavar="[SOURCE]", required=False, type=click.Path(path_type=Path))
@cloup.option("--from", "first", metavar="STEP", required=True, help="The first step that runs.")
@cloup.option("--pin", "pins", metavar="STEP=FILE", multiple=True, help="Take this step's exports from a JSON file.")
@cloup.option("--external-user", metavar="ID", help="Run as this external user; default: the run's own.")
@send_option
@policy_option
@json_option
def fork_run(
    state: CliContext,
    run_id: str,
    source: Path | None,
    first: str,
    pins: tuple[str, ...],
    external_user: str | None,
    sends: bool,
    egress: str | None,
    as_json: bool,
) -> int:
    """
    Run the event of a run again from one of the steps.

    The steps above are not run, and keep their recorded exports. SOURCE is a notebook or a workflow's folder with an edited
    workflow; without it, the recorded definition runs.
    """
    from pdkernel.files.source import load_source
    from pdkernel.operations.run_replay import choose_replay_policy, prepare_fork

    policy = choose_replay_policy(egress, os.environ, sends=sends)
    pinned = read_pins(pins)
    opened = None if source is None else load_source(source, pinned_steps=pinned)

    async def fork() -> int:
        async with open_engine(state) as engine:
            prepared = await prepare_fork(
                engine,
                run_id,
                first,
                source=opened,
                pins=pinned,
                external_user_id=external_user,
                sends=sends,
                policy=policy,
            )
            return await _start_all(state, engine, [prepared], is_list=False, as_json=as_json)

    return asyncio.run(fork())


async def _start_all(
    state: CliContext, engine: WorkflowEngine, replays: Sequence[Replay], *, is_list: bool, as_json: bool
) -> int:
    """Start *replays* one after another and print their runs; returns the exit status."""
    from pdkernel.operations.run_replay import describe_replay, start_replay

    started: list[Execution] = []
    for replay in replays:
        state.print_note(describe_replay(replay))
        with watch_run(state, is_shown=not as_json) as watcher:
            execution = await start_replay(engine, replay, watcher)
        started.append(execution)
        if as_json:
            pass
        elif replay.is_queued:
            click.echo(f"Queued as {execution.id}. To look at its result: pdkernel runs show {execution.id}")
        else:
            print_execution(execution, replay.request.workflow)
            print_next_command(state, execution)
        if execution.status == "cancelled":  # an interrupt ends the command, not only one of its runs
            break
    if as_json:
        values = [execution.to_json() for execution in started]
        print_json(values if is_list else values[0])
    return max(
        (resolve_exit_status(each) for each, replay in zip(started, replays, strict=False) if not replay.is_queued),
        default=0,
    )


def _print_plan(selected: Sequence[Replay], refused: Sequence[tuple[str, Any]], *, as_json: bool) -> None:
    """Print what `runs replay --yes` would run."""
    from pdkernel.operations.run_replay import describe_replay
    from pdkernel.render import runs as runs_view

    if as_json:
        print_json(
            {
                "dry_run": True,
                "runs": [
                    {
                        "id": replay.original.id,
                        "workflow": replay.request.workflow.name,
                        "external_user": replay.request.external_user_id,
                        "definition": replay.definition,
                        "in_server": replay.is_queued,
                    }
                    for replay in selected
                ],
                "refused": [{"id": run_id, "error": encode_error(error)} for run_id, error in refused],
            }
        )
        return
    click.echo(color_statuses(runs_view.render_text([replay.original for replay in selected])), nl=False)
    for replay in selected:
        click.echo(f"  {describe_replay(replay)}")
    click.echo("No run was started. To run them again, add --yes.")


@command(runs, name="batches", examples=("pdkernel runs batches", "pdkernel runs batches --limit 5 --json"))
@cloup.option(
    "--limit",
    type=click.IntRange(1, 1000),
    metavar="N",
    default=20,
    show_default=True,
    help="How many batches to list, the newest first.",
)
@json_option
def list_batches(state: CliContext, limit: int, as_json: bool) -> int:
    """
    List batches: runs for several external users.

    A batch is the runs of one tick of a schedule with `for_each: external_user`, or of `pdkernel run --for-each`.
    """
    from pdkernel.operations.batches import list_summaries
    from pdkernel.render.batches import render_line

    found = asyncio.run(list_summaries(state.open_project(), limit))
    if as_json:
        print_json([batch.to_json() for batch in found])
        return 0
    for batch in found:
        click.echo(f"{batch.id}  {batch.at}  {batch.workflow}  {batch.state}  {render_line(batch)}")
    if not found:
        click.echo("There are no batches in this project yet.")
    return 0


@command(runs, name="batch", examples=("pdkernel runs batch batch_3f9c2a1e7b5d04c68a90",))
@cloup.argument("batch_id", metavar="ID")
@json_option
def show_batch(state: CliContext, batch_id: str, as_json: bool) -> int:
    """
    Show a batch with its failed and skipped users.

    A failed user has the run and the cause. A skipped user has no run, because an account that the workflow needs is missing.
    """
    from pdkernel.operations.batches import read_summary
    from pdkernel.render.batches import render_text

    summary = asyncio.run(read_summary(state.open_project(), batch_id))
    if as_json:
        print_json(summary.to_json())
    else:
        click.echo(render_text(summary), nl=False)
    return 0


@command(
    runs,
    name="retry",
    examples=("pdkernel runs retry --batch batch_3f9c2a1e7b5d04c68a90",),
    exit_statuses=RUN_EXIT_STATUSES,
)
@cloup.option("--batch", "batch_id", metavar="ID", required=True, help="The batch; see `pdkernel runs batches`.")
@json_option
def retry_batch(state: CliContext, batch_id: str, as_json: bool) -> int:
    """
    Run the failed runs of a batch again, and no others.

    The current workflow runs. Outbound calls are sent, except for those that a failed run has sent already. The project's server
    runs the batch of a schedule; that of a command runs here.
    """
    from pdkernel.operations.batches import read_summary, retry_here, retry_in_server
    from pdkernel.render.batches import render_text

    async def retry() -> int:
        project = state.open_project()
        async with open_engine(state) as engine:
            queued = await retry_in_server(project, engine.journal, batch_id)
            if queued is not None:
                summary = await read_summary(project, batch_id)
                if as_json:
                    print_json({"batch": summary.to_json(), "queued": queued.runs})
                    return 0
                place = (
                    "in the project's server"
                    if queued.is_served
                    else "when the project is served: pdkernel serve SOURCE"
                )
                click.echo(f"{format_count(queued.runs, 'failed run')} will run again {place}")
                click.echo(f"To look at the result: pdkernel runs batch {batch_id}")
                return 0
            summary = await retry_here(project, engine, batch_id, print_progress(state, is_shown=not as_json))
            if as_json:
                print_json({"batch": summary.to_json(), "queued": 0})
            else:
                click.echo(render_text(summary), nl=False)
            return 1 if summary.failed else 0

    return asyncio.run(retry())

"""
`pdkernel runs replay` and `pdkernel runs fork`: recorded events run again.

Options and output of the commands. The operations are in `operations.run_replay`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import click
import cloup

from pdkernel.cli.app import CliContext, command, encode_error, json_option, print_error
from pdkernel.cli.command_help import RUN_EXIT_STATUSES
from pdkernel.cli.run import read_pins
from pdkernel.cli.run_output import open_engine, print_execution, print_next_command, resolve_exit_status, watch_run
from pdkernel.cli.runs import FilterOptions, build_selection, filter_options, runs
from pdkernel.cli.terminal import color_statuses, print_json

if TYPE_CHECKING:
    from pdkernel.engine.workflow_engine import WorkflowEngine
    from pdkernel.execution import Execution
    from pdkernel.operations.run_replay import Replay

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
                        engine, run_id, external_user=external_user, sends=sends, policy=policy
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
                external_user=external_user,
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

"""
`pdkernel runs batches`, `batch` and `retry`: the runs of a schedule, or of a command, for several external users.

Options and output of the commands. The operations are in `operations.batches`.
"""

from __future__ import annotations

import asyncio

import click
import cloup

from pdkernel.cli.app import CliContext, command, json_option
from pdkernel.cli.command_help import RUN_EXIT_STATUSES
from pdkernel.cli.run_output import open_engine
from pdkernel.cli.runs import runs
from pdkernel.cli.terminal import print_json
from pdkernel.errors import format_count


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
    from pdkernel.cli.run_batch import print_progress
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

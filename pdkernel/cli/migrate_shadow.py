"""`pdkernel migrate shadow`: each record of a run at Pipedream compared with the workflow here, as it arrives."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
import cloup

from pdkernel.cli.app import EXIT_STATUSES, CliContext, command, json_option
from pdkernel.cli.migrate import html_option, migrate, stand_in_option, write_page
from pdkernel.cli.terminal import is_interactive, print_json
from pdkernel.errors import RequestError

if TYPE_CHECKING:
    from pdkernel.annex.migration.shadow import FirstDifference, Shadow, ShadowReport

_PAUSE_S = 2.0
_PAUSE_PER_LOOK = 10
"""How many times as long as a look for records takes the pause before the next is, at least: a look reads the names of all entries."""


@command(
    migrate,
    name="shadow",
    examples=(
        "pdkernel migrate shadow project",
        "pdkernel migrate shadow project --html shadow.html",
        "pdkernel migrate shadow total.ipynb --once --json",
    ),
    exit_statuses={
        **EXIT_STATUSES,
        1: "a step differs from what it did at Pipedream, or a workflow cannot be read",
    },
)
@cloup.argument("sources", nargs=-1, required=True, metavar="SOURCE...", type=click.Path(path_type=Path))
@cloup.option("--once", is_flag=True, help="Compare the records that are here, print the result, and exit.")
@cloup.option("--again", is_flag=True, help="Also compare the records that were compared before.")
@html_option("Write the result as one HTML page, whenever it changes.")
@stand_in_option()
@json_option
def shadow(
    state: CliContext,
    sources: tuple[Path, ...],
    once: bool,
    again: bool,
    html_file: Path | None,
    egress: str | None,
    as_json: bool,
) -> int:
    """
    Compare each recorded run with the workflow here, until Ctrl-C.

    SOURCE is a notebook, a workflow's folder or a repository, as you will serve it. Each record that the receiver of this project has
    stored, or that `migrate collect` brought home, runs here once, as in `migrate report --records`: offline, and with copies of the
    data stores. Results are stored, so the command continues where it stopped. A workflow is read again when records are new;
    results of an earlier text are counted apart.
    """
    from pdkernel.annex.migration.shadow import Shadow
    from pdkernel.operations.records import parse_stand_in

    def show_progress(line: str) -> None:
        if not as_json and is_interactive(sys.stderr):
            state.print_note(line)

    def show_difference(workflow: str, step: str, found: FirstDifference) -> None:
        if not once:  # its report has them
            state.print_note(
                "\n".join([f"{workflow}, step {step} differs. {found.describe()[0]}", *found.describe()[1:]])
            )

    policy = parse_stand_in(egress)
    following = Shadow(
        sources,
        project=state.open_project(),
        directory=state.open_directory(),
        environ=os.environ,
        policy=policy,
        again=again,
        progress=show_progress,
        on_difference=show_difference,
    )
    try:
        report = asyncio.run(_follow(state, following, html_file, once=once))
    finally:
        following.close()
    if as_json:
        print_json(report.to_json())
    else:
        click.echo(report.render_text(), nl=False)
    return 1 if report.differs or report.unreadable else 0


async def _follow(state: CliContext, following: Shadow, html_file: Path | None, *, once: bool) -> ShadowReport:
    """Compare records until an interrupt, or, with *once*, those that are here; returns the last report."""
    task = asyncio.current_task()
    assert task is not None

    def stop() -> None:
        following.is_stopped = True
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    shown: tuple[str, ...] | None = None
    with contextlib.suppress(asyncio.CancelledError):
        while not following.is_stopped:
            began = time.monotonic()
            count = await following.compare_new()
            took = time.monotonic() - began
            if count or following.problems != shown:
                shown = following.problems
                _show(state, following.build_report(), html_file, once=once)
            if once:
                break
            await asyncio.sleep(max(_PAUSE_S, _PAUSE_PER_LOOK * took if not count else 0))
    if once and following.is_stopped:
        raise click.Abort
    return following.build_report()


def _show(state: CliContext, report: ShadowReport, html_file: Path | None, *, once: bool) -> None:
    from pdkernel.annex.migration.pages import render_shadow_page

    if not report.workflows and not report.notes:
        why = RequestError(
            "There are no records of this project yet.",
            fix="Add the recording steps (pdkernel migrate record FOLDER --to URL), and receive (pdkernel migrate receive) or collect "
            "(pdkernel migrate collect) what they record.",
        )
        if once:
            raise why
        state.print_note(f"{why}\nWaiting for records (Ctrl-C ends) ...")
    if not once:
        for each in report.workflows:
            state.print_note(each.proof.summarize()[0])
        for note in report.notes:
            state.print_note(note)
    if html_file is not None:
        created_at = state.open_project().clock.now().isoformat(timespec="seconds")
        write_page(html_file, render_shadow_page(report, created_at))

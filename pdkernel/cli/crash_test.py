"""
`pdkernel crash-test`: what a crash of the server makes done twice in a workflow, and what it loses.

Options of the command. `annex.crash_test` runs the workflow.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from pathlib import Path
from typing import Self, TypedDict, Unpack

import click
import cloup

from pdkernel.cli.app import TEST, CliContext, command, environment_option, json_option
from pdkernel.cli.run import read_event, warn_unsaved
from pdkernel.cli.terminal import is_interactive, print_json, print_text

_STATUSES = {
    0: "nothing is done twice and nothing is lost, as far as it was observed",
    1: "something is done twice or lost",
    2: "refused: the request or the workflow is wrong, or the run fails without a crash, too",
    3: "pdkernel failed",
}
_LINE_S = 10.0
"""Seconds between two lines of progress where there is no terminal."""
_DEFAULT_LIMIT = 60


class CrashOptions(TypedDict):
    """Options of `pdkernel crash-test`."""

    event: str | None
    body: str | None
    external_user: str | None
    environment: str | None
    egress: str | None
    real_calls: bool
    limit: int
    shows_all: bool


@command(
    name="crash-test",
    section=TEST,
    examples=(
        "pdkernel crash-test greet.ipynb --event events/issues-opened.json",
        "pdkernel crash-test order.ipynb --event order --external-user ada --egress stand-in=slack",
        "pdkernel crash-test order.ipynb --body '{\"total\": 20}' --egress replay=order.recorded.jsonl --all",
    ),
    exit_statuses=_STATUSES,
)
@cloup.argument("source", type=click.Path(path_type=Path))
@cloup.option_group(
    "Event",
    cloup.option(
        "--event",
        metavar="FILE|NAME|-",
        help="The event, as for `pdkernel run`. The recording beside it, NAME.recorded.jsonl, answers the calls by default.",
    ),
    cloup.option("--body", metavar="FILE|JSON", help="A bare payload, wrapped as a POST; - reads standard input."),
)
@cloup.option_group(
    "External user",
    cloup.option("--external-user", metavar="ID", help="Run for this external user."),
    environment_option(),
)
@cloup.option_group(
    "Outbound calls",
    cloup.option(
        "--egress",
        metavar="POLICY",
        help="What answers: replay=FILE, stand-in=URL|slack,github,..., or deny, which refuses them (also PDKERNEL_EGRESS). Default: that of "
        "the notebook's %pdegress cell if it sends nothing, else the recording beside the event, else deny.",
    ),
    cloup.option(
        "--real-calls",
        is_flag=True,
        help="Permit --egress live and allow=HOST: each call is sent for real, twice and more for each crash point.",
    ),
)
@cloup.option(
    "--limit",
    type=click.IntRange(min=1),
    default=_DEFAULT_LIMIT,
    show_default=True,
    help="Try at most so many crash points.",
)
@cloup.option("--all", "shows_all", is_flag=True, help="List every crash point, not only those with a finding.")
@json_option
def crash_test(state: CliContext, source: Path, as_json: bool, **options: Unpack[CrashOptions]) -> int:
    """
    Find what a crash does twice or loses.

    SOURCE is a notebook or a workflow's folder. The workflow runs twice without a crash, and what differs between these runs is not
    compared. Then it runs again for each write of the journal and each outbound call: its process is killed there, and another one continues the run as a server does. Stand-ins or
    recordings answer the calls, in a temporary copy of the project.
    """
    from pdkernel.annex.crash_test import CrashTest, choose_crash_policy
    from pdkernel.common.identity import check_external_user_id, parse_environment
    from pdkernel.files.source import load_source

    opened = load_source(source)
    event = read_event(options["event"], options["body"], opened)
    policy = choose_crash_policy(
        options["egress"],
        os.environ,
        cells=opened.policy_cells,
        recording=_find_recording(options["event"], opened.folder),
        permits_real_calls=options["real_calls"],
    )
    user = options["external_user"]
    project = state.open_project()
    warn_unsaved(opened.path, project)
    with _Progress(state, is_shown=not as_json) as progress:
        report = CrashTest(
            opened,
            event,
            project=project,
            directory=state.open_directory(),
            policy=policy,
            external_user_id=event.external_user_id if user is None else check_external_user_id(user),
            environment=parse_environment(options["environment"] or event.environment),
            source_argument=shlex.quote(str(source)),
            limit=options["limit"],
            on_progress=progress.show,
        ).run()
    if as_json:
        print_json(report.to_json())
    else:
        print_text(report.render_text(shows_all=options["shows_all"]), nl=False)
    return 1 if report.findings else 0


def _find_recording(event: str | None, folder: Path) -> Path | None:
    """Return the recording of the event's calls, which need not exist."""
    from pdkernel.files.source import EVENTS_FOLDER

    if event is None or event == "-":
        return None
    file = Path(event) if Path(event).suffix else folder / EVENTS_FOLDER / f"{event}.json"
    return file.with_name(f"{file.stem}.recorded.jsonl").absolute()


class _Progress:
    """`12 of 40 crash points`: on a terminal, a line that changes; elsewhere, a line every ten seconds."""

    def __init__(self, state: CliContext, *, is_shown: bool) -> None:
        self._state = state
        self._is_shown = is_shown and not state.quiet
        self._is_terminal = is_interactive(sys.stderr)
        self._next_line = time.monotonic() + _LINE_S

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_shown and self._is_terminal:
            click.echo("\r\033[K", err=True, nl=False)

    def show(self, done: int, total: int) -> None:
        """Show the progress."""
        text = f"{done} of {total} crash points" if total else "The runs without a crash"
        if self._is_shown and self._is_terminal:
            click.echo(f"\r\033[K{text} ...", err=True, nl=False)
        elif self._is_shown and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + _LINE_S
            self._state.print_note(f"{text} ...")

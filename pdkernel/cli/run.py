"""
`pdkernel run`: a workflow on an event, as an external user.

Options of the command. The engine runs the workflow.
"""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import click
import cloup
import msgspec

from pdkernel.cli.app import RUN, RUN_EXIT_STATUSES, CliContext, command, egress_option, environment_option, json_option
from pdkernel.cli.run_output import (
    open_engine,
    print_execution,
    print_next_command,
    print_progress,
    resolve_exit_status,
    watch_run,
)
from pdkernel.cli.terminal import print_json, read_body, read_input
from pdkernel.errors import RequestError, format_count
from pdkernel.model import FOR_EACH_USER

if TYPE_CHECKING:
    from pdkernel.common.identity import Directory, Environment
    from pdkernel.egress import OutboundPolicy
    from pdkernel.engine.pauses import PauseMode
    from pdkernel.engine.run_request import RunRequest
    from pdkernel.event import Event
    from pdkernel.execution import Execution
    from pdkernel.files.source import WorkflowSource
    from pdkernel.model import JSON
    from pdkernel.storage import Project


class RunOptions(TypedDict):
    """Options of `pdkernel run`."""

    event: str | None
    body: str | None
    external_user: str | None
    external_users: str | None
    for_each: str | None
    environment: str | None
    first: str | None
    pins: tuple[str, ...]
    egress: str | None
    via: tuple[str, ...]
    unopened: str | None
    wait: bool
    skip_waits: bool
    save_test: str | None
    plain: str | None
    explain: bool
    no_install: bool


@command(
    name="run",
    section=RUN,
    examples=(
        "pdkernel run greet.ipynb --event events/issues-opened.json --external-user ada",
        'pdkernel run greet.ipynb --body \'{"name": "Ada"}\' --egress deny',
        "pdkernel run greet.ipynb --event - --external-users all --json",
        "pdkernel run report.ipynb --for-each external_user --environment production",
        "pdkernel run greet.ipynb --event events/issues-opened.json --from notify --pin build=build.json",
    ),
    exit_statuses=RUN_EXIT_STATUSES,
)
@cloup.argument("source", type=click.Path(path_type=Path))
@cloup.option_group(
    "Event",
    cloup.option(
        "--event",
        metavar="FILE|NAME|-",
        help="The event: exactly what steps.trigger.event holds, as JSON; NAME is a saved event, events/NAME.json. "
        "A scheduled workflow needs none.",
    ),
    cloup.option("--body", metavar="FILE|JSON", help="A bare payload, wrapped as a POST; - reads standard input."),
)
@cloup.option_group(
    "External user",
    cloup.option("--external-user", metavar="ID", help="Run for this external user."),
    cloup.option("--external-users", metavar="all|A,B,...", help="Run once for each of these external users."),
    cloup.option(
        "--for-each",
        type=click.Choice([FOR_EACH_USER]),
        help="Run once for each external user who has the accounts that the workflow needs, ten at once, and print a summary; "
        "of those of --external-users, or of the schedule's for_each. See `pdkernel runs batch`.",
    ),
    environment_option(),
    cloup.option("--explain", is_flag=True, help="Show how the account of each external user was found."),
)
@cloup.option_group(
    "Steps",
    cloup.option("--from", "first", metavar="STEP", help="Skip the steps above STEP; pin the exports that STEP reads."),
    cloup.option(
        "--pin", "pins", metavar="STEP=FILE", multiple=True, help="Take this step's exports from a JSON file."
    ),
    cloup.option(
        "--wait",
        is_flag=True,
        help="Wait until each pause of the workflow has ended; another terminal can end it with `runs resume`. "
        "Without --wait and --skip-waits, the command ends with status 4 and the run stays paused.",
    ),
    cloup.option("--skip-waits", is_flag=True, help="Continue at once where the workflow pauses."),
    cloup.option(
        "--no-install",
        is_flag=True,
        envvar="PDKERNEL_NO_INSTALL",
        help="Do not install packages; refuse the run if a package is missing (also PDKERNEL_NO_INSTALL=1).",
    ),
)
@cloup.option_group(
    "Outbound calls",
    egress_option(),
    cloup.option(
        "--via",
        metavar="PROXY",
        multiple=True,
        envvar="PDKERNEL_VIA",
        help="Send them through this proxy; net_ID=PROXY for a workflow of that Pipedream network (repeatable; also PDKERNEL_VIA).",
    ),
    cloup.option(
        "--unopened",
        metavar="HOST,...",
        help="Do not decrypt TLS to these hosts: they use pinned or client certificates.",
    ),
)
@cloup.option_group(
    "Test",
    cloup.option("--save-test", metavar="NAME", help="Save the run as a test beside SOURCE: tests/test_NAME.py."),
    cloup.option(
        "--plain",
        metavar="NAME,APP.FIELD,...",
        help="With --save-test: write these variables and credentials with their values, as they are not secrets.",
    ),
)
@json_option
def run(state: CliContext, source: Path, as_json: bool, **options: Unpack[RunOptions]) -> int:
    """
    Run a workflow on an event.

    SOURCE is a notebook or a workflow's folder.
    """
    from pdkernel.operations.runs import check_test_options, split_names

    if options["for_each"] is not None:
        return asyncio.run(_run_batch(state, source, options, as_json=as_json))
    several = options["external_users"] is not None
    plain = split_names(options["plain"])
    check_test_options(options["save_test"], non_secret_names=plain, has_several_users=several)
    runs = asyncio.run(_run_all(state, source, options, as_json=as_json))
    executions = [execution for _, execution in runs]
    if as_json:
        values = [execution.to_json() for execution in executions]
        print_json(values if several else values[0])
    else:
        for execution in executions:
            print_execution(execution, runs[0][0].workflow, event_file=options["event"], explain=options["explain"])
            print_next_command(state, execution)
    if options["save_test"] is not None:
        _save_test(state, source, *runs[0], name=options["save_test"], non_secret_names=plain)
    return max(resolve_exit_status(execution) for execution in executions)


async def _run_all(
    state: CliContext, source: Path, options: RunOptions, *, as_json: bool
) -> list[tuple[RunRequest, Execution]]:
    from pdkernel.files.source import load_source

    pins = read_pins(options["pins"])
    opened = load_source(source, pinned_steps=pins, lenient=True)
    event = read_event(options["event"], options["body"], opened)
    state.print_detail(
        f"Workflow {opened.workflow.name!r} with {format_count(len(opened.workflow.steps), 'step')} from {opened.path}."
    )
    if not state.quiet:
        _print_drift(opened, event, options["event"])
    project = state.open_project()
    warn_unsaved(opened.path, project)
    directory = state.open_directory()
    users = _users(options, event, directory)
    policy = choose_run_policy(state, opened, options["egress"], via=options["via"], unopened=options["unopened"])
    requests = [
        _request(opened, event, user, options, project, shlex.quote(str(source)), pins, policy) for user in users
    ]
    async with open_engine(state) as engine:
        runs = []
        for request in requests:
            with watch_run(state, is_shown=not as_json, is_waiting=options["wait"]) as watcher:
                runs.append((request, await engine.run(request, watcher)))
            if runs[-1][1].status == "cancelled":
                break
        return runs


async def _run_batch(state: CliContext, source: Path, options: RunOptions, *, as_json: bool) -> int:
    """Run once for each user who has the accounts, print a line for each run and the summary; return the exit status."""
    from pdkernel.common.identity import ALL_USERS, parse_environment
    from pdkernel.files.source import load_source
    from pdkernel.model import ForEach
    from pdkernel.operations.batches import UserSelection, run_here
    from pdkernel.operations.runs import split_names
    from pdkernel.render.batches import render_text
    from pdkernel.storage import Batch

    if options["external_user"] is not None or options["save_test"] is not None or options["wait"]:
        raise RequestError(
            "--for-each runs for several external users: it excludes --external-user, --save-test and --wait.",
            fix="Leave out one of them.",
        )
    pins = read_pins(options["pins"])
    opened = load_source(source, pinned_steps=pins, lenient=True)
    event = read_event(options["event"], options["body"], opened)
    each = opened.workflow.trigger.for_each or ForEach()
    if (names := options["external_users"]) is not None:
        each = replace(each, users=None if names == ALL_USERS else tuple(split_names(names)))
    environment = parse_environment(options["environment"] or event.environment or each.environment)
    project, directory = state.open_project(), state.open_directory()
    warn_unsaved(opened.path, project)
    policy = choose_run_policy(state, opened, options["egress"], via=options["via"], unopened=options["unopened"])

    def build(user: str, batch_id: str) -> RunRequest:
        request = _request(opened, event, user, options, project, shlex.quote(str(source)), pins, policy, environment)
        return request.with_changes(batch=batch_id)

    async with open_engine(state) as engine:
        selection = UserSelection(replace(each, environment=environment), opened.workflow, directory, engine.catalog)
        batch = Batch(
            project.ids.new("batch_", 20),
            str(opened.path.resolve()),
            "",
            opened.workflow.name,
            environment,
            project.clock.now(),
            origin="terminal",
            executor=engine.journal.executor_id,
        )
        on_run = print_progress(state, is_shown=not as_json)
        summary = await run_here(project, engine, selection, batch, build, at_once=each.at_once, on_run=on_run)
    if as_json:
        print_json(summary.to_json())
    else:
        click.echo(render_text(summary), nl=False)
    return 1 if summary.failed else 0


def warn_unsaved(path: Path, project: Project) -> None:
    """Ask to save the notebook if its cells have run with code that the file does not have: the command runs the file."""
    if path.suffix != ".ipynb" or not project.notebook_states.exists(str(path.resolve())):
        return
    from pdkernel.kit.session.state import find_unsaved_steps

    steps = find_unsaved_steps(project, path)
    if steps:
        click.echo(
            f"Save the notebook first: this command runs {path.name} on disk, and in Jupyter newer code of {', '.join(steps)} "
            "has run.",
            err=True,
        )


def _request(
    opened: WorkflowSource,
    event: Event,
    user: str | None,
    options: RunOptions,
    project: Project,
    source: str,
    pins: Mapping[str, JSON],
    policy: OutboundPolicy,
    environment: Environment | None = None,
) -> RunRequest:
    from pdkernel.common.identity import parse_environment
    from pdkernel.operations.runs import build_run_request, pin_steps, select_steps

    return build_run_request(
        opened,
        event,
        project=project,
        policy=policy,
        external_user_id=user,
        environment=environment or parse_environment(options["environment"] or event.environment),
        source_argument=source,
        only_steps=select_steps(opened.workflow, first=options["first"]),
        pinned_exports=pin_steps(opened.workflow, pins),
        pause_mode=_pauses(options),
        install=not options["no_install"],
        is_recorded=options["save_test"] is not None,
    )


def choose_run_policy(
    state: CliContext,
    opened: WorkflowSource,
    egress: str | None,
    *,
    via: Sequence[str] = (),
    unopened: str | None = None,
) -> OutboundPolicy:
    """Return the outbound policy of a command that runs *opened*; print to standard error that it comes from a cell of the notebook."""
    from pdkernel.egress import choose_policy, split_hosts

    policy = choose_policy(egress, os.environ, cells=opened.policy_cells, via=via, unopened=split_hosts(unopened or ""))
    if any(cell.origin == policy.origin for cell in opened.policy_cells):
        state.print_note(
            f"Outbound policy: {policy.text}, from the notebook's {policy.origin}. Change it with --egress."
        )
    return policy


def _pauses(options: RunOptions) -> PauseMode:
    if options["wait"] and options["skip_waits"]:
        raise RequestError("--wait and --skip-waits exclude each other.", fix="Leave out one of them.")
    return "wait" if options["wait"] else "skip" if options["skip_waits"] else "park"


def read_event(event: str | None, body: str | None, opened: WorkflowSource) -> Event:
    """Return the event of `--event` or `--body`; without both, that of a schedule now. Raises `EventError`."""
    from pdkernel.common.clock import SYSTEM_CLOCK
    from pdkernel.common.safe_files import is_file
    from pdkernel.errors import EventError
    from pdkernel.event import Event
    from pdkernel.files.source import EVENTS_FOLDER

    trigger = opened.workflow.trigger
    if event is None and body is None and trigger.type == "schedule":
        return Event.from_schedule(trigger.config, SYSTEM_CLOCK.now())
    if event is None and body is None:
        raise EventError("The event is missing.", fix="Pass --event FILE|NAME|-, or a bare payload: --body FILE|JSON.")
    if event is not None and body is not None:
        raise EventError("--event and --body exclude each other.", fix="Leave out one of them.")
    if event is not None:
        saved = opened.folder / EVENTS_FOLDER / f"{event}.json"
        file = str(saved) if is_file(saved) and not Path(event).exists() else event
        return Event.parse(
            read_input(file), label="standard input" if event == "-" else event, is_http=trigger.type == "http"
        )
    assert body is not None
    return Event.from_body(read_body(body))


def _print_drift(opened: WorkflowSource, event: Event, name: str | None) -> None:
    """Print to standard error where the fields that steps read from *event* differ from the saved events."""
    from pdkernel.files.source import EVENTS_FOLDER

    if not (opened.folder / EVENTS_FOLDER).is_dir():
        return
    from pdkernel.operations.events import EventLibrary, compare_with_saved_events
    from pdkernel.render.contract import describe_violations

    found = compare_with_saved_events(opened.workflow, EventLibrary(opened.folder), event, name=Path(name or "").stem)
    for line in describe_violations(msgspec.structs.replace(found, violations=())):
        click.echo(f"Drift: {line}", err=True)


def _users(options: RunOptions, event: Event, directory: Directory) -> Sequence[str | None]:
    from pdkernel.common.identity import check_external_user_id, parse_environment
    from pdkernel.operations.runs import list_run_users

    if options["external_users"] is None:
        user = options["external_user"]
        return [event.external_user_id if user is None else check_external_user_id(user)]
    if options["external_user"] is not None:
        raise RequestError("--external-user and --external-users exclude each other.", fix="Leave out one of them.")
    environment = parse_environment(options["environment"] or event.environment)
    return list_run_users(options["external_users"], directory, environment)


def read_pins(pins: Sequence[str]) -> dict[str, JSON]:
    """Return the exports of `--pin STEP=FILE` options by step."""
    from pdkernel.operations.runs import parse_pinned_exports

    found: dict[str, JSON] = {}
    for pin in pins:
        name, separator, file = pin.partition("=")
        if not separator:
            raise RequestError(f"--pin {pin} does not name a file.", fix="Write --pin STEP=FILE.")
        found[name] = dict(parse_pinned_exports(read_input(file), label=file))
    return found


def _save_test(
    state: CliContext,
    source: Path,
    request: RunRequest,
    execution: Execution,
    *,
    name: str,
    non_secret_names: Sequence[str],
) -> None:
    from pdkernel.annex.snapshot_tests import save_test
    from pdkernel.files.source import load_source

    saved = save_test(
        request,
        execution,
        name=name,
        source=load_source(source, pinned_steps=request.options.pinned_exports),
        directory=state.open_directory(),
        non_secret_names=non_secret_names,
    )
    click.echo(saved.format_summary(Path.cwd()), err=True)

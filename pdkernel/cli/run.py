"""
`pdkernel run`: a workflow on an event, as an external user.

Options of the command and the output of an execution. The engine runs the workflow.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypedDict, Unpack

import click
import cloup
import msgspec

from pdkernel.cli.app import RUN, CliContext, command, egress_option, environment_option, json_option, print_error
from pdkernel.cli.command_help import RUN_EXIT_STATUSES
from pdkernel.cli.terminal import color_statuses, is_interactive, print_json, read_body, read_input
from pdkernel.errors import RequestError

if TYPE_CHECKING:
    from pdkernel.engine.pauses import PauseMode
    from pdkernel.engine.run_request import RunRequest, RunWatcher
    from pdkernel.engine.workflow_engine import WorkflowEngine
    from pdkernel.event import Event
    from pdkernel.execution import Execution
    from pdkernel.identity import Directory
    from pdkernel.model import JSON, Workflow
    from pdkernel.project import Project
    from pdkernel.source import WorkflowSource


class RunOptions(TypedDict):
    """Options of `pdkernel run`."""

    event: str | None
    body: str | None
    external_user: str | None
    external_users: str | None
    environment: str | None
    first: str | None
    pins: tuple[str, ...]
    egress: str | None
    via: str | None
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
        help="Wait where the workflow pauses (delay, rerun; a suspend is cancelled at its end). "
        "Without --wait and --skip-waits, the run ends as paused.",
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
        "--via", metavar="PROXY", envvar="PDKERNEL_VIA", help="Send them through this proxy (also PDKERNEL_VIA)."
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
    from pdkernel.source import load_source

    opened = load_source(source)
    event = _event(options["event"], options["body"], opened)
    state.print_detail(f"Workflow {opened.workflow.name!r} with {len(opened.workflow.steps)} steps from {opened.path}.")
    if not state.quiet:
        _print_drift(opened, event, options["event"])
    project = state.open_project()
    directory = state.open_directory()
    users = _users(options, event, directory)
    requests = [_request(opened, event, user, options, project, shlex.quote(str(source))) for user in users]
    async with open_engine(state) as engine:
        runs = []
        for request in requests:
            with watch_run(state, is_shown=not as_json) as watcher:
                runs.append((request, await engine.run(request, watcher)))
            if runs[-1][1].status == "cancelled":
                break
        return runs


@asynccontextmanager
async def open_engine(state: CliContext) -> AsyncIterator[WorkflowEngine]:
    """An engine of the project for one run at a time; SIGTERM cancels the run."""
    from pdkernel.engine.workflow_engine import WorkflowEngine

    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with await WorkflowEngine.start(state.open_project(), state.open_directory(), max_active_runs=1) as engine:
        yield engine


@contextmanager
def watch_run(state: CliContext, *, is_shown: bool) -> Iterator[RunWatcher]:
    """A watcher that prints the progress of a run."""
    from pdkernel.engine.run_request import RunWatcher

    with _Progress(state, is_shown=is_shown) as progress:
        yield RunWatcher(on_progress=progress.print_line, on_change=progress.update)


def _request(
    opened: WorkflowSource, event: Event, user: str | None, options: RunOptions, project: Project, source: str
) -> RunRequest:
    from pdkernel.egress import default_mode, parse_policy
    from pdkernel.identity import parse_environment
    from pdkernel.operations.runs import build_run_request, pin_steps, select_steps

    unopened = f" unopened={options['unopened']}" if options["unopened"] else ""
    return build_run_request(
        opened,
        event,
        project=project,
        policy=parse_policy((options["egress"] or default_mode(os.environ)) + unopened, via=options["via"]),
        external_user_id=user,
        environment=parse_environment(options["environment"] or event.environment),
        source_argument=source,
        only_steps=select_steps(opened.workflow, first=options["first"]),
        pinned_exports=pin_steps(opened.workflow, read_pins(options["pins"])),
        pause_mode=_pauses(options),
        install=not options["no_install"],
        is_recorded=options["save_test"] is not None,
    )


def _pauses(options: RunOptions) -> PauseMode:
    if options["wait"] and options["skip_waits"]:
        raise RequestError("--wait and --skip-waits exclude each other.", fix="Leave out one of them.")
    return "wait" if options["wait"] else "skip" if options["skip_waits"] else "park"


def _event(event: str | None, body: str | None, opened: WorkflowSource) -> Event:
    from pdkernel.clock import SYSTEM_CLOCK
    from pdkernel.errors import EventError
    from pdkernel.event import Event
    from pdkernel.source import EVENTS_FOLDER

    trigger = opened.workflow.trigger
    if event is None and body is None and trigger.type == "schedule":
        return Event.from_schedule(trigger.config, SYSTEM_CLOCK.now())
    if event is None and body is None:
        raise EventError("The event is missing.", fix="Pass --event FILE|NAME|-, or a bare payload: --body FILE|JSON.")
    if event is not None and body is not None:
        raise EventError("--event and --body exclude each other.", fix="Leave out one of them.")
    if event is not None:
        saved = opened.folder / EVENTS_FOLDER / f"{event}.json"
        file = str(saved) if not Path(event).exists() and saved.is_file() else event
        return Event.parse(
            read_input(file), label="standard input" if event == "-" else event, is_http=trigger.type == "http"
        )
    assert body is not None
    return Event.from_body(read_body(body))


def _print_drift(opened: WorkflowSource, event: Event, name: str | None) -> None:
    """Print to standard error where the fields that steps read from *event* differ from the saved events."""
    from pdkernel.source import EVENTS_FOLDER

    if not (opened.folder / EVENTS_FOLDER).is_dir():
        return
    from pdkernel.operations.events import EventLibrary, compare_with_saved_events
    from pdkernel.render.contract import describe_violations

    found = compare_with_saved_events(opened.workflow, EventLibrary(opened.folder), event, name=Path(name or "").stem)
    for line in describe_violations(msgspec.structs.replace(found, violations=())):
        click.echo(f"Drift: {line}", err=True)


def _users(options: RunOptions, event: Event, directory: Directory) -> Sequence[str | None]:
    from pdkernel.identity import parse_environment
    from pdkernel.operations.runs import list_run_users

    if options["external_users"] is None:
        return [options["external_user"] or event.external_user_id]
    if options["external_user"] is not None:
        raise RequestError("--external-user and --external-users exclude each other.", fix="Leave out one of them.")
    environment = parse_environment(options["environment"] or event.environment)
    return list_run_users(options["external_users"], directory, environment)


def read_pins(pins: Sequence[str]) -> dict[str, JSON]:
    """The exports of `--pin STEP=FILE` options by step."""
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
    from pdkernel.snapshot_tests import save_test

    saved = save_test(
        request,
        execution,
        name=name,
        source=source,
        directory=state.open_directory(),
        non_secret_names=non_secret_names,
    )
    click.echo(saved.format_summary(Path.cwd()), err=True)


class _Progress:
    """Progress: a line that names the running step on a terminal, and lasting lines for installed packages."""

    def __init__(self, state: CliContext, *, is_shown: bool) -> None:
        self._state = state
        self._on = is_shown and not state.quiet and is_interactive(sys.stderr)
        self._shown = ""
        self._ended: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()

    def print_line(self, text: str) -> None:
        """Print a line."""
        self._clear()
        self._state.print_note(text)

    def update(self, execution: Execution) -> None:
        """Show the name of the running step; with `--verbose`, print each step that has ended."""
        for step in execution.steps:
            if step.duration_ms is not None and step.name not in self._ended:
                self._ended.add(step.name)
                self._clear()
                self._state.print_detail(f"Step {step.name}: {step.status} in {step.duration_ms:.0f} ms.")
        running = next((step.name for step in execution.steps if step.status == "not_run" and step.started_at), None)
        text = f"running {running} ..." if running else ""
        if self._on and text and text != self._shown:
            sys.stderr.write("\r" + text.ljust(len(self._shown)))
            sys.stderr.flush()
            self._shown = text

    def _clear(self) -> None:
        if self._on and self._shown:
            sys.stderr.write("\r" + " " * len(self._shown) + "\r")
            sys.stderr.flush()
            self._shown = ""


def resolve_exit_status(execution: Execution) -> int:
    """Return the exit status for an execution."""
    from pdkernel.errors import InternalError, exit_status_of

    if execution.status in ("success", "exited"):
        return 0
    if execution.status == "paused":
        return 4
    refused = execution.status == "error" and all(step.status == "not_run" for step in execution.steps)
    if refused and execution.error is not None:
        # a step's own process may end with the same code; before any step it means that the run was refused
        return max(2, exit_status_of(execution.error.code))
    if execution.error is not None and exit_status_of(execution.error.code) == InternalError.exit_status:
        return InternalError.exit_status
    return 1


def print_next_command(state: CliContext, execution: Execution) -> None:
    """Print to standard error the command for a run that failed or is paused."""
    if execution.status == "paused":
        state.print_note(f"To end the pause: pdkernel runs resume {execution.id}")
    elif resolve_exit_status(execution) != 0:
        state.print_note(f"To look at this run: pdkernel runs show {execution.id}")


def print_execution(
    execution: Execution, workflow: Workflow, *, event_file: str | None = None, explain: bool = False
) -> None:
    """Print the timeline of a run; of a run that was refused, the reason."""
    from pdkernel.render import lookup, timeline

    error = execution.error
    ran = any(step.status != "not_run" for step in execution.steps)
    if resolve_exit_status(execution) in (2, 3) and error is not None and not ran:
        print_error(error.code, error.message)
        if explain and execution.lookup is not None:
            click.echo(lookup.render_text(execution.lookup), nl=False)
        return
    if execution.status != "success" and error is not None and error.stack is None:
        print_error(error.code, f"{_steps_line(execution)}\n{error.message}")
    else:
        text = timeline.render_text(
            execution,
            explain_lookup=explain,
            has_response=workflow.trigger.type == "http",
            languages=timeline.step_kinds(workflow),
            event_name=Path(event_file).stem if event_file is not None and event_file != "-" else None,
        )
        click.echo(color_statuses(text), nl=False)


def _steps_line(execution: Execution) -> str:
    """Each step with its status, in one line."""
    return f"{execution.workflow}: " + ", ".join(f"{step.name} {step.status}" for step in execution.steps)

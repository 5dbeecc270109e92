"""
`pdkernel shape`: the structure of events, and the contract between a workflow's steps and its events.

Options and output of the command. The operations are in `operations.events`.
"""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import click
import cloup

from pdkernel.cli.app import EXIT_STATUSES, TEST, CliContext, CommandLineError, command, json_option
from pdkernel.cli.terminal import print_json, print_text, read_input

if TYPE_CHECKING:
    from pdkernel.event import Event
    from pdkernel.language.shape import Shape

_EVENT_BYTES = 40_000
"""The assumed size of an event file, for the size of the batches in which many are read."""


class ShapeOptions(TypedDict):
    """Options of `pdkernel shape` that select recorded runs, or two events."""

    diff: bool
    runs: bool
    user: str | None
    all_users: bool
    workflow: str | None
    since: str | None
    limit: int | None


@command(
    name="shape",
    section=TEST,
    options_metavar="[OPTIONS] EVENT... | --diff A B | --runs | --contract SOURCE",
    examples=(
        "pdkernel shape events/issues-opened.json",
        "pdkernel shape --diff events/issues-opened.json events/issues-labeled.json",
        "pdkernel shape --runs --workflow Greet --user ada",
        "pdkernel shape --contract greet.ipynb",
        "pdkernel shape --contract greet.ipynb events/new.json",
    ),
    exit_statuses={**EXIT_STATUSES, 1: "with --contract: an event breaks the contract, or shows drift"},
)
@cloup.argument("events", metavar="[EVENT]...", nargs=-1)
@cloup.option("--schema", is_flag=True, help="Print the JSON Schema instead of the shape.")
@cloup.option("--diff", is_flag=True, help="Show the difference of two events.")
@cloup.option("--runs", is_flag=True, help="Show the shape of the events of recorded runs.")
@cloup.option("--user", "--external-user", metavar="ID", help="With --runs: only runs of this external user.")
@cloup.option("--all", "all_users", is_flag=True, help="With --runs: runs of all external users (default).")
@cloup.option("--workflow", metavar="NAME", help="With --runs: only runs of this workflow.")
@cloup.option("--since", metavar="TIME", help="With --runs: only runs that started then or later: 2h, yesterday.")
@cloup.option(
    "--limit",
    type=click.IntRange(1, 100_000),
    metavar="N",
    help="With --runs: how many runs, the newest first (default: 1000).",
)
@cloup.option(
    "--contract",
    is_flag=True,
    help="Show the event fields that the steps of SOURCE read, and check events (default: the saved events).",
)
@cloup.option("--example", is_flag=True, help="With --contract: print only an example event that fulfils the contract.")
@json_option
def shape(
    state: CliContext,
    events: tuple[str, ...],
    schema: bool,
    contract: bool,
    example: bool,
    as_json: bool,
    **options: Unpack[ShapeOptions],
) -> int:
    """
    Show the shape of events.

    EVENT is a file, a folder with event files, or - for standard input. The shape lists every path with its types and samples, and of
    several events in how many of them the path is.

    With --contract, the exit status is 1 if an event lacks a field that steps require, has another type there, or
    differs from earlier events in the fields that steps read.
    """
    from pdkernel.operations.events import check_shape_options, compare_events, expand_event_names, infer_event_shape
    from pdkernel.render import shape as shape_view

    check_shape_options(events, contract=contract or example, **options)
    if not events and not options["runs"]:
        raise CommandLineError("No event is named.", fix="Pass an event file, or --runs. See: pdkernel shape --help")
    if contract or example:
        return show_contract(Path(events[0]), events[1:], schema=schema, example=example, as_json=as_json)
    if options["runs"]:
        return _show_runs(state, options, schema=schema, as_json=as_json)
    names = expand_event_names(events, Path())
    if options["diff"]:
        if len(names) != 2:
            raise CommandLineError("--diff compares two events.", fix="Pass two: pdkernel shape --diff A B")
        difference = compare_events(*map(_read_event, names))
        if as_json:
            print_json(shape_view.build_change_rows(difference))
        else:
            click.echo(shape_view.render_difference(difference, (Path(names[0]).name, Path(names[1]).name)).text)
        return 0
    found = infer_event_shape(map(_read_event, names), size=_EVENT_BYTES)
    _print_shape(found, schema=schema, as_json=as_json)
    return 0


def _show_runs(state: CliContext, options: ShapeOptions, *, schema: bool, as_json: bool) -> int:
    from pdkernel.operations.run_history import SHAPED_RUNS, build_query, infer_recorded_shape

    project = state.open_project()
    query = build_query(
        project.clock,
        workflow=options["workflow"],
        external_user=options["user"],
        since=options["since"],
        limit=options["limit"] or SHAPED_RUNS,
    )
    recorded = asyncio.run(infer_recorded_shape(project, query))
    if schema or as_json:
        state.print_note(recorded.title)
    else:
        print_text(recorded.title)
    _print_shape(recorded.shape, schema=schema, as_json=as_json)
    return 0


def _print_shape(found: Shape, *, schema: bool, as_json: bool) -> None:
    from pdkernel.language.shape import build_schema
    from pdkernel.render import shape as shape_view

    if schema:
        print_json(build_schema(found))
    elif as_json:
        print_json(shape_view.build_rows(found))
    else:
        click.echo(shape_view.render_text(found), nl=False)


def show_contract(source: Path, events: Sequence[str], *, schema: bool, example: bool, as_json: bool) -> int:
    """
    Print the contract of the workflow in *source*.

    Returns:
        0 if all *events* (default: the saved events) fulfil the contract, else 1.
    """
    from pdkernel.files.source import load_source
    from pdkernel.language.analysis.contract import build_contract_schema
    from pdkernel.operations.events import EventLibrary, check_contract
    from pdkernel.render import contract as contract_view

    opened = load_source(source, unanswered="keep")
    http = opened.workflow.trigger.type == "http"
    checked = () if schema or example else events
    stems = [Path(name).stem for name in checked]
    given = {
        stem if stems.count(stem) == 1 else name: _read_event(name, http=http)
        for stem, name in zip(stems, checked, strict=True)
    }
    own_events = opened.sidecar.test_events if opened.sidecar else ()
    report = check_contract(
        opened.workflow, EventLibrary(opened.folder), given, include_saved=not given, test_events=own_events
    )
    if schema:
        print_json(build_contract_schema(report.contract))
        return 0
    if example:
        print_json(report.example)
        return 0
    if as_json:
        print_json(report.to_json())
    else:
        click.echo(
            contract_view.render_text(report.contract, report.workflow, report.comparisons, report.example), nl=False
        )
    return 0 if report.is_fulfilled else 1


def _read_event(name: str, *, http: bool = True) -> Event:
    from pdkernel.errors import EventError
    from pdkernel.event import Event

    data = read_input(name)
    try:
        return Event.parse(data, label="standard input" if name == "-" else name, is_http=http)
    except EventError as fault:
        source = shlex.quote(name)
        fix = (
            f"For the event fields that the steps of a workflow read: pdkernel shape --contract {source}"
            if name.endswith((".ipynb", ".py"))
            else 'If this is a payload, wrap it: {"body": ...}.'
        )
        raise EventError(fault.message, fix=fix) from None

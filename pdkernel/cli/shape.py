"""
`pdkernel shape`: the structure of events, and the contract between a workflow's steps and its events.

Options and output of the command. The operations are in `operations.events`.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import cloup

from pdkernel.cli.app import TEST, CliContext, command, json_option
from pdkernel.cli.command_help import EXIT_STATUSES
from pdkernel.cli.terminal import print_json, read_input

if TYPE_CHECKING:
    from pdkernel.event import Event


@command(
    name="shape",
    section=TEST,
    options_metavar="[OPTIONS] EVENT... | --contract SOURCE",
    examples=(
        "pdkernel shape events/issues-opened.json",
        "pdkernel shape --contract greet.ipynb",
        "pdkernel shape --contract greet.ipynb events/new.json",
    ),
    exit_statuses={**EXIT_STATUSES, 1: "with --contract: an event breaks the contract, or shows drift"},
)
@cloup.argument("events", metavar="[EVENT]...", nargs=-1, required=True)
@cloup.option("--schema", is_flag=True, help="Print the JSON Schema instead of the shape.")
@cloup.option(
    "--contract",
    is_flag=True,
    help="Show the event fields that the steps of SOURCE read, and check events (default: the saved events).",
)
@cloup.option("--example", is_flag=True, help="With --contract: print only an example event that fulfils the contract.")
@json_option
def shape(_: CliContext, events: tuple[str, ...], schema: bool, contract: bool, example: bool, as_json: bool) -> int:
    """
    Show the shape of events.

    EVENT is a file, or - for standard input. The shape lists every path with its types and samples.

    With --contract, the exit status is 1 if an event lacks a field that steps require, has another type there, or
    differs from earlier events in the fields that steps read.
    """
    if contract or example:
        return show_contract(Path(events[0]), events[1:], schema=schema, example=example, as_json=as_json)
    from pdkernel import shape as shapes
    from pdkernel.operations.events import infer_event_shape
    from pdkernel.render import shape as shape_view

    given = [_read_event(name) for name in events]
    if schema:
        list_schema = shapes.infer_schema([dict(event.data) for event in given])
        print_json({"$schema": list_schema["$schema"], **list_schema["items"]})
        return 0
    found = infer_event_shape(given)
    if as_json:
        print_json(shape_view.build_rows(found))
    else:
        click.echo(shape_view.render_text(found), nl=False)
    return 0


def show_contract(source: Path, events: Sequence[str], *, schema: bool, example: bool, as_json: bool) -> int:
    """
    Print the contract of the workflow in *source*.

    Returns:
        0 if all *events* (default: the saved events) fulfil the contract, else 1.
    """
    from pdkernel.analysis import build_contract_schema
    from pdkernel.operations.events import EventLibrary, check_contract
    from pdkernel.render import contract as contract_view
    from pdkernel.source import load_source

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

"""
`pdkernel shape`: the structure of events, and the contract between a workflow's steps and its events.

Options and output of the command. `shape` infers structures, `analysis` derives and checks contracts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pdkernel.cli.app import CliContext, command, json_option, print_json, read_input

if TYPE_CHECKING:
    from pdkernel.model import JSON


@command(name="shape")
@click.argument("events", metavar="EVENT...", nargs=-1, required=True)
@click.option("--schema", is_flag=True, help="Print the JSON Schema instead of the shape.")
@click.option(
    "--contract",
    is_flag=True,
    help="The first argument is a SOURCE, not an event: show the event fields that its steps read, and check the events (default: the saved events).",
)
@click.option("--example", is_flag=True, help="With --contract: print only an example event that fulfils the contract.")
@json_option
def shape(_: CliContext, events: tuple[str, ...], schema: bool, contract: bool, example: bool, as_json: bool) -> int:
    """
    Show the shape of one or several events: every path with types and samples.

    With --contract, the exit status is 1 if an event lacks a field that steps require, has another type there, or
    differs from earlier events in the fields that steps read.
    """
    if contract or example:
        return show_contract(Path(events[0]), events[1:], schema=schema, example=example, as_json=as_json)
    from pdkernel import shape as shapes
    from pdkernel.event import Event
    from pdkernel.render import shape as shape_view

    values: list[Any] = [dict(Event.parse(read_input(name), label=name).with_masked_headers().data) for name in events]
    if schema:
        list_schema = shapes.infer_schema(values)
        print_json({"$schema": list_schema["$schema"], **list_schema["items"]})
        return 0
    found = shapes.infer_shape(*values)
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
    from pdkernel.analysis import build_contract_schema, build_example_event, compare_event, derive_contract
    from pdkernel.render import contract as contract_view
    from pdkernel.session.event_contract import load_saved_events
    from pdkernel.session.event_library import EventLibrary
    from pdkernel.source import load_source

    opened = load_source(source, unanswered="keep")
    workflow = opened.workflow
    http = workflow.trigger.type == "http"
    saved = load_saved_events(EventLibrary(opened.folder), http=http)
    contract = derive_contract(workflow)
    example_event = build_example_event(contract, list(saved.values()), is_http=http)
    if schema:
        print_json(build_contract_schema(contract))
        return 0
    if example:
        print_json(example_event)
        return 0
    looked_at = {Path(name).stem: _event(name, http=http) for name in events} if events else saved
    # the order in which events were saved is not known: they are not compared with each other
    compared = [compare_event(contract, name, data, saved if events else {}) for name, data in looked_at.items()]
    if as_json:
        comparisons = [each.to_json() for each in compared]
        print_json({"workflow": workflow.name, **contract.to_json(), "events": comparisons, "example": example_event})
    else:
        click.echo(contract_view.render_text(contract, workflow.name, compared, example_event), nl=False)
    return 0 if all(each.is_compatible for each in compared) else 1


def _event(name: str, *, http: bool) -> Mapping[str, JSON]:
    from pdkernel.event import Event

    label = "standard input" if name == "-" else name
    return dict(Event.parse(read_input(name), label=label, is_http=http).with_masked_headers().data)

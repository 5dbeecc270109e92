"""
`pdkernel shape SOURCE --contract`: what the steps of a workflow read of an event, and whether events have it.

Knows how it is printed. What it says is `contract`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from pdkernel.analysis import build_contract_schema, compare_event, derive_contract
from pdkernel.analysis import build_example_event as example_of
from pdkernel.cli.app import print_json, read_input
from pdkernel.event import Event
from pdkernel.model import JSON


def show_contract(source: Path, events: Sequence[str], *, schema: bool, example: bool, as_json: bool) -> int:
    """Print the contract of the workflow in *source*; 1 if one of *events*, or of the saved ones, does not keep it."""
    from pdkernel.render import contract as drawn
    from pdkernel.session.event_contract import load_saved_events
    from pdkernel.session.event_library import EventLibrary
    from pdkernel.source import load_source

    opened = load_source(source, unanswered="keep")
    workflow = opened.workflow
    http = workflow.trigger.type == "http"
    saved = load_saved_events(EventLibrary(opened.folder), http=http)
    contract = derive_contract(workflow)
    made = example_of(contract, list(saved.values()), is_http=http)
    if schema:
        print_json(build_contract_schema(contract))
        return 0
    if example:
        print_json(made)
        return 0
    looked_at = {Path(name).stem: _event(name, http=http) for name in events} if events else saved
    # which of the saved events was there before which, nobody knows
    compared = [compare_event(contract, name, data, saved if events else {}) for name, data in looked_at.items()]
    if as_json:
        said = [each.to_json() for each in compared]
        print_json({"workflow": workflow.name, **contract.to_json(), "events": said, "example": made})
    else:
        click.echo(drawn.render_text(contract, workflow.name, compared, made), nl=False)
    return 0 if all(each.is_compatible for each in compared) else 1


def _event(name: str, *, http: bool) -> Mapping[str, JSON]:
    said = "standard input" if name == "-" else name
    return dict(Event.parse(read_input(name), label=said, is_http=http).with_masked_headers().data)

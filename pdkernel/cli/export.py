"""
`pdkernel export` and `pdkernel shape`: files out of a notebook, the structure of events.

Knows the options. Planning and writing files is `definition`'s work.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pdkernel.cli.app import State, command, json_option, option, print_json, read_input


@command(name="export")
@click.argument("notebook", type=click.Path(path_type=Path))
@option("--to", metavar="FOLDER", help="Write the workflow's folder.")
@option("--into", metavar="FOLDER", help="Patch a folder that Pipedream synced.")
@json_option
def export(_: State, notebook: Path, to: str | None, into: str | None, as_json: bool) -> int:
    """Write NOTEBOOK as the files that Pipedream deploys."""
    from pdkernel import definition
    from pdkernel.errors import RequestError
    from pdkernel.inspection import check
    from pdkernel.render import files
    from pdkernel.source import read_source

    if (to is None) == (into is None):
        raise RequestError(
            "Say where to: --to FOLDER for a new folder, --into FOLDER for one that Pipedream synced.",
        )
    opened = read_source(notebook, unanswered="keep")
    check(opened.workflow)
    if into is not None:
        raise definition.not_into(into)
    assert to is not None
    result = definition.export(opened.workflow, Path(to), sidecar=opened.sidecar)
    if as_json:
        print_json(result.to_json())
    else:
        click.echo(files.text(to, result.files, checklist=result.checklist), nl=False)
    return 0


@command(name="shape")
@click.argument("events", metavar="EVENT...", nargs=-1, required=True)
@click.option("--schema", is_flag=True, help="Print the JSON Schema instead.")
@json_option
def shape(_: State, events: tuple[str, ...], schema: bool, as_json: bool) -> int:
    """Show the shape of one or several events: every path with types and samples."""
    from pdkernel import shape as shapes
    from pdkernel.event import Event
    from pdkernel.render import shape as drawn

    values: list[Any] = [dict(Event.parse(read_input(name), name=name).masked().data) for name in events]
    if schema:
        whole = shapes.schema(values)
        print_json({"$schema": whole["$schema"], **whole["items"]})
        return 0
    found = shapes.shape_of(*values)
    if as_json:
        print_json(drawn.rows(found))
    else:
        click.echo(drawn.text(found), nl=False)
    return 0

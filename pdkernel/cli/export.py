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
@option(
    "--into", metavar="FOLDER", help="Patch a folder that Pipedream synced: what has not changed stays to the byte."
)
@option(
    "--docs",
    is_flag=True,
    help="Write README.md, too: the workflow in words; with --into also pdkernel.yaml, what Git sync does not hold "
    "(--to always writes it).",
)
@option("--dry-run", is_flag=True, help="Write nothing: show what would change.")
@json_option
def export(_: State, notebook: Path, to: str | None, into: str | None, docs: bool, dry_run: bool, as_json: bool) -> int:
    """
    Write NOTEBOOK as the files that Pipedream deploys.

    --into writes over the entry files of steps and the changed lines of workflow.yaml; look first with --dry-run, go
    back with Git. Files of steps that are gone stay, and are named.
    """
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
    where = str(to or into)
    act = definition.export if into is None else definition.export_into
    result = act(opened.workflow, Path(where), sidecar=opened.sidecar, docs=docs, dry_run=dry_run)
    if as_json:
        print_json(result.to_json())
    else:
        note = None if result.written else "Nothing is written: this is what would be."
        click.echo(files.text(where, result.files, checklist=result.checklist, note=note), nl=False)
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

"""
`pdkernel export` and `pdkernel shape`: files out of a notebook, the structure of events.

Knows the options. Planning and writing files is `definition`'s work, proving them `proof`'s.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import click

from pdkernel.cli.app import State, command, in_terminal, json_option, option, print_json, read_input


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
@option(
    "--prove", is_flag=True, help="Run the written files beside NOTEBOOK on every saved event, offline, and compare."
)
@json_option
def export(
    state: State,
    notebook: Path,
    to: str | None,
    into: str | None,
    docs: bool,
    dry_run: bool,
    prove: bool,
    as_json: bool,
) -> int:
    """
    Write NOTEBOOK as the files that Pipedream deploys.

    --into writes over the entry files of steps and the changed lines of workflow.yaml; look first with --dry-run, go
    back with Git. Files of steps that are gone stay, and are named.
    """
    from pdkernel import definition
    from pdkernel.errors import RequestError
    from pdkernel.inspection import check
    from pdkernel.render import files
    from pdkernel.render import proof as proofs
    from pdkernel.source import read_source

    if (to is None) == (into is None):
        raise RequestError(
            "Say where to: --to FOLDER for a new folder, --into FOLDER for one that Pipedream synced.",
        )
    if prove and dry_run:
        raise RequestError("A proof reads the files that were written, and --dry-run writes none.")
    opened = read_source(notebook, unanswered="refuse" if prove else "keep")
    check(opened.workflow, to_run=False)
    where = str(to or into)
    act = definition.export if into is None else definition.export_into
    result = act(opened.workflow, Path(where), sidecar=opened.sidecar, docs=docs, dry_run=dry_run)
    proof = _prove(state, opened, result.folder, into=into is not None, quiet=as_json) if prove else None
    if as_json:
        print_json({**result.to_json(), **({"proof": proof.to_json()} if proof else {})})
    else:
        note = None if result.written else "Nothing is written: this is what would be."
        click.echo(
            files.text(where, result.files, checklist=result.checklist, note=note, findings=result.findings), nl=False
        )
        click.echo(proofs.text(proof) if proof else "", nl=False)
    return 1 if proof is not None and proof.verdict == "differs" else 0


def _prove(state: State, opened: Any, folder: Path, *, into: bool, quiet: bool) -> Any:
    from pdkernel.proof import Exported, prove

    def say(line: str) -> None:
        if not quiet and in_terminal(sys.stderr):
            click.echo(line, err=True)

    exported = Exported(
        opened.path,
        opened.workflow,
        opened.sidecar,
        state.project(),
        state.directory(),
        environ=os.environ,
        into=into,
    )
    return asyncio.run(prove(exported, folder, progress=say))


@command(name="shape")
@click.argument("events", metavar="EVENT...", nargs=-1, required=True)
@click.option("--schema", is_flag=True, help="Print the JSON Schema instead.")
@click.option(
    "--contract",
    is_flag=True,
    help="The first is a SOURCE, not an event: show what its steps read, and whether the events (default: the saved ones) have it.",
)
@click.option("--example", is_flag=True, help="With --contract: print an event that keeps it, and nothing else.")
@json_option
def shape(_: State, events: tuple[str, ...], schema: bool, contract: bool, example: bool, as_json: bool) -> int:
    """
    Show the shape of one or several events: every path with types and samples.

    With --contract it ends with 1 if an event lacks what the steps count on, has another type there, or differs in what
    they read from the events before.
    """
    if contract or example:
        from pdkernel.cli.contract import show_contract

        return show_contract(Path(events[0]), events[1:], schema=schema, example=example, as_json=as_json)
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

"""
`pdkernel export` and `pdkernel shape`: files out of a notebook, the structure of events.

Knows the options. Planning and writing files is `definition`'s work, proving them `proof`'s.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pdkernel.cli.app import CliContext, command, env_option, is_interactive, json_option, print_json, read_input

if TYPE_CHECKING:
    from pdkernel.render.proof import Proof
    from pdkernel.source import WorkflowSource


@command(name="export")
@click.argument("notebook", type=click.Path(path_type=Path))
@env_option("--to", metavar="FOLDER", help="Write the workflow's folder.")
@env_option(
    "--into", metavar="FOLDER", help="Patch a folder that Pipedream synced: what has not changed stays to the byte."
)
@env_option(
    "--docs",
    is_flag=True,
    help="Write README.md, too: the workflow in words; with --into also pdkernel.yaml, what Git sync does not hold "
    "(--to always writes it).",
)
@env_option("--dry-run", is_flag=True, help="Write nothing: show what would change.")
@env_option(
    "--prove", is_flag=True, help="Run the written files beside NOTEBOOK on every saved event, offline, and compare."
)
@json_option
def export(
    state: CliContext,
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
    from pdkernel.analysis import check_workflow
    from pdkernel.errors import RequestError
    from pdkernel.render import files
    from pdkernel.render import proof as proofs
    from pdkernel.source import load_source

    if (to is None) == (into is None):
        raise RequestError(
            "Say where to: --to FOLDER for a new folder, --into FOLDER for one that Pipedream synced.",
        )
    if prove and dry_run:
        raise RequestError("A proof reads the files that were written, and --dry-run writes none.")
    opened = load_source(notebook, unanswered="refuse" if prove else "keep")
    check_workflow(opened.workflow, to_run=False)
    where = str(to or into)
    act = definition.export_to_folder if into is None else definition.export_to_synced_folder
    result = act(opened.workflow, Path(where), sidecar=opened.sidecar, include_readme=docs, dry_run=dry_run)
    proof = _prove(state, opened, result.folder, into=into is not None, quiet=as_json) if prove else None
    if as_json:
        print_json({**result.to_json(), **({"proof": proof.to_json()} if proof else {})})
    else:
        note = None if result.is_written else "Nothing is written: this is what would be."
        click.echo(
            files.render_text(where, result.files, checklist=result.checklist, note=note, findings=result.findings),
            nl=False,
        )
        click.echo(proofs.render_text(proof) if proof else "", nl=False)
    return 1 if proof is not None and proof.verdict == "differs" else 0


def _prove(state: CliContext, opened: WorkflowSource, folder: Path, *, into: bool, quiet: bool) -> Proof:
    from pdkernel.proof import ExportedNotebook, run_proof

    def say(line: str) -> None:
        if not quiet and is_interactive(sys.stderr):
            click.echo(line, err=True)

    exported = ExportedNotebook(
        opened.path,
        opened.workflow,
        opened.sidecar,
        state.open_project(),
        state.open_directory(),
        environ=os.environ,
        is_patched=into,
    )
    return asyncio.run(run_proof(exported, folder, progress=say))


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
def shape(_: CliContext, events: tuple[str, ...], schema: bool, contract: bool, example: bool, as_json: bool) -> int:
    """
    Show the shape of one or several events: every path with types and samples.

    With --contract it ends with 1 if an event lacks what the steps count on, has another type there, or differs in what
    they read from the events before.
    """
    if contract or example:
        from pdkernel.cli.shape import show_contract

        return show_contract(Path(events[0]), events[1:], schema=schema, example=example, as_json=as_json)
    from pdkernel import shape as shapes
    from pdkernel.event import Event
    from pdkernel.render import shape as drawn

    values: list[Any] = [dict(Event.parse(read_input(name), label=name).with_masked_headers().data) for name in events]
    if schema:
        whole = shapes.infer_schema(values)
        print_json({"$schema": whole["$schema"], **whole["items"]})
        return 0
    found = shapes.infer_shape(*values)
    if as_json:
        print_json(drawn.build_rows(found))
    else:
        click.echo(drawn.render_text(found), nl=False)
    return 0

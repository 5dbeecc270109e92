"""
`pdkernel export`: a notebook as the files that Pipedream deploys.

Options and output of the command. `definition` plans and writes the files, `proof` compares them with the notebook.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pdkernel.cli.app import CliContext, command, env_option, is_interactive, json_option, print_json

if TYPE_CHECKING:
    from pdkernel.render.proof import Proof
    from pdkernel.source import WorkflowSource


@command(name="export")
@click.argument("notebook", type=click.Path(path_type=Path))
@env_option("--to", metavar="FOLDER", help="Write the workflow to a new folder.")
@env_option("--into", metavar="FOLDER", help="Update a synced folder: unchanged parts stay byte for byte.")
@env_option(
    "--docs",
    is_flag=True,
    help="Also write README.md, a description of the workflow; with --into also pdkernel.yaml, the settings that Git sync "
    "does not hold (--to always writes pdkernel.yaml).",
)
@env_option("--dry-run", is_flag=True, help="Show the changes without writing them.")
@env_option(
    "--prove",
    is_flag=True,
    help="Run the written files and NOTEBOOK on every saved event, offline, and compare the runs.",
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

    --into overwrites the entry files of steps and the changed lines of workflow.yaml. Check the changes with --dry-run
    first; undo them with Git. Files of removed steps stay and are listed.
    """
    from pdkernel import definition
    from pdkernel.analysis import check_workflow
    from pdkernel.errors import RequestError
    from pdkernel.render import files
    from pdkernel.render import proof as proof_view
    from pdkernel.source import load_source

    if (to is None) == (into is None):
        raise RequestError(
            "The target folder is missing.",
            fix="Pass either --to FOLDER for a new folder or --into FOLDER for a synced folder.",
        )
    if prove and dry_run:
        raise RequestError(
            "--prove needs the written files, and --dry-run writes none.", fix="Leave out --dry-run or --prove."
        )
    opened = load_source(notebook, unanswered="refuse" if prove else "keep")
    check_workflow(opened.workflow, to_run=False)
    target = str(to or into)
    export_files = definition.export_to_folder if into is None else definition.export_to_synced_folder
    result = export_files(opened.workflow, Path(target), sidecar=opened.sidecar, include_readme=docs, dry_run=dry_run)
    proof = _prove(state, opened, result.folder, into=into is not None, quiet=as_json) if prove else None
    if as_json:
        print_json({**result.to_json(), **({"proof": proof.to_json()} if proof else {})})
    else:
        note = None if result.is_written else "Dry run: no file was written."
        click.echo(
            files.render_text(target, result.files, checklist=result.checklist, note=note, findings=result.findings),
            nl=False,
        )
        click.echo(proof_view.render_text(proof) if proof else "", nl=False)
    return 1 if proof is not None and proof.verdict == "differs" else 0


def _prove(state: CliContext, opened: WorkflowSource, folder: Path, *, into: bool, quiet: bool) -> Proof:
    from pdkernel.proof import ExportedNotebook, run_proof

    def print_progress(line: str) -> None:
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
    return asyncio.run(run_proof(exported, folder, progress=print_progress))

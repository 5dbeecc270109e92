"""
`pdkernel export`: a notebook as a workflow's folder, which `pdkernel serve` takes and Pipedream deploys.

Options and output of the command. The operation is in `operations.export`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import cloup

from pdkernel.cli.app import AUTHOR, CliContext, command, json_option
from pdkernel.cli.command_help import EXIT_STATUSES
from pdkernel.cli.terminal import is_interactive, print_json
from pdkernel.errors import RequestError

if TYPE_CHECKING:
    from pdkernel.files.source import WorkflowSource
    from pdkernel.operations.export import Proof


@command(
    name="export",
    section=AUTHOR,
    examples=(
        "pdkernel export greet.ipynb --to deploy/greet",
        "pdkernel export greet.ipynb --into ../project/greet --dry-run",
        "pdkernel export greet.ipynb --to deploy/greet --prove",
    ),
    exit_statuses={**EXIT_STATUSES, 1: "with --prove: a run differs"},
)
@cloup.argument("notebook", type=click.Path(path_type=Path))
@cloup.option("--to", metavar="FOLDER", help="Write the workflow to a new folder.")
@cloup.option("--into", metavar="FOLDER", help="Update a synced folder: unchanged parts stay byte for byte.")
@cloup.option(
    "--docs",
    is_flag=True,
    help="Also write README.md, which describes the workflow. With --into, also write pdkernel.yaml, the settings that "
    "Git sync does not hold; --to always writes it.",
)
@cloup.option("--dry-run", is_flag=True, help="Show the changes without writing them.")
@cloup.option(
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
    Write NOTEBOOK as a workflow's folder.

    `pdkernel serve` serves the folder; the last line of the output is the command. Pipedream deploys the same files by Git sync.

    --into overwrites the entry files of steps and the changed lines of workflow.yaml. Check the changes with --dry-run
    first; undo them with Git. Files of removed steps stay and are listed.
    """
    from pdkernel.files.source import load_source
    from pdkernel.operations.export import DRY_RUN_NOTE, Export, check_export_options, export_workflow
    from pdkernel.render import files as files_view

    target = to or into
    if not target:
        raise RequestError(
            "The target folder is missing.",
            fix="Pass either --to FOLDER for a new folder or --into FOLDER for a synced folder.",
        )
    check_export_options(to=to, into=into, dry_run=dry_run, prove=prove)
    opened = load_source(notebook, unanswered="refuse" if prove else "keep")
    files = export_workflow(
        opened,
        Path(target),
        is_patch=into is not None,
        include_docs=docs,
        dry_run=dry_run,
        options=("--project", state.project_folder) if state.project_folder else (),
    )
    proof = prove_files(state, opened, files.folder, is_patch=into is not None, quiet=as_json) if prove else None
    if as_json:
        print_json(Export(files, proof).to_json())
    else:
        note = None if files.is_written else DRY_RUN_NOTE
        click.echo(
            files_view.render_text(target, files.files, checklist=files.checklist, note=note, findings=files.findings),
            nl=False,
        )
        if proof is not None:
            click.echo(proof.render_text(), nl=False)
        if files.is_written:
            click.echo(f"\n{files_view.build_serving_output(files.serve_command, files.serve_notes).text}")
    return 1 if proof is not None and proof.verdict == "differs" else 0


def prove_files(state: CliContext, opened: WorkflowSource, folder: Path, *, is_patch: bool, quiet: bool) -> Proof:
    """Prove the files that an export of *opened* wrote to *folder*; progress is printed on a terminal unless *quiet*."""
    from pdkernel.kit.session.state import read_pinned_steps
    from pdkernel.operations.export import prove_export

    def print_progress(line: str) -> None:
        if not quiet and is_interactive(sys.stderr):
            click.echo(line, err=True)

    return prove_export(
        opened,
        folder,
        project=state.open_project(),
        directory=state.open_directory(),
        environ=os.environ,
        is_patch=is_patch,
        pinned_steps=sorted(read_pinned_steps(state.open_project(), opened.path)),
        progress=print_progress,
    )

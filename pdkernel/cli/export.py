"""
`pdkernel export` and `check`: a notebook as the folder that is served or deployed, and whether its saved outputs are true.

Options and output of the commands. The operations are in `operations.export` and `operations.notebook_checks`.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import cloup
from msgspec.structs import replace

from pdkernel.cli.app import AUTHOR, EXIT_STATUSES, TEST, CliContext, command, json_option
from pdkernel.cli.terminal import is_interactive, print_json
from pdkernel.errors import PdkernelError, RequestError

if TYPE_CHECKING:
    from pdkernel.files.source import WorkflowSource
    from pdkernel.operations.export import Proof
    from pdkernel.operations.notebook_checks import NotebookCheck


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


@command(
    name="check",
    section=TEST,
    examples=(
        "pdkernel check greet.ipynb",
        "pdkernel check notebooks/ --base origin/main --markdown summary.md",
        "pdkernel check greet.ipynb --prove --json",
    ),
    exit_statuses={
        **EXIT_STATUSES,
        1: "saved outputs belong to other code, a notebook cannot be read or proved, or a proof differs",
    },
)
@cloup.argument("notebooks", metavar="NOTEBOOK...", nargs=-1, required=True, type=click.Path(path_type=Path))
@cloup.option("--base", metavar="REVISION", help="List the steps that changed since this Git revision.")
@cloup.option("--markdown", metavar="FILE", help="Append a summary in Markdown to FILE; - is standard output.")
@cloup.option("--prove", is_flag=True, help="Also export each notebook to a temporary folder, and prove the export.")
@json_option
def check(
    state: CliContext, notebooks: tuple[Path, ...], base: str | None, markdown: str | None, prove: bool, as_json: bool
) -> int:
    """
    Check that the saved outputs of notebooks belong to their code.

    Lists for each notebook the accounts, the fields of the event that steps read, and the outbound calls. The notebooks of a
    folder are all checked. No code runs, except with --prove.
    """
    from pdkernel.actions import Catalog
    from pdkernel.operations import notebook_checks as view
    from pdkernel.operations.notebook_checks import check_notebook

    if markdown == "-" and as_json:
        raise RequestError("--json and --markdown - both write to standard output.", fix="Pass a file to --markdown.")
    checks = []
    catalog = Catalog.for_project(state.open_project(), environ=os.environ)
    for path in _find_notebooks(notebooks):
        found = check_notebook(path, catalog=catalog, base=base)
        if prove and found.error is None:
            found = _add_proof(found, state, path)
        checks.append(found)
    if as_json:
        print_json([{**found.to_json(), "passed": found.is_passed} for found in checks])
    elif markdown != "-":
        click.echo("".join(map(view.render_text, checks)), nl=False)
    if markdown is not None:
        _append(markdown, "\n".join(map(view.render_markdown, checks)))
    return 0 if all(found.is_passed for found in checks) else 1


def _find_notebooks(paths: Sequence[Path]) -> Iterator[Path]:
    from pdkernel.files.notebook import is_notebook_file
    from pdkernel.files.source import find_sources

    for path in paths:
        found = [each for each in find_sources(path) if is_notebook_file(each)]
        if not found:
            raise RequestError(f"{path} contains no notebook.", fix="Pass a notebook, or a folder with notebooks.")
        yield from found


def _add_proof(check: NotebookCheck, state: CliContext, path: Path) -> NotebookCheck:
    """Return *check* with the proof, or with the error that keeps the notebook from being proved."""
    try:
        proof = _prove(state, path)
    except PdkernelError as error:
        return replace(check, error=str(error))
    return replace(check, proof=proof.verdict, proof_summary="" if proof.is_complete else proof.summarize()[0])


def _prove(state: CliContext, path: Path) -> Proof:
    from pdkernel.files.source import load_source
    from pdkernel.operations.export import export_workflow

    source = load_source(path)
    with tempfile.TemporaryDirectory(prefix="pdkernel-check-") as folder:
        files = export_workflow(source, Path(folder, "export"), is_patch=False)
        return prove_files(state, source, files.folder, is_patch=False, quiet=True)


def _append(target: str, text: str) -> None:
    if target == "-":
        click.echo(text, nl=False)
        return
    try:
        with Path(target).open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as fault:
        raise RequestError(
            f"Cannot write {target}: {fault.strerror}.", fix="Name a file in a writable folder."
        ) from None

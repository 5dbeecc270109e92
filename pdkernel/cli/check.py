"""
`pdkernel check`: whether the saved outputs of notebooks belong to their code, with a summary for a pull request.

Options and output of the command. The operation is in `operations.notebook_checks`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import cloup
from msgspec.structs import replace

from pdkernel.cli.app import TEST, CliContext, command, json_option
from pdkernel.cli.command_help import EXIT_STATUSES
from pdkernel.cli.terminal import print_json
from pdkernel.errors import PdkernelError, RequestError

if TYPE_CHECKING:
    from pdkernel.operations.export import Proof
    from pdkernel.operations.notebook_checks import NotebookCheck


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
    """*check* with the proof, or with the error that keeps the notebook from being proved."""
    try:
        proof = _prove(state, path)
    except PdkernelError as error:
        return replace(check, error=str(error))
    return replace(check, proof=proof.verdict, proof_summary="" if proof.is_complete else proof.summarize()[0])


def _prove(state: CliContext, path: Path) -> Proof:
    from pdkernel.cli.export import prove_files
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

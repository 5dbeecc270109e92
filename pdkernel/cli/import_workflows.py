"""
`pdkernel import`: synced folders into notebooks.

Knows the options, what is printed, and that nothing is asked without a terminal. Importing is `importing`'s work.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pdkernel.cli.app import CliContext, command, env_option, is_interactive, json_option, print_json
from pdkernel.cli.import_prompts import ImportPrompts

if TYPE_CHECKING:
    from pdkernel.actions import Catalog
    from pdkernel.definition import Sidecar
    from pdkernel.importer import AccountQuestion, ImportResult
    from pdkernel.render.import_report import ImportReport

PROGRESS_MIN_WORKFLOWS = 20
"""Workflows of an import that tells its progress; fewer are there at once."""


@command(name="import")
@click.argument("folder", type=click.Path(path_type=Path))
@env_option(
    "--to", metavar="NOTEBOOK|FOLDER", required=True, help="The notebook, or the folder of notebooks, to write."
)
@env_option(
    "--accounts",
    type=click.Choice(["ask", "own", "external-user"]),
    default="ask",
    help="Whose accounts the ids in the files mean. ask (default) asks on a terminal; elsewhere they stay unanswered.",
)
@click.option("--force", is_flag=True, help="Where another notebook stands, keep it beside the new one.")
@json_option
def import_(state: CliContext, folder: Path, to: str, accounts: str, force: bool, as_json: bool) -> int:
    """Make a notebook of the workflow in FOLDER, or of every workflow in the repository FOLDER."""
    from pdkernel.importer import answer_questions, find_workflow_folders, import_folder, plan_notebook_paths

    found = plan_notebook_paths(folder, find_workflow_folders(folder), Path(to))
    asks = accounts == "ask" and is_interactive(sys.stdin)
    questions = ImportPrompts(state, root=folder, workflows=len(found)) if asks else None

    def answers(asked: Sequence[AccountQuestion]) -> Mapping[tuple[str, str], str]:
        if questions is not None:
            return questions.ask_accounts(asked)
        return {} if accounts == "ask" else answer_questions("own" if accounts == "own" else "external-user", asked)

    done = []
    for number, (place, notebook) in enumerate(found, start=1):
        _progress(number, len(found), place)
        done.append(
            import_folder(
                place,
                notebook,
                build_catalog=lambda sidecar, base=place: _catalog(state, sidecar, base),  # type: ignore[misc]
                ask_accounts=answers,
                ask_trigger=questions.ask_trigger if questions is not None else None,
                force=force,
            )
        )
    if len(done) == 1 and done[0].error is not None:
        raise done[0].error
    if as_json:
        print_json([one.to_json() for one in done] if len(done) > 1 else done[0].to_json())
    else:
        _print(done)
    return max((one.error.exit_status for one in done if one.error is not None), default=0)


def _catalog(state: CliContext, sidecar: Sidecar, base: Path) -> Catalog:
    from pdkernel.actions import Catalog
    from pdkernel.project import find_project

    if state.has_project():
        catalog = Catalog.for_project(state.open_project(), environ=os.environ)
    else:
        catalog = Catalog.without_project(find_project(Path.cwd()), environ=os.environ)
    return catalog.with_source(sidecar.actions, base=(sidecar.path.parent if sidecar.path else base).resolve())


def _progress(number: int, count: int, place: Path) -> None:
    if count >= PROGRESS_MIN_WORKFLOWS and is_interactive(sys.stderr):
        sys.stderr.write(f"\r\x1b[Kimporting {number} of {count}: {place.name}")
        sys.stderr.write("\r\x1b[K" if number == count else "")
        sys.stderr.flush()


def _print(done: Sequence[ImportResult]) -> None:
    from pdkernel.render import import_report

    for one in done:
        if one.error is not None:
            click.echo(f"Not imported: {one.folder}: {one.error}", err=True)
            continue
        assert one.state is not None, "it was imported"
        assert one.report is not None, "it was imported"
        said = {"new": "Imported", "unchanged": "Unchanged:", "replaced": "Imported again"}[one.state]
        click.echo(f"{said} {one.folder} as {one.notebook}")
        for kept in one.backups:
            click.echo(f"  what was there is kept as {kept}")
        if len(done) == 1:
            click.echo(import_report.render_text(one.report), nl=False)
        else:
            for line in _summarize_report(one.report):
                click.echo(f"  {line}")
    _say_unanswered(done)
    if len(done) > 1:
        failed = sum(one.error is not None for one in done)
        click.echo(f"{len(done) - failed} of {len(done)} workflows imported.")


def _summarize_report(report: ImportReport) -> list[str]:
    """What of a report stands in the list of a whole repository; the notebook has all of it."""
    lines = [f"cannot run here: {item.name} {item.why}" for item in report.cannot]
    return [*lines, *(f"reference: {sentence}" for sentence in report.gone)]


def _say_unanswered(done: Sequence[ImportResult]) -> None:
    unanswered = [(one.notebook, use) for one in done if one.report is not None for use in one.report.unanswered]
    if not unanswered:
        return
    click.echo("Unanswered, whose account is meant:")
    for notebook, use in unanswered:
        click.echo(f"  {notebook}: {use.step}.{use.prop} ({use.app}, {use.synced or 'no id'})")
    click.echo(
        "Such a notebook can be exported, not run or served. Answer in NAME.pdkernel.yaml beside it, or import again"
    )
    click.echo("with --force and --accounts external-user, or --accounts own.")

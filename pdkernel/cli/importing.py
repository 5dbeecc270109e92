"""
`pdkernel import`: synced folders into notebooks.

Knows the options, what is printed, and that nothing is asked without a terminal. Importing is `importing`'s work.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from pdkernel.cli.app import State, command, in_terminal, json_option, option, print_json
from pdkernel.cli.questions import Questions

MANY = 20
"""Workflows of an import that tells its progress; fewer are there at once."""


@command(name="import")
@click.argument("folder", type=click.Path(path_type=Path))
@option("--to", metavar="NOTEBOOK|FOLDER", required=True, help="The notebook, or the folder of notebooks, to write.")
@option(
    "--accounts",
    type=click.Choice(["ask", "own", "external-user"]),
    default="ask",
    help="Whose accounts the ids in the files mean. ask (default) asks on a terminal; elsewhere they stay unanswered.",
)
@click.option("--force", is_flag=True, help="Where another notebook stands, keep it beside the new one.")
@json_option
def import_(state: State, folder: Path, to: str, accounts: str, force: bool, as_json: bool) -> int:
    """Make a notebook of the workflow in FOLDER, or of every workflow in the repository FOLDER."""
    from pdkernel.importing import answer_all, find_folders, import_folder, places

    found = places(folder, find_folders(folder), Path(to))
    asks = accounts == "ask" and in_terminal(sys.stdin)
    questions = Questions(state, root=folder, workflows=len(found)) if asks else None

    def answers(asked: Sequence[Any]) -> Mapping[Any, str]:
        if questions is not None:
            return questions.accounts(asked)
        return {} if accounts == "ask" else answer_all("own" if accounts == "own" else "external-user", asked)

    done = []
    for number, (place, notebook) in enumerate(found, start=1):
        _progress(number, len(found), place)
        done.append(
            import_folder(
                place,
                notebook,
                catalog=lambda sidecar, base=place: _catalog(state, sidecar, base),  # type: ignore[misc]
                answers=answers,
                triggers=questions.trigger if questions is not None else None,
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


def _catalog(state: State, sidecar: Any, base: Path) -> Any:
    from pdkernel.actions import Catalog
    from pdkernel.project import find_project

    if state.has_project():
        catalog = Catalog.of(state.project(), environ=os.environ)
    else:
        catalog = Catalog.without_project(find_project(Path.cwd()), environ=os.environ)
    return catalog.at(sidecar.actions, base=(sidecar.path.parent if sidecar.path else base).resolve())


def _progress(number: int, count: int, place: Path) -> None:
    if count >= MANY and in_terminal(sys.stderr):
        sys.stderr.write(f"\r\x1b[Kimporting {number} of {count}: {place.name}")
        sys.stderr.write("\r\x1b[K" if number == count else "")
        sys.stderr.flush()


def _print(done: Sequence[Any]) -> None:
    from pdkernel.render import import_report

    for one in done:
        if one.error is not None:
            click.echo(f"Not imported: {one.folder}: {one.error}", err=True)
            continue
        said = {"new": "Imported", "unchanged": "Unchanged:", "replaced": "Imported again"}[one.state]
        click.echo(f"{said} {one.folder} as {one.notebook}")
        for kept in one.kept:
            click.echo(f"  what was there is kept as {kept}")
        if len(done) == 1:
            click.echo(import_report.text(one.report), nl=False)
        else:
            for line in _short(one.report):
                click.echo(f"  {line}")
    _say_unanswered(done)
    if len(done) > 1:
        failed = sum(one.error is not None for one in done)
        click.echo(f"{len(done) - failed} of {len(done)} workflows imported.")


def _short(report: Any) -> list[str]:
    """What of a report stands in the list of a whole repository; the notebook has all of it."""
    lines = [f"cannot run here: {item.name} {item.why}" for item in report.cannot]
    return [*lines, *(f"reference: {sentence}" for sentence in report.gone)]


def _say_unanswered(done: Sequence[Any]) -> None:
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

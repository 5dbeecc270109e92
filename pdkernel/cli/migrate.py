"""`pdkernel migrate`: the report on a move away from Pipedream, and the rescue of data and events."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click
import cloup

from pdkernel.cli.app import MIGRATE, CliContext, command, environment_option, group, json_option
from pdkernel.cli.terminal import print_json
from pdkernel.errors import ConnectSettingsError, RequestError

if TYPE_CHECKING:
    from pdkernel.connect.workflow_api import WorkflowApi
    from pdkernel.migration.sources import MigrationSource


@group(section=MIGRATE)
def migrate() -> None:
    """
    Report on a move away from Pipedream, and rescue data and events.

    Pipedream's Workflows end on March 31, 2027; their data is deleted on April 30, 2027. Connect stays.
    """


org_option = cloup.option(
    "--org-id", metavar="o_...", help="Workspace of the workflows at Pipedream, if the API asks for one."
)


@command(
    migrate,
    name="report",
    examples=(
        "pdkernel migrate report workflows/",
        "pdkernel migrate report workflows/ p_5xHmDqK p_m2CzQ8e --html report.html",
        "pdkernel migrate report workflows/ --json",
    ),
)
@cloup.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@environment_option()
@org_option
@cloup.option(
    "--html",
    "html_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Also write the report as one HTML page.",
)
@json_option
def report(
    state: CliContext,
    sources: tuple[str, ...],
    environment: str | None,
    org_id: str | None,
    html_file: Path | None,
    as_json: bool,
) -> int:
    """
    Report what a move needs, workflow by workflow.

    SOURCE is a notebook, a workflow's folder, a repository, or the id of a workflow at Pipedream (p_...), which the
    command reads over the API after `pdkernel login`. The API does not list workflows. An id of a workflow in a folder
    adds the triggers' settings. The report names what runs here as it is, what needs an answer, what Pipedream deletes
    and how to save it, and the order of the move. It reads at Pipedream and changes nothing there.
    """
    from pdkernel.actions import Catalog
    from pdkernel.identity import parse_environment
    from pdkernel.migration.report import ReportSettings, build_migration_report
    from pdkernel.migration.sources import read_sources
    from pdkernel.render.migration import render_text
    from pdkernel.render.migration_page import render_page
    from pdkernel.variables import load_variables

    found = read_sources(sources, lambda workflow_id: _open_api(state, org_id).fetch_workflow(workflow_id))
    project = state.open_project()
    catalog = Catalog.for_project(project, environ=os.environ)

    def catalog_of(source: MigrationSource) -> Catalog:
        return catalog.with_source(source.sidecar.actions if source.sidecar else None, base=_folder(source))

    built = build_migration_report(
        found,
        ReportSettings(
            directory=state.open_directory(),
            catalog=catalog_of,
            variables=lambda source: load_variables(project, _folder(source)),
            environment=parse_environment(environment),
            clock=project.clock,
        ),
    )
    if html_file is not None:
        _write(html_file, render_page(built))
    if as_json:
        print_json(built.to_json())
    else:
        click.echo(render_text(built), nl=False)
    if html_file is not None:
        state.print_note(f"Wrote {html_file}.")
    return 0


def _folder(source: MigrationSource) -> Path:
    """The folder in which files of the workflow are found; the current one for a workflow of the API."""
    if source.path is None:
        return Path.cwd()
    return (source.path if source.path.is_dir() else source.path.parent).resolve()


def _open_api(state: CliContext, org_id: str | None) -> WorkflowApi:
    from pdkernel.connect.sdk import Sdk
    from pdkernel.connect.workflow_api import WorkflowApi

    login = state.open_project().login.load(os.environ)
    if login is None:
        raise ConnectSettingsError(
            "This project is not logged in, so it cannot read workflows at Pipedream.", fix="Log in: pdkernel login"
        )
    return WorkflowApi(Sdk(login), org_id=org_id)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as fault:
        raise RequestError(f"Cannot write {path}: {fault.strerror}.", fix="Name a file in a writable folder.") from None

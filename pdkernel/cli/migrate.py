"""`pdkernel migrate`: the report on a move away from Pipedream, and the rescue of data and events."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import cloup

from pdkernel.cli.app import EXIT_STATUSES, MIGRATE, CliContext, F, command, environment_option, group, json_option
from pdkernel.cli.terminal import print_json, print_text
from pdkernel.errors import ConnectSettingsError, PdkernelError, RequestError, format_count

if TYPE_CHECKING:
    from pdkernel.accounts.sdk import WorkflowApi
    from pdkernel.annex.migration.data_dump import DumpPlan, DumpResult, SavedEvents
    from pdkernel.annex.migration.report import ReportSettings
    from pdkernel.annex.migration.sources import MigrationSource
    from pdkernel.operations.records import RecordProof


@group(section=MIGRATE)
def migrate() -> None:
    """
    Report on a move away from Pipedream, and rescue data and events.

    Pipedream's Workflows end on March 31, 2027; their data is deleted on April 30, 2027. Connect stays.
    """


sources_argument = cloup.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
org_option = cloup.option(
    "--org-id", metavar="o_...", help="Workspace of the workflows at Pipedream, if the API asks for one."
)


def stand_in_option(before: str = "") -> Callable[[F], F]:
    """Return the option `--egress stand-in=...` of a comparison with recorded runs; *before* begins its help."""
    text = (
        f"{before}A stand-in that answers outbound calls, stand-in=slack or stand-in=URL; otherwise they are refused."
    )
    return cloup.option("--egress", metavar="stand-in=...", help=text)


def html_option(text: str) -> Callable[[F], F]:
    """Return the option `--html FILE`."""
    return cloup.option("--html", "html_file", metavar="FILE", type=click.Path(path_type=Path), help=text)


def _folder_option(text: str, *, required: bool) -> Callable[[F], F]:
    """Return the option `--to FOLDER`."""
    path = click.Path(path_type=Path)
    return cloup.option("--to", "folder", metavar="FOLDER", required=required, type=path, help=text)


@command(
    migrate,
    name="report",
    examples=(
        "pdkernel migrate report workflows/",
        "pdkernel migrate report workflows/ p_5xHmDqK p_m2CzQ8e --html report.html",
        "pdkernel migrate report project_export-proj_1a2b3c.zip",
        "pdkernel migrate report workflows/ --records --html report.html",
        "pdkernel migrate report workflows/ --json",
    ),
    exit_statuses={**EXIT_STATUSES, 1: "with --records: a step differs from what it did at Pipedream"},
)
@sources_argument
@environment_option()
@org_option
@html_option(
    "Also write the report as one HTML page; with --records, also a page for each compared workflow beside it."
)
@cloup.option(
    "--records",
    "compare",
    is_flag=True,
    help="Compare the workflows with their recorded runs (`migrate collect`), offline.",
)
@stand_in_option("With --records: ")
@json_option
def report(
    state: CliContext,
    sources: tuple[str, ...],
    environment: str | None,
    org_id: str | None,
    html_file: Path | None,
    compare: bool,
    egress: str | None,
    as_json: bool,
) -> int:
    """
    Report what a move needs, workflow by workflow.

    SOURCE is a notebook, a workflow's folder, a repository, the archive of a project (project_export-....zip), or the id of a
    workflow at Pipedream (p_...), which the command reads over the API after `pdkernel login`. The API does not list workflows. An id of a workflow in a folder
    adds the triggers' settings. The report names what runs here as it is, what needs an answer, what Pipedream deletes
    and how to save it, and the order of the move. It reads at Pipedream and changes nothing there.
    """
    import msgspec

    from pdkernel.annex.migration.migration_report import render_text
    from pdkernel.annex.migration.pages import name_record_page, render_page, render_record_page
    from pdkernel.annex.migration.report import build_migration_report
    from pdkernel.annex.migration.sources import read_sources

    found = read_sources(sources, lambda workflow_id: open_api(state, org_id).fetch_workflow(workflow_id))
    built = build_migration_report(found, _build_settings(state, environment))
    if compare:
        built = msgspec.structs.replace(built, records=_compare_records(state, found, egress))
    if html_file is not None:
        write_page(html_file, render_page(built))
        for proof in built.records:
            write_page(html_file.with_name(name_record_page(proof)), render_record_page(proof, built.created_at))
    if as_json:
        print_json(built.to_json())
    else:
        click.echo(render_text(built), nl=False)
    if html_file is not None:
        state.print_note(f"Wrote {html_file}.")
    return 1 if any(proof.differs for proof in built.records) else 0


def _build_settings(state: CliContext, environment: str | None) -> ReportSettings:
    """Return what the report and the plan read besides the workflows."""
    from pdkernel.actions import Catalog
    from pdkernel.annex.migration.report import ReportSettings
    from pdkernel.common.identity import parse_environment
    from pdkernel.engine.variables import load_variables

    project = state.open_project()
    catalog = Catalog.for_project(project, environ=os.environ)

    def catalog_of(source: MigrationSource) -> Catalog:
        return catalog.with_sources(source.sidecar.actions if source.sidecar else (), base=_folder(source))

    return ReportSettings(
        directory=state.open_directory(),
        catalog=catalog_of,
        variables=lambda source: load_variables(project, _folder(source)),
        environment=parse_environment(environment),
        clock=project.clock,
    )


@command(
    migrate,
    name="plan",
    examples=(
        "pdkernel migrate plan workflows/",
        "pdkernel migrate plan workflows/ --html plan.html --csv plan.csv --calendar plan.ics",
        "pdkernel migrate plan workflows/ --first-day 2027-01-11 --last-day 2027-02-26",
    ),
)
@sources_argument
@environment_option()
@org_option
@html_option("Write the plan as one HTML page.")
@cloup.option(
    "--csv", "csv_file", metavar="FILE", type=click.Path(path_type=Path), help="Write the plan for a spreadsheet."
)
@cloup.option(
    "--calendar",
    "ics_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write the days as a calendar file (.ics).",
)
@cloup.option("--first-day", metavar="DATE", help="The first day on which a workflow may move (default: today).")
@cloup.option("--last-day", metavar="DATE", help="The last one (default: two weeks before the end of Workflows).")
@json_option
def plan(
    state: CliContext,
    sources: tuple[str, ...],
    environment: str | None,
    org_id: str | None,
    html_file: Path | None,
    csv_file: Path | None,
    ics_file: Path | None,
    first_day: str | None,
    last_day: str | None,
    as_json: bool,
) -> int:
    """
    Plan the move: which workflow, when, and who decides.

    SOURCE is as for `migrate report`. For each workflow, the plan has its state (ready, or blocked by what), who decides, the licence of
    its pre-built actions, the last day on which Pipedream's runs can be recorded, and a day to move. Workflows that others call move
    first.
    """
    from pdkernel.annex.migration.pages import render_plan_page
    from pdkernel.annex.migration.plan import build_plan, render_calendar, render_csv, render_text
    from pdkernel.annex.migration.sources import read_sources

    found = read_sources(sources, lambda workflow_id: open_api(state, org_id).fetch_workflow(workflow_id))
    settings = _build_settings(state, environment)
    built = build_plan(
        found,
        settings,
        first_day=_parse_day(first_day, "--first-day") or settings.clock.now().date(),
        last_day=_parse_day(last_day, "--last-day"),
    )
    written = ((html_file, render_plan_page), (csv_file, render_csv), (ics_file, render_calendar))
    for file, render in written:
        if file is not None:
            write_page(file, render(built))
    if as_json:
        print_json(built.to_json())
    else:
        click.echo(render_text(built), nl=False)
    for file, _ in written:
        if file is not None:
            state.print_note(f"Wrote {file}.")
    return 0


def _parse_day(text: str | None, option: str) -> date | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise RequestError(f"{option}: {text!r} is not a day.", fix="Write a day such as 2027-01-11.") from None


def _compare_records(
    state: CliContext, sources: Sequence[MigrationSource], egress: str | None
) -> tuple[RecordProof, ...]:
    """Return the workflows that have recorded runs, compared with them; a workflow that cannot run here is named."""
    from pdkernel.files.source import load_source
    from pdkernel.operations.records import compare_with_records, has_records, parse_stand_in

    parse_stand_in(egress)
    project, directory = state.open_project(), state.open_directory()
    found = []
    for source in sources:
        if source.path is None:
            continue
        try:
            loaded = load_source(source.path)
            if has_records(project, loaded):
                state.print_note(f"Comparing {source.name} with its recorded runs ...")
                found.append(
                    compare_with_records(
                        loaded, project=project, directory=directory, environ=os.environ, egress=egress
                    )
                )
        except PdkernelError as error:
            state.print_note(f"{source.name} is not compared with its recorded runs: {error}")
    return tuple(found)


def _folder(source: MigrationSource) -> Path:
    """Return the folder in which files of the workflow are found; the current one for a workflow of the API."""
    if source.path is None:
        return Path.cwd()
    return (source.path if source.path.is_dir() else source.path.parent).resolve()


def open_api(state: CliContext, org_id: str | None) -> WorkflowApi:
    """Return the REST API of workflows at Pipedream. Raises `ConnectSettingsError` without a login."""
    from pdkernel.accounts.sdk import Sdk, WorkflowApi

    login = state.open_project().login.load(os.environ)
    if login is None:
        raise ConnectSettingsError(
            "This project is not logged in, so it cannot read workflows at Pipedream.", fix="Log in: pdkernel login"
        )
    return WorkflowApi(Sdk(login), org_id=org_id)


def write_page(path: Path, text: str) -> None:
    """Write the file of an option such as `--html`. Raises `RequestError` if it cannot be written."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as fault:
        raise RequestError(f"Cannot write {path}: {fault.strerror}.", fix="Name a file in a writable folder.") from None


@command(
    migrate,
    name="data",
    examples=(
        "pdkernel migrate data ds_4kPq7a customers --to rescued",
        "pdkernel migrate data ds_4kPq7a --files --to rescued",
        "pdkernel migrate data --to rescued --from https://eoabc123.m.pipedream.net",
    ),
    exit_statuses={
        **EXIT_STATUSES,
        1: "downloaded, but a number of records or files is not the number that Pipedream counted",
    },
)
@cloup.argument("stores", nargs=-1, metavar="[STORE]...")
@cloup.option("--files", is_flag=True, help="Also the files of the project's file store.")
@_folder_option("Folder of the step and of the downloaded data.", required=True)
@cloup.option("--from", "url", metavar="URL", help="The endpoint of the workflow with the step: download its data.")
@json_option
def data(state: CliContext, stores: tuple[str, ...], files: bool, folder: Path, url: str | None, as_json: bool) -> int:
    """
    Rescue data stores and files from Pipedream.

    Without --from, the command writes a step that hands out the records of each STORE (a name or an id), and explains how to
    paste the step into a workflow at Pipedream. With --from, the command downloads the data page by page. A second call
    continues where the first call stopped. Records come without the time at which they expire, which no step can read.
    """
    from pdkernel.annex.migration.data_dump import read_plan, write_plan

    if url is None:
        if not stores and not files:
            raise RequestError("There is nothing to rescue.", fix="Name data stores, or pass --files.")
        plan = write_plan(folder, stores, files=files)
        if as_json:
            print_json({"step": str(folder / "step.mjs"), "stores": plan.props(), "files": plan.files})
        else:
            click.echo("\n".join(_explain_step(plan, folder)))
        return 0
    if stores or files:
        raise RequestError("--from downloads what the step hands out.", fix="Leave out STORE and --files.")
    return _download(state, read_plan(folder), folder, url, as_json=as_json)


def _explain_step(plan: DumpPlan, folder: Path) -> list[str]:
    choices = [f"   {prop}: choose the data store {name}" for name, prop in plan.props().items()]
    project = " in the project whose files you want" if plan.files else ""
    return [
        f"Wrote {folder / 'step.mjs'}. It contains a token: keep it out of Git.",
        "",
        f"1. At Pipedream, create a workflow{project} with the trigger HTTP / Webhook.",
        "   In the trigger, choose: Return a custom response from your workflow.",
        "2. Add a Node.js code step, paste the file as its code, and click Refresh fields.",
        *(["3. Choose the data stores:", *choices] if choices else ["3. There is nothing to choose."]),
        "4. Set the timeout of the workflow to 60 seconds, deploy the workflow, and copy the URL of its trigger.",
        f"5. Download: pdkernel migrate data --to {shlex.quote(str(folder))} --from URL",
        "6. When the numbers are equal, delete the workflow.",
    ]


def _download(state: CliContext, plan: DumpPlan, folder: Path, url: str, *, as_json: bool) -> int:
    from pdkernel.annex.migration.data_dump import DumpDownload

    download = DumpDownload(url, plan, folder, state.print_note)
    try:
        results = [download.download_store(name) for name in plan.stores]
        if plan.files:
            results.append(download.download_files())
    finally:
        download.close()
    if as_json:
        print_json(
            [{"store": each.name, "path": str(each.path), "count": each.count, "total": each.total} for each in results]
        )
    else:
        for each in results:
            click.echo("\n".join(_explain_result(each, state)))
    return 0 if all(each.count == each.total for each in results) else 1


def _explain_result(result: DumpResult, state: CliContext) -> list[str]:
    name, noun = (result.name, "record") if result.name is not None else ("file store", "file")
    equal = (
        "equal"
        if result.count == result.total
        else "not equal: it changed during the download. Remove the file, and repeat"
    )
    lines = [f"{name}: {format_count(result.count, noun)} here, {result.total:,} at Pipedream: {equal}."]
    if result.was_complete:
        lines[0] += " It was complete before this call."
    if result.name is not None:
        lines.append(f"  Import: pdkernel store import {shlex.quote(result.name)} {shlex.quote(str(result.path))}")
    else:
        target = state.open_project().folder / "files"
        lines.append(
            f"  Import: mkdir -p {shlex.quote(str(target))} && cp -r {shlex.quote(str(result.path))}/. {shlex.quote(str(target))}"
        )
    return lines


@command(
    migrate,
    name="events",
    examples=(
        "pdkernel migrate events workflows/",
        "pdkernel migrate events p_5xHmDqK --to notebooks",
        "pdkernel migrate events workflows/greet-p_5xHmDqK --json",
    ),
)
@sources_argument
@_folder_option("Save in FOLDER/events instead of beside the workflow; required for an id.", required=False)
@org_option
@json_option
def events(state: CliContext, sources: tuple[str, ...], folder: Path | None, org_id: str | None, as_json: bool) -> int:
    """
    Save the events that Pipedream still has.

    SOURCE is as for `migrate report`. The API keeps the newest 100 events of each source, of the failed runs of each
    workflow, and of those that a workflow emitted; it has no list of requests to endpoints that did not fail. Each
    event becomes events/NAME.json, with masked headers. A second call adds only new events.
    """
    from pdkernel.annex.migration.data_dump import fetch_events, find_source_ids, save_events
    from pdkernel.annex.migration.sources import read_sources
    from pdkernel.operations.events import EventLibrary

    api = open_api(state, org_id)
    rows = []
    for source in read_sources(sources, api.fetch_workflow):
        if source.error is not None and source.path is None:
            raise source.error
        target = folder or (_folder(source) if source.path is not None else None)
        if source.id is None or target is None:
            raise _cannot_save(source)
        found = list(fetch_events(api, source.id, find_source_ids(source.workflow)))
        saved = save_events(found, EventLibrary(target))
        rows.append((source, saved))
        if not as_json:
            print_text("\n".join(_explain_events(source, saved)))
    if as_json:
        print_json([_encode_events(source, saved) for source, saved in rows])
    return 0


def _cannot_save(source: MigrationSource) -> RequestError:
    if source.id is None:
        return RequestError(
            f"{source.source} does not have Pipedream's id of the workflow.",
            fix="Pass the id and the folder: pdkernel migrate events p_... --to FOLDER",
        )
    return RequestError(f"There is no folder for the events of {source.id}.", fix="Pass --to FOLDER.")


def _explain_events(source: MigrationSource, saved: SavedEvents) -> list[str]:
    title = f"{source.name} ({source.id})"
    parts = [f"{len(saved.known)} were saved before"] if saved.known else []
    parts += [f"{len(saved.skipped)} are not objects and were skipped"] if saved.skipped else []
    rest = f" {' and '.join(parts)}." if parts else ""
    if not saved.added:
        return [f"{title}: nothing new.{rest}"]
    lines = [f"{title}: saved {format_count(len(saved.added), 'event')}.{rest}"]
    return lines + [f"  {each.name}{f'  {each.error}' if each.error else ''}" for each in saved.added]


def _encode_events(source: MigrationSource, saved: SavedEvents) -> dict[str, Any]:
    return {
        "id": source.id,
        "name": source.name,
        "added": [each.name for each in saved.added],
        "known": [each.name for each in saved.known],
        "skipped": [each.name for each in saved.skipped],
    }

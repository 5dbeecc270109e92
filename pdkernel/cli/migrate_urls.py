"""`pdkernel migrate urls`: the URLs at which workflows call each other, rewritten to those of the served project."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cloup

from pdkernel.cli.app import EXIT_STATUSES, CliContext, command, json_option
from pdkernel.cli.migrate import migrate, open_api, org_option
from pdkernel.cli.terminal import print_json, print_text
from pdkernel.errors import RequestError, format_count

if TYPE_CHECKING:
    from pdkernel.annex.migration.sources import MigrationSource
    from pdkernel.annex.migration.url_rewrite import UrlPlace, UrlPlan

_HIDDEN = "(the value is not shown)"


@command(
    migrate,
    name="urls",
    examples=(
        "pdkernel migrate urls workflows/ p_5xHmDqK p_m2CzQ8e --public-url https://flows.example.com",
        "pdkernel migrate urls workflows/ project_export-proj_1a2b3c.zip --apply",
        "pdkernel migrate urls workflows/ --endpoint https://eoabc123.m.pipedream.net=Orders",
        "pdkernel migrate urls --undo",
    ),
    exit_statuses={**EXIT_STATUSES, 1: "URLs at Pipedream are left, which the command cannot rewrite"},
)
@cloup.argument("sources", nargs=-1, metavar="[SOURCE]...")
@cloup.option(
    "--public-url",
    metavar="URL",
    help="The base of the new URLs; default: the one with which `pdkernel serve` last served the project.",
)
@cloup.option(
    "--endpoint",
    "named",
    multiple=True,
    metavar="URL=WORKFLOW",
    help="Whose URL it is: the name, id or path of a workflow. May be repeated.",
)
@org_option
@cloup.option("--apply", "is_applied", is_flag=True, help="Write the new URLs; otherwise they are only listed.")
@cloup.option("--undo", is_flag=True, help="Take the last --apply back, unless something was changed since.")
@json_option
def urls(
    state: CliContext,
    sources: tuple[str, ...],
    public_url: str | None,
    named: tuple[str, ...],
    org_id: str | None,
    is_applied: bool,
    undo: bool,
    as_json: bool,
) -> int:
    """
    Rewrite the URLs at which your workflows call each other.

    SOURCE is as for `migrate report`. Folders and notebooks are rewritten, with the variables and the data stores of the project; ids and
    archives tell whose an old URL is. Without --apply, nothing is written. With it, all is written or nothing: in files that workflows of
    SOURCE read, and nowhere else. Apply it to the copy that you serve, not to the clone from which Pipedream deploys. A URL that belongs to
    no known workflow stays, and so does one that code builds at run time: both are listed.
    """
    if undo:
        if sources or is_applied:
            raise RequestError("--undo takes the last rewrite back.", fix="Leave out SOURCE and --apply.")
        return _undo(state, as_json=as_json)
    if not sources:
        raise RequestError("SOURCE is missing.", fix="Name the folder of the workflows that you serve.")
    from pdkernel.annex.migration.endpoint_urls import build_endpoint_map
    from pdkernel.annex.migration.url_rewrite import apply_rewrite, plan_rewrite

    project, base = state.open_project(), _choose_base(state, public_url)
    found = _read(state, sources, org_id)
    endpoints = build_endpoint_map(found, project, base, [_split_named(each) for each in named])
    plan = plan_rewrite(found, endpoints, project)
    if is_applied:
        apply_rewrite(plan, project)
    if as_json:
        print_json(
            {
                "base_url": base,
                "written": is_applied and bool(plan.changes),
                "urls": [each.to_json() for each in plan.places],
                "notes": list(plan.notes),
            }
        )
    else:
        print_text("\n".join(_explain(plan, is_applied=is_applied)))
    return 1 if any(each.state != "rewrite" for each in plan.places) else 0


def _choose_base(state: CliContext, public_url: str | None) -> str:
    from pdkernel.annex.migration.endpoint_urls import check_base_url
    from pdkernel.server.host_names import PUBLIC_URL_SETTING, parse_public_url

    served = state.open_project().settings.get(PUBLIC_URL_SETTING)
    chosen = public_url or (served if isinstance(served, str) else None)
    if chosen is None:
        raise RequestError(
            "The base of the new URLs is not known, because the project was not served with --public-url.",
            fix="Pass it: --public-url https://HOST",
        )
    return check_base_url(parse_public_url(chosen))


def _read(state: CliContext, sources: Sequence[str], org_id: str | None) -> list[MigrationSource]:
    """Return the workflows of each SOURCE by itself, because a folder does not take the URLs of its id over; each path once."""
    from pdkernel.annex.migration.sources import read_sources

    found: dict[str, MigrationSource] = {}
    for given in sources:
        for each in read_sources([given], lambda workflow_id: open_api(state, org_id).fetch_workflow(workflow_id)):
            found.setdefault(str(each.path.resolve()) if each.path is not None else each.source, each)
    return list(found.values())


def _split_named(text: str) -> tuple[str, str]:
    url, separator, workflow = text.partition("=")
    if not separator or not workflow:
        raise RequestError("--endpoint needs a URL and a workflow.", fix="Write --endpoint URL=WORKFLOW")
    return url, workflow


def _explain(plan: UrlPlan, *, is_applied: bool) -> list[str]:
    due = [each for each in plan.places if each.state == "rewrite"]
    left = [each for each in plan.places if each.state != "rewrite"]
    count, texts = format_count(len(due), "URL"), format_count(len(plan.changes), "place")
    lines = [
        f"{'Rewrote' if is_applied else 'Would rewrite'} {count} in {texts}{':' if due else '.'}",
        *_table(due),
    ]
    if left:
        lines += [
            "",
            f"{format_count(len(left), 'URL')} left as they are:" if len(left) > 1 else "1 URL left as it is:",
        ]
        lines += _table(left)
    for note in plan.notes:
        lines += ["", note]
    if any(each.state == "unknown" for each in left):
        lines += [
            "",
            "Whose a URL is, an id (p_...) or the archive of the project as SOURCE tells, or you: --endpoint URL=WORKFLOW",
        ]
    if due:
        lines += ["", "Take it back: pdkernel migrate urls --undo" if is_applied else "Write it: add --apply"]
    return lines


def _table(places: Sequence[UrlPlace]) -> list[str]:
    """Return a line for each place: where it is, its step, the URL, its workflow, and the new URL or why it stays."""
    rows = [
        (
            _locate(each),
            each.step or "-",
            each.old or _HIDDEN,
            each.workflow or "-",
            each.reason if each.state != "rewrite" else each.new or _HIDDEN,
        )
        for each in places
    ]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(4)]
    return ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, (*widths, 0), strict=True)) for row in rows]


def _locate(place: UrlPlace) -> str:
    match place.kind:
        case "file":
            path = Path(place.name)
            shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
            return f"{shown}:{place.line}"
        case "variable":
            return f"variable {place.name}"
        case "record":
            return f"data store {place.name}"


def _undo(state: CliContext, *, as_json: bool) -> int:
    from pdkernel.annex.migration.url_rewrite import undo_rewrite

    undone = undo_rewrite(state.open_project())
    if as_json:
        print_json({"at": undone.at, "undone": [{"kind": each.kind, "name": each.label} for each in undone.changes]})
    else:
        count = format_count(len(undone.changes), "place")
        print_text(f"Took the rewrite of {undone.at} back in {count}.")
    return 0

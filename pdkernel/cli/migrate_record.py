"""`pdkernel migrate record`, `receive` and `collect`: what Pipedream does with a workflow, brought home as a proof for the move."""

from __future__ import annotations

import json
import shlex
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click
import cloup

from pdkernel.cli.app import EXIT_STATUSES, CliContext, command, json_option, parse_size
from pdkernel.cli.migrate import migrate
from pdkernel.cli.terminal import print_json, print_text
from pdkernel.errors import RequestError, format_count

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable

    from starlette.applications import Starlette

    from pdkernel.annex.migration.collection import Collection
    from pdkernel.annex.migration.record_steps import RecordedFolder, RecordSettings

_STORE = "store"


@command(
    migrate,
    name="record",
    examples=(
        "pdkernel migrate record project --to https://records.example.com/records --first 20",
        "pdkernel migrate record project --to ds_4kPq7a --every 10 --redact event.body.email",
        "pdkernel migrate record project --remove",
        "pdkernel migrate record --print p_5xHmDqK --branch-end urgent --to https://records.example.com/records",
    ),
    exit_statuses={**EXIT_STATUSES, 1: "a workflow was left as it is"},
)
@cloup.argument("folder", metavar="FOLDER|p_...", required=False)
@cloup.option(
    "--to",
    "sink",
    metavar="URL|ds_...|store",
    help="Where records go: a receiver (`migrate receive`), or a data store at Pipedream. `store` lets you choose it in the builder.",
)
@cloup.option("--every", type=click.IntRange(1), default=1, metavar="N", help="Record one run of N (default 1).")
@cloup.option("--first", type=click.IntRange(1), metavar="N", help="Record at most N runs of a workflow a day.")
@cloup.option(
    "--max-size",
    type=click.IntRange(1, 5000),
    default=256,
    metavar="KB",
    help="Largest exports of a run (default 256).",
)
@cloup.option("--until", metavar="DATE", help="The day from which the steps do nothing (default 2027-03-31).")
@cloup.option(
    "--redact", multiple=True, metavar="PATH", help="Also hide this value: event.body.email. May be repeated."
)
@cloup.option("--remove", is_flag=True, help="Take the steps out again, byte for byte.")
@cloup.option("--print", "as_text", is_flag=True, help="Print the steps to paste into the builder; writes nothing.")
@cloup.option(
    "--branch-end", "branches", multiple=True, metavar="NAME", help="With --print: also a step for the end of a branch."
)
@cloup.option(
    "--branch", metavar="NAME", help="Name of the Git branch (default pdkernel-record, pdkernel-record-remove)."
)
@cloup.option("--no-branch", is_flag=True, help="Write the files without a Git branch and a commit.")
@cloup.option("--dry-run", is_flag=True, help="Only print what recording costs, and what would be written.")
@json_option
def record(
    state: CliContext,
    folder: str | None,
    sink: str | None,
    every: int,
    first: int | None,
    max_size: int,
    until: str | None,
    redact: tuple[str, ...],
    remove: bool,
    as_text: bool,
    branches: tuple[str, ...],
    branch: str | None,
    no_branch: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """
    Record what Pipedream does with the workflows of FOLDER.

    FOLDER is a clone of the repository that Pipedream syncs. The command adds a step at the start and one at the end of each workflow,
    on a new Git branch to review and merge. The steps send the event and the exports of each recorded run, without secrets; they
    cannot fail a run, and give up after two seconds. Workflows with control flow are not in Git: --print prints the steps to paste.
    """
    from pdkernel.annex.migration.record_steps import find_folders

    if remove:
        return _remove(_require_folder(folder), branch, no_branch=no_branch, as_json=as_json)
    settings = _build_settings(state, sink, every, first, max_size, until, redact)
    if as_text:
        return _print_steps(folder, settings, branches, as_json=as_json)
    root = _require_folder(folder)
    folders = find_folders(root)
    return _add(state, root, folders, settings, branch, no_branch=no_branch, dry_run=dry_run, as_json=as_json)


def _require_folder(folder: str | None) -> Path:
    if folder is None:
        raise RequestError("The folder is missing.", fix="Name a clone of the repository that Pipedream syncs.")
    return Path(folder)


def _build_settings(
    state: CliContext,
    sink: str | None,
    every: int,
    first: int | None,
    max_size: int,
    until: str | None,
    redact: tuple[str, ...],
) -> RecordSettings:
    from pdkernel.annex.migration.collection import get_write_token
    from pdkernel.annex.migration.record_steps import LAST_DAY, RecordSettings, parse_path

    if sink is None:
        raise RequestError(
            "--to is missing: where the records go.",
            fix="Pass the URL of a receiver (pdkernel migrate receive), or a data store: --to ds_...",
        )
    for path in redact:
        parse_path(path)
    day = until or LAST_DAY
    try:
        last = date.fromisoformat(day)
    except ValueError:
        raise RequestError(f"{until!r} is not a day.", fix="Write a day such as 2027-03-31.") from None
    if last <= state.open_project().clock.now().date():
        raise RequestError(
            f"The steps would record nothing, because {day} is not after today.", fix="Pass a later day: --until DATE"
        )
    common: dict[str, Any] = {
        "every": every,
        "first_a_day": first,
        "max_characters": max_size * 1024,
        "until": day,
        "redacted_paths": redact,
    }
    if sink == _STORE or sink.startswith("ds_"):
        return RecordSettings(store=None if sink == _STORE else sink, **common)
    if not sink.startswith(("https://", "http://")):
        raise RequestError(f"{sink!r} is not a URL or a data store.", fix="Pass https://HOST/records, ds_... or store.")
    if sink.startswith("http://") and urlsplit(sink).hostname not in ("127.0.0.1", "localhost", "::1"):
        raise RequestError(
            f"{sink} is not encrypted, and records contain the data of your events.",
            fix="Pass an address with https://.",
        )
    return RecordSettings(url=sink, token=get_write_token(state.open_project()), **common)


def _add(
    state: CliContext,
    root: Path,
    folders: tuple[Path, ...],
    settings: RecordSettings,
    branch: str | None,
    *,
    no_branch: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    from pdkernel.annex.migration.record_steps import ADD_BRANCH, add_steps, estimate, open_branch, plan_steps

    results = [plan_steps(each, settings)[0] for each in folders]
    count = sum(each.refusal is None for each in results)
    found = estimate(settings, workflows=count, today=state.open_project().clock.now().date())
    if not as_json:
        print_text("\n".join(found.explain()))
    opened = None
    if not dry_run and count:
        opened = None if no_branch else open_branch(root, branch or ADD_BRANCH)
        results = [add_steps(each, settings) for each in folders]
        changed = [path for each in results for path in each.changed]
        if opened is not None and changed:
            opened.commit(changed, "Record what the workflows do, for a comparison")
        elif opened is not None:
            opened.abandon()
            opened = None
    if as_json:
        print_json(
            {
                "estimate": {name: getattr(found, name) for name in found.__dataclass_fields__},
                "branch": opened.name if opened else None,
                "written": not dry_run and count > 0,
                "workflows": [_encode(each) for each in results],
            }
        )
    else:
        word = "Would write" if dry_run else "Wrote"
        print_text("\n".join(["", *(line for each in results for line in _explain(each, word))]))
        if opened is not None:
            print_text("\n".join(["", *opened.explain_merge()]))
    return 1 if any(each.refusal for each in results) else 0


def _remove(root: Path, branch: str | None, *, no_branch: bool, as_json: bool) -> int:
    from pdkernel.annex.migration.record_steps import REMOVE_BRANCH, find_folders, open_branch, remove_steps

    folders = find_folders(root)
    opened = None if no_branch else open_branch(root, branch or REMOVE_BRANCH)
    results = [remove_steps(each) for each in folders]
    changed = [path for each in results for path in each.changed]
    if opened is not None and changed:
        opened.commit(changed, "Take the recording steps out")
    elif opened is not None:
        opened.abandon()
        opened = None
    if as_json:
        print_json({"branch": opened.name if opened else None, "workflows": [_encode(each) for each in results]})
    else:
        print_text("\n".join(line for each in results for line in _explain(each, "Removed")))
        if opened is not None:
            print_text("\n".join(["", *opened.explain_merge()]))
    return 1 if any(each.refusal for each in results) else 0


def _explain(result: RecordedFolder, word: str) -> list[str]:
    if result.refusal is not None:
        return [f"{result.folder}: left as it is. {result.refusal}"]
    count = format_count(len(result.changed), "file")
    lines = [f"{result.name} ({result.folder}): {f'{word} {count}' if result.changed else 'nothing to change'}."]
    return lines + [f"  Note: {note}" for note in result.notes]


def _encode(result: RecordedFolder) -> dict[str, Any]:
    return {
        "folder": str(result.folder),
        "name": result.name,
        "id": result.workflow_id,
        "changed": [str(path) for path in result.changed],
        "notes": list(result.notes),
        "refusal": result.refusal,
    }


def _print_steps(workflow: str | None, settings: RecordSettings, branches: tuple[str, ...], *, as_json: bool) -> int:
    from pdkernel.annex.migration.record_steps import iter_pasted_steps

    if workflow is not None and not workflow.startswith("p_"):
        raise RequestError(
            f"{workflow!r} is not the id of a workflow.",
            fix="Pass the id at the end of the workflow's URL (p_...), or none.",
        )
    steps = list(iter_pasted_steps(settings, workflow_id=workflow, branches=branches))
    if as_json:
        print_json([{"step": name, "place": place, "code": code} for name, place, code in steps])
        return 0
    for number, (name, place, code) in enumerate(steps, start=1):
        print_text(f"// ── {number}. {name}\n// {place}\n\n{code}")
    if settings.url is None:
        print_text("// In each step, choose the same data store as Store of the records.")
    command_line = "pdkernel migrate collect FOLDER"
    print_text(f"// Deploy the workflow. Later: {shlex.join(command_line.split())}")
    return 0


@command(
    migrate,
    name="receive",
    examples=("pdkernel migrate receive", "pdkernel migrate receive --port 8790 --max-size 10G"),
)
@cloup.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8790,
    metavar="N",
    help="Port on this machine (default 8790; 0 takes any).",
)
@cloup.option(
    "--max-size",
    callback=parse_size,
    default="2G",
    metavar="SIZE",
    help="Disk space for records (default 2G). Beyond it, records are refused.",
)
@json_option
def receive(state: CliContext, port: int, max_size: int, as_json: bool) -> int:
    """
    Receive the records that recording steps send, until Ctrl-C.

    The receiver listens on this machine only: let your reverse proxy pass https://HOST/records on to it. It stores records encrypted
    in the project, and accepts them only with the token that `migrate record` of this project writes into the steps. A record that is
    refused because of --max-size or a full disk does not fail the run at Pipedream; the step counts it as lost.
    """
    import asyncio

    from pdkernel.annex.migration.collection import RECORDS_PATH, build_receiver
    from pdkernel.server.uvicorn_server import listen, local_url

    def report(why: str) -> None:
        print_text(f"Records are refused. {why}", err=True)

    app = build_receiver(state.open_project(), max_bytes=max_size, report=report)
    listener = listen("127.0.0.1", port)
    url = f"{local_url(listener, '127.0.0.1', tls=False)}{RECORDS_PATH}"
    if as_json:
        click.echo(json.dumps({"url": url}))
    else:
        print_text(f"Receiving records at {url} (Ctrl-C stops)")
    asyncio.run(_serve(app, listener))
    return 0


async def _serve(app: Starlette, listener: socket.socket) -> None:
    import uvicorn

    config = uvicorn.Config(app, log_level="error", access_log=False, lifespan="off")
    await uvicorn.Server(config).serve(sockets=[listener])


@command(
    migrate,
    name="collect",
    examples=(
        "pdkernel migrate collect",
        "pdkernel migrate collect --from https://records.example.com/records",
        "pdkernel migrate collect --from rescued/stores/ds_4kPq7a.jsonl",
        "pdkernel migrate collect --not-comparable p_5xHmDqK send.$return_value.ts 'made by Slack'",
    ),
)
@cloup.option(
    "--from",
    "origin",
    metavar="URL|FILE",
    help="A receiver elsewhere, or a data store that `migrate data` downloaded; default: the receiver of this project.",
)
@cloup.option(
    "--not-comparable",
    "rules",
    multiple=True,
    nargs=3,
    metavar="p_... STEP.PATH REASON",
    help="Declare a value not comparable. May be repeated.",
)
@json_option
def collect(state: CliContext, origin: str | None, rules: tuple[tuple[str, str, str], ...], as_json: bool) -> int:
    """
    Bring the records of recording steps home.

    Each recorded run becomes an event and an expected result, encrypted in the project. `export --prove`, `migrate report --records`
    and the fixture `pd_records` compare the workflows here with them. A run that a step or an error ended early has no end.
    """
    from pdkernel.annex.migration.collection import collect as collect_entries
    from pdkernel.annex.migration.collection import fetch_entries, get_read_token, read_dump
    from pdkernel.annex.proof.recorded_runs import open_records

    project = state.open_project()
    archive = open_records(project)
    if origin is None:
        entries: Iterable[object] = archive.iter_entries()
    elif origin.startswith(("http://", "https://")):
        entries = fetch_entries(origin, get_read_token(project))
    else:
        entries = read_dump(Path(origin))
    found = collect_entries(entries, archive)
    for workflow_id, place, reason in rules:
        archive.add_rule(workflow_id, place, reason)
    if as_json:
        print_json(
            {
                "workflows": {
                    name: {"runs": len(runs), "ended": sum(run.status == "recorded" for run in runs)}
                    for name, runs in found.runs.items()
                },
                "orphans": found.orphans,
                "lost": found.lost,
                "skipped": found.skipped,
            }
        )
    else:
        print_text("\n".join(_explain_collection(found)))
    return 0


def _explain_collection(found: Collection) -> list[str]:
    if not found.runs:
        return ["There are no records yet. Merge the branch of `pdkernel migrate record`, and wait for runs."]
    lines = []
    for name, runs in found.runs.items():
        ended = sum(run.status == "recorded" for run in runs)
        rest = f", {len(runs) - ended} not recorded to the end" if ended < len(runs) else ""
        lines.append(f"{name}: {format_count(len(runs), 'run')}{rest}.")
    if found.orphans:
        lines.append(f"{format_count(found.orphans, 'end')} without a start: skipped.")
    if found.lost:
        lines.append(f"{format_count(found.lost, 'record')} could not be stored by the steps.")
    if found.skipped:
        lines.append(
            f"{found.skipped:,} {'entry' if found.skipped == 1 else 'entries'} not from a recording step: skipped."
        )
    return lines

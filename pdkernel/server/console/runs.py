"""The pages of runs: the list with filters, and one run with its timeline; both are live while they are open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import get_args
from urllib.parse import urlencode

from markupsafe import Markup
from starlette.responses import Response, StreamingResponse

from pdkernel.common.blocking import run_blocking
from pdkernel.common.encode import encode_json
from pdkernel.common.identity import ENVIRONMENTS
from pdkernel.errors import RequestError
from pdkernel.execution import UNFINISHED_STATUSES, Execution, Status
from pdkernel.journal import (
    MAX_NOTE_CHARACTERS,
    ClaimedRun,
    ExecutionQuery,
    JournalReader,
    RunSummary,
    WaitRow,
)
from pdkernel.operations.run_history import find_run_readers, parse_moment
from pdkernel.render import timeline
from pdkernel.render.event import render_event
from pdkernel.render.timeline.view_model import format_identity
from pdkernel.server.app_context import AppContext
from pdkernel.server.console import pages
from pdkernel.server.console.access import Visit, for_visitors
from pdkernel.server.console.live import Changes, LiveEvent, journal_reader, stream_response

PAGE_SIZE = 50
STATUSES: tuple[str, ...] = get_args(Status)
_FILTERS = ("workflow", "external_user", "environment", "status", "since", "batch")
NOTICES = {
    "approved": "The run was approved, and goes on.",
    "rejected": "The run was rejected. It goes on, because a later step reads the answer.",
    "stopped": "The run was rejected and cancelled. No further step starts.",
    "resumed": "The run goes on.",
    "cancelled": "The run was cancelled.",
    "replayed": "This is the new run on the same event.",
    "forked": "This is the new run. It has the exports of the steps above.",
}
"""What a page reports after an action, by the `done` of its URL."""


@for_visitors("page")
async def runs_page(visit: Visit) -> Response:
    """GET `/-/runs`: runs that match the filters, newest first; `before` continues the list after a run."""
    filters = _filters(visit)
    try:
        query = await run_blocking(_query, visit, filters)
    except RequestError as fault:
        if visit.wants_json:
            return visit.problem(400, str(fault))
        return _list_page(visit, filters, [], status=400, problem=str(fault))
    if visit.wants_json:
        return await _list_json(visit, filters, query)
    async with journal_reader(visit.state.context) as reader:
        found = await reader.summaries(replace(query, limit=PAGE_SIZE + 1))
    return _list_page(visit, filters, found)


@for_visitors("stream")
async def runs_stream(visit: Visit) -> Response:
    """GET `/-/events/runs`: an event for each new or changed run of the list."""
    try:
        query = await run_blocking(_query, visit, _filters(visit))
    except RequestError as fault:
        return visit.problem(400, str(fault))
    return stream_response(visit, _row_changes(visit, query))


@for_visitors("page")
async def run_page(visit: Visit) -> Response:
    """GET `/-/runs/{run_id}`: the run as a notebook shows it, and its actions."""
    return await show_run(visit, visit.request.path_params["run_id"])


@for_visitors("stream")
async def run_stream(visit: Visit) -> Response:
    """GET `/-/events/runs/{run_id}`: an event for each change of the run, until it has ended."""
    run_id = visit.request.path_params["run_id"]
    if await visit.state.context.engine.journal.load_run(run_id) is None:
        return visit.problem(404, _UNKNOWN)
    return stream_response(visit, _run_changes(visit, run_id))


async def show_run(visit: Visit, run_id: str, *, status: int = 200, problem: str = "") -> Response:
    """The page of a run, or its JSON; with the *problem* of an action that was not done."""
    loaded = await visit.state.context.engine.journal.load_run(run_id)
    if loaded is None:
        return visit.problem(404, _UNKNOWN)
    execution, claimed = loaded
    if visit.wants_json:
        if problem:
            return visit.problem(status, problem)
        return pages.json_response(execution)
    values = await run_blocking(_describe_run, visit.state.context, execution, claimed)
    return visit.page(
        "run",
        status=status,
        execution=execution,
        problem=problem,
        notice=NOTICES.get(visit.request.query_params.get("done", ""), ""),
        **values,
    )


def format_pause(wait: WaitRow) -> str:
    """The text by which a form names the pause that its page shows."""
    return f"{wait.path} {wait.iteration} {wait.number}"


_UNKNOWN = "There is no such run."


def _filters(visit: Visit) -> dict[str, str]:
    given = visit.request.query_params
    return {name: given[name].strip() for name in _FILTERS if given.get(name, "").strip()}


def _query(visit: Visit, filters: Mapping[str, str]) -> ExecutionQuery:
    """
    The query of a list.

    Raises:
        RequestError: A filter has an invalid value.
    """
    status, environment, since = (filters.get(name) for name in ("status", "environment", "since"))
    if environment is not None and environment not in ENVIRONMENTS:
        raise RequestError(f"{environment!r} is not an environment.", fix="Use development or production.")
    if status is not None and status not in STATUSES:
        raise RequestError(f"{status!r} is not a status.", fix=f"Use one of: {', '.join(STATUSES)}.")
    return ExecutionQuery(
        workflow=filters.get("workflow"),
        external_user=filters.get("external_user"),
        environment=environment,
        status=next((each for each in get_args(Status) if each == status), None),
        since=None if since is None else parse_moment(since, option="Since", clock=visit.state.context.clock),
        limit=PAGE_SIZE,
        before_id=visit.request.query_params.get("before"),
        batch=filters.get("batch"),
    )


def _list_page(
    visit: Visit, filters: Mapping[str, str], found: Sequence[RunSummary], *, status: int = 200, problem: str = ""
) -> Response:
    runs, is_first = found[:PAGE_SIZE], "before" not in visit.request.query_params
    served = visit.state.context.workflows.list_workflows()
    return visit.page(
        "runs",
        status=status,
        problem=problem,
        runs=runs,
        filters=filters,
        statuses=STATUSES,
        environments=ENVIRONMENTS,
        workflow_names=sorted({each.source.workflow.name for each in served}),
        is_first=is_first,
        stream=None if problem or not is_first else f"/-/events/runs?{urlencode(filters)}",
        older=f"/-/runs?{urlencode({**filters, 'before': runs[-1].id})}" if len(found) > PAGE_SIZE else None,
    )


async def _list_json(visit: Visit, filters: Mapping[str, str], query: ExecutionQuery) -> Response:
    async with journal_reader(visit.state.context) as reader:
        found = await reader.executions(replace(query, limit=PAGE_SIZE + 1))
    runs, headers = found[:PAGE_SIZE], {}
    if len(found) > PAGE_SIZE:
        older = urlencode({**filters, "before": runs[-1].id})
        headers["link"] = f'<{visit.state.context.settings.base_url}/-/runs?{older}>; rel="next"'
    return StreamingResponse(_encode_list(runs), media_type="application/json", headers={**pages.HEADERS, **headers})


async def _encode_list(runs: Sequence[Execution]) -> AsyncIterator[bytes]:
    """JSON of *runs*, one at a time: a run has up to 6 MB."""
    for number, execution in enumerate(runs):
        yield (b"," if number else b"[") + encode_json(execution)
        await asyncio.sleep(0)
    yield b"]" if runs else b"[]"


def _row_changes(visit: Visit, query: ExecutionQuery) -> Changes:
    """Returns the rows of the list that are new or have changed since the last call."""
    shown: dict[str, RunSummary] = {}

    async def read(reader: JournalReader) -> Sequence[LiveEvent]:
        nonlocal shown
        found = {run.id: run for run in reversed(await reader.summaries(query))}
        # a run that has changed may not match the filters any more
        left = [run for run in shown.values() if run.id not in found and run.status in UNFINISHED_STATUSES]
        found |= {run.id: run for run in await reader.summaries_of([run.id for run in left])}
        changed = [run for run in found.values() if shown.get(run.id) != run]
        shown = found
        return [
            LiveEvent("row", {"id": run.id, "html": pages.render_part(visit.request, "run_row", run=run)})
            for run in changed
        ]

    return read


def _run_changes(visit: Visit, run_id: str) -> Changes:
    """Returns the content of the run's page if it has changed since the last call; after the end of the run, also `end`."""
    shown: dict[str, str] = {}

    async def read(reader: JournalReader) -> Sequence[LiveEvent]:
        nonlocal shown
        loaded = await reader.load(run_id)
        if loaded is None:
            return [LiveEvent("end", {})]
        execution, claimed = loaded
        values = await run_blocking(_describe_run, visit.state.context, execution, claimed)
        actions = ""
        if visit.session is not None:  # a program has no forms
            actions = pages.render_part(
                visit.request, "run_actions", session=visit.session, execution=execution, **values
            )
        content = {
            "event": str(values["event"]),
            "timeline": str(values["timeline"]),
            "actions": actions,
            "status": execution.status,
        }
        changed = [LiveEvent("run", content)] if content != shown else []
        shown = content
        return changed if execution.status in UNFINISHED_STATUSES else [*changed, LiveEvent("end", {})]

    return read


def _describe_run(context: AppContext, execution: Execution, claimed: ClaimedRun) -> dict[str, object]:
    """Values for the templates of a run's page."""
    workflow = next(
        (
            served.source.workflow
            for served in context.workflows.list_workflows()
            if served.source.workflow.name == execution.workflow
        ),
        None,
    )
    wait = claimed.open_wait if execution.pause is not None else None
    return {
        "identity": format_identity(execution).capitalize(),
        "event": Markup(render_event(execution.trigger)),  # noqa: S704 - escaped by `render`
        "timeline": Markup(timeline.render_html(execution, timeline.TimelineContext(workflow=workflow))),  # noqa: S704 - escaped by `render`
        "pause": None if wait is None else format_pause(wait),
        "readers": find_run_readers(claimed),
        "max_note": MAX_NOTE_CHARACTERS,
        "is_unfinished": execution.status in UNFINISHED_STATUSES,
    }

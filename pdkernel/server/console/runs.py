"""
The pages of runs: the list with filters, one run with its timeline and its actions, and batches of runs.

The list and the page of a run are live while they are open. Each action is a form that works without the script, and leads back to
a page. A batch is a tick of a schedule with `for_each: external_user`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import get_args
from urllib.parse import urlencode

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from pdkernel.common.blocking import run_blocking
from pdkernel.common.encode import encode_json
from pdkernel.common.identity import ENVIRONMENTS
from pdkernel.errors import PdkernelError, ProjectError, RequestError
from pdkernel.execution import UNFINISHED_STATUSES, Execution, Status
from pdkernel.journal import (
    MAX_NOTE_CHARACTERS,
    ClaimedRun,
    ExecutionQuery,
    JournalReader,
    NewDecision,
    RunSummary,
    WaitKey,
    WaitRow,
    build_pause,
)
from pdkernel.operations import run_history
from pdkernel.operations.batches import list_summaries, load_summary, request_retry
from pdkernel.operations.run_history import find_run_readers, parse_moment
from pdkernel.operations.run_replay import Replay, prepare_fork, prepare_replay, start_replay
from pdkernel.render import timeline
from pdkernel.render.batches import describe_missing, render_line
from pdkernel.render.json_views import render_event
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
    """Answer GET `/-/runs`: runs that match the filters, newest first; `before` continues the list after a run."""
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
    """Answer GET `/-/events/runs`: an event for each new or changed run of the list."""
    try:
        query = await run_blocking(_query, visit, _filters(visit))
    except RequestError as fault:
        return visit.problem(400, str(fault))
    return stream_response(visit, _row_changes(visit, query))


@for_visitors("page")
async def run_page(visit: Visit) -> Response:
    """Answer GET `/-/runs/{run_id}`: the run as a notebook shows it, and its actions."""
    return await show_run(visit, visit.request.path_params["run_id"])


@for_visitors("stream")
async def run_stream(visit: Visit) -> Response:
    """Answer GET `/-/events/runs/{run_id}`: an event for each change of the run, until it has ended."""
    run_id = visit.request.path_params["run_id"]
    if await visit.state.context.engine.journal.load_run(run_id) is None:
        return visit.problem(404, _UNKNOWN)
    return stream_response(visit, _run_changes(visit, run_id))


async def show_run(visit: Visit, run_id: str, *, status: int = 200, problem: str = "") -> Response:
    """Return the page of a run, or its JSON; with the *problem* of an action that was not done."""
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
    """Return the text by which a form names the pause that its page shows."""
    return f"{wait.path} {wait.iteration} {wait.number}"


_UNKNOWN = "There is no such run."


def _filters(visit: Visit) -> dict[str, str]:
    given = visit.request.query_params
    return {name: given[name].strip() for name in _FILTERS if given.get(name, "").strip()}


def _query(visit: Visit, filters: Mapping[str, str]) -> ExecutionQuery:
    """
    Return the query of a list.

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
        external_user_id=filters.get("external_user"),
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
    """Encode *runs* as JSON, one at a time: a run has up to 6 MB."""
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
        loaded = await reader.load_run(run_id)
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
    """Return the values for the templates of a run's page."""
    workflow = next(
        (
            served.source.workflow
            for served in context.workflows.list_workflows()
            if served.source.workflow.name == execution.workflow
        ),
        None,
    )
    waits = claimed.open_waits if execution.pause is not None else ()
    return {
        "identity": format_identity(execution).capitalize(),
        "event": Markup(render_event(execution.trigger)),  # noqa: S704 - escaped by `render`
        "timeline": Markup(timeline.render_html(execution, timeline.TimelineContext(workflow=workflow))),  # noqa: S704 - escaped by `render`
        "pauses": [
            {
                "id": format_pause(wait),
                "readers": find_run_readers(claimed, wait.path),
                **build_pause(wait.path, wait).to_json(),
            }
            for wait in waits
        ],
        "max_note": MAX_NOTE_CHARACTERS,
        "is_unfinished": execution.status in UNFINISHED_STATUSES,
    }


Action = Callable[[Visit, str], Awaitable[Execution]]
"""Acts on the run with an id; returns the run that the page shows next."""


async def _cancel(visit: Visit, run_id: str) -> Execution:
    execution = await run_history.cancel_run(visit.state.context.engine.journal, run_id, by=visit.visitor)
    await visit.state.runs.cancel(run_id)
    return execution


async def _approve(visit: Visit, run_id: str) -> Execution:
    return await _answer(visit, run_id, is_approved=True)


async def _reject(visit: Visit, run_id: str) -> Execution:
    return await _answer(visit, run_id, is_approved=False)


async def _answer(visit: Visit, run_id: str, *, is_approved: bool) -> Execution:
    note = visit.form.get("note", "")
    return _continue(
        visit,
        await run_history.answer_run(
            visit.state.context.engine,
            run_id,
            is_approved=is_approved,
            by=visit.visitor,
            note=note,
            pause=_shown_pause(visit, run_id),
        ),
    )


async def _resume(visit: Visit, run_id: str) -> Execution:
    decision = NewDecision("resumed", visit.visitor)
    engine = visit.state.context.engine
    return _continue(
        visit, await run_history.resume_run(engine, run_id, pause=_shown_pause(visit, run_id), decision=decision)
    )


def _continue(visit: Visit, resumed: run_history.ResumedRun) -> Execution:
    """Continue the run if this server must, and return its record."""
    if resumed.claimed is not None:  # a run of a terminal, whose process has ended
        visit.state.runs.continue_run(resumed.claimed)
    visit.state.runs.dispatch.notify()
    return resumed.execution


def _shown_pause(visit: Visit, run_id: str) -> WaitKey | None:
    """
    Return the pause that the page of the form has shown, so that an old page does not decide a later pause; None without a page.

    Raises:
        RequestError: The form names no pause.
    """
    shown = visit.form.get("pause")
    if shown is None:
        return None
    path, *numbers = shown.rsplit(" ", 2)
    if len(numbers) != 2 or not all(number.isdecimal() for number in numbers):
        raise RequestError("The form does not name a pause.", fix="Open the page of the run again.")
    return WaitKey(run_id, path, *map(int, numbers))


async def _replay(visit: Visit, run_id: str) -> Execution:
    replay = await prepare_replay(visit.state.context.engine, run_id, sends="sends" in visit.form)
    return await _start(visit, replay)


async def _fork(visit: Visit, run_id: str) -> Execution:
    engine, first = visit.state.context.engine, visit.form.get("step", "")
    return await _start(visit, await prepare_fork(engine, run_id, first, sends="sends" in visit.form))


async def _start(visit: Visit, replay: Replay) -> Execution:
    """Start the new run; the response does not wait for its end."""
    state, journal = visit.state, visit.state.context.engine.journal
    if replay.is_queued:
        execution = await start_replay(state.context.engine, replay)
        state.runs.dispatch.notify()
        return execution
    started = state.runs.start(replay.request)  # the server of a notebook
    recorded = await journal.get_execution(started.run_id) if await started.recorded else None
    if recorded is None:
        raise ProjectError("The run could not be recorded: the project's database cannot be written.")
    return recorded


_ACTIONS: dict[str, tuple[Action, str]] = {
    "approve": (_approve, "approved"),
    "cancel": (_cancel, "cancelled"),
    "fork": (_fork, "forked"),
    "reject": (_reject, "rejected"),
    "replay": (_replay, "replayed"),
    "resume": (_resume, "resumed"),
}
ACTIONS = tuple(_ACTIONS)
"""The last part of an action's path."""


def action_endpoint(name: str) -> Callable[[Request], Awaitable[Response]]:
    """Return the handler of POST `/-/runs/{run_id}/{name}`."""
    act, done = _ACTIONS[name]
    assert done in NOTICES

    @for_visitors("action")
    async def respond(visit: Visit) -> Response:
        run_id = visit.request.path_params["run_id"]
        try:
            execution = await act(visit, run_id)
        except PdkernelError as fault:
            return await show_run(visit, run_id, status=409, problem=str(fault))
        if visit.wants_json:
            return pages.json_response(execution)
        is_stopped = done == "rejected" and execution.status == "cancelled"
        return pages.redirect(visit.request, f"/-/runs/{execution.id}?done={'stopped' if is_stopped else done}")

    return respond


@for_visitors("page")
async def batches_page(visit: Visit) -> Response:
    """Answer GET `/-/batches`: the newest batches, each with the numbers of its users."""
    found = await list_summaries(visit.state.context.project, PAGE_SIZE)
    if visit.wants_json:
        return pages.json_response([batch.to_json() for batch in found])
    return visit.page("batches", batches=[(batch, render_line(batch)) for batch in found])


@for_visitors("page")
async def batch_page(visit: Visit) -> Response:
    """Answer GET `/-/batches/{batch_id}`: the failed users and why, the skipped ones and what is missing, and the retry."""
    return await _show(visit)


@for_visitors("action")
async def retry_batch(visit: Visit) -> Response:
    """Answer POST `/-/batches/{batch_id}/retry`: run the failed runs of the batch again, and no others."""
    context, batch_id = visit.state.context, visit.request.path_params["batch_id"]
    try:
        await request_retry(context.project, context.engine.journal, batch_id)
    except PdkernelError as fault:
        return await _show(visit, status=409, problem=str(fault))
    visit.state.batches.notify()
    if visit.wants_json:
        return await _show(visit)
    return pages.redirect(visit.request, f"/-/batches/{batch_id}?done=retried")


async def _show(visit: Visit, *, status: int = 200, problem: str = "") -> Response:
    context, batch_id = visit.state.context, visit.request.path_params["batch_id"]
    try:
        summary = await load_summary(context.project, context.engine.journal, batch_id)
    except RequestError:
        return visit.problem(404, "There is no such batch.")
    if visit.wants_json:
        return visit.problem(status, problem) if problem else pages.json_response(summary.to_json())
    return visit.page(
        "batch",
        status=status,
        batch=summary,
        numbers=render_line(summary),
        skipped=[(user.external_user, describe_missing(user.missing)) for user in summary.skipped],
        can_retry=summary.state == "done" and any(user.status == "error" for user in summary.failed),
        problem=problem,
        notice="The failed runs are started again." if visit.request.query_params.get("done") == "retried" else "",
    )

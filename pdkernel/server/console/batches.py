"""The pages of batches: ticks of schedules with `for_each: external_user`, their failed and skipped users, and the retry."""

from __future__ import annotations

from starlette.responses import Response

from pdkernel.errors import PdkernelError, RequestError
from pdkernel.operations.batches import list_summaries, load_summary, request_retry
from pdkernel.render.batches import describe_missing, render_line
from pdkernel.server.console import pages
from pdkernel.server.console.access import Visit, for_visitors

PAGE_SIZE = 50


@for_visitors("page")
async def batches_page(visit: Visit) -> Response:
    """GET `/-/batches`: the newest batches, each with the numbers of its users."""
    found = await list_summaries(visit.state.context.project, PAGE_SIZE)
    if visit.wants_json:
        return pages.json_response([batch.to_json() for batch in found])
    return visit.page("batches", batches=[(batch, render_line(batch)) for batch in found])


@for_visitors("page")
async def batch_page(visit: Visit) -> Response:
    """GET `/-/batches/{batch_id}`: the failed users with the cause, the skipped ones with what is missing, and the retry."""
    return await _show(visit)


@for_visitors("action")
async def retry_batch(visit: Visit) -> Response:
    """POST `/-/batches/{batch_id}/retry`: run the failed runs of the batch again, and no others."""
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

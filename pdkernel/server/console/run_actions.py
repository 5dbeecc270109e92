"""Actions on a run: each is a form of the run's page, which works without the script, and leads back to a page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from pdkernel.errors import PdkernelError, ProjectError, RequestError
from pdkernel.execution import Execution
from pdkernel.model import JSON
from pdkernel.operations import run_history
from pdkernel.operations.run_replay import Replay, prepare_fork, prepare_replay, start_replay
from pdkernel.server.console import pages
from pdkernel.server.console.access import Visit, for_visitors
from pdkernel.server.console.runs import NOTICES, format_pause, show_run

Action = Callable[[Visit, str], Awaitable[Execution]]
"""Acts on the run with an id; returns the run that the page shows next."""


async def _cancel(visit: Visit, run_id: str) -> Execution:
    execution = await run_history.cancel_run(visit.state.context.engine.journal, run_id)
    await visit.state.runs.cancel(run_id)
    return execution


async def _approve(visit: Visit, run_id: str) -> Execution:
    return await _resume(visit, run_id, {"approved": True, "note": visit.form.get("note", "")})


async def _reject(visit: Visit, run_id: str) -> Execution:
    return await _resume(visit, run_id, {"approved": False, "note": visit.form.get("note", "")})


async def _resume(visit: Visit, run_id: str, decision: JSON = None) -> Execution:
    """
    End the run's pause.

    The form names the pause that its page has shown: an old page does not approve the run's next pause.
    """
    state = visit.state
    loaded = await state.context.engine.journal.load_run(run_id)
    wait = None if loaded is None else loaded[1].open_wait
    if wait is not None and visit.form.get("pause", format_pause(wait)) != format_pause(wait):
        raise RequestError("The pause that the page shows has ended already.", fix="Look at the run as it is now.")
    if decision is not None and wait is not None and wait.kind != "suspend":
        raise RequestError("Only a run that waits in a suspend can be approved or rejected.", fix="Resume the run.")
    pause = None if wait is None else wait.key(run_id)
    resumed = await run_history.resume_run(state.context.engine, run_id, decision, pause=pause)
    if resumed.claimed is not None:  # a run of a terminal, whose process has ended
        state.runs.continue_run(resumed.claimed)
    state.runs.dispatch.notify()
    return resumed.execution


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
    """The handler of POST `/-/runs/{run_id}/{name}`."""
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
        return pages.redirect(visit.request, f"/-/runs/{execution.id}?done={done}")

    return respond

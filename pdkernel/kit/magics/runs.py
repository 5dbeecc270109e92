"""
What the project has stored: `%pdruns` lists, shows and repeats recorded runs, `%pdstore` shows the data stores.

The records of a store are redacted: a token that a step has put into a store does not appear in the notebook.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

from IPython.core.magic import Magics, line_magic, magics_class, no_var_expand
from IPython.core.magic_arguments import argument, magic_arguments
from IPython.display import display

from pdkernel.errors import RequestError, format_count
from pdkernel.kit.magics.notebook_context import get_session
from pdkernel.kit.magics.output import (
    LiveTimeline,
    parse_arguments,
    raise_on_failure,
    show_errors_as_messages,
    show_message,
    wait_for_pauses,
)
from pdkernel.render.markup import RichOutput

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from pandas import DataFrame

    from pdkernel.engine.run_request import RunWatcher
    from pdkernel.engine.workflow_engine import WorkflowEngine
    from pdkernel.execution import Execution
    from pdkernel.kit.session import Session
    from pdkernel.operations.run_replay import Replay

MAX_ROWS = 200


_ACTS = ("replay", "fork", "cancel", "resume", "remove")
_FILTERS = ("workflow", "external_user", "environment", "status", "since", "until")


@magics_class
class RunsMagics(Magics):
    """Recorded runs."""

    @no_var_expand
    @magic_arguments()
    @argument(
        "words",
        nargs="*",
        help="a run's id; or replay, fork, cancel, resume or remove with the run's id (resume: default the run that a cell waits for)",
    )
    @argument("--workflow", metavar="NAME", help="only runs of this workflow")
    @argument("--external-user", metavar="ID", help="only runs of this external user; with replay and fork: run as")
    @argument("--environment", choices=["development", "production"], help="only runs in this environment")
    @argument("--status", help="only runs with this status, such as error")
    @argument("--since", metavar="TIME", help="only runs that started then or later, such as 2h or yesterday")
    @argument("--until", metavar="TIME", help="only runs that started before then")
    @argument("--limit", type=int, default=20, metavar="N", help="how many runs to list (default: 20)")
    @argument("--before", metavar="ID", help="continue a list: only runs that are older than this one")
    @argument("--frame", action="store_true", help="return the list as a pandas DataFrame")
    @argument(
        "--event",
        action="store_true",
        help="with an id: choose the run's event, external user and exports for the cells; outbound calls are refused. "
        "In a workflow with an errors trigger: choose the error of the other workflow's run",
    )
    @argument("--from", dest="first", metavar="STEP", help="with fork: the first step that runs")
    @argument("--draft", action="store_true", help="with fork: run this notebook's workflow, not the recorded one")
    @argument(
        "--send",
        action="store_true",
        help="with replay and fork: send outbound calls under the policy of the recorded run",
    )
    @argument(
        "--egress", metavar="POLICY", help="with replay and fork: the outbound policy, such as live; default: deny"
    )
    @argument("--body", metavar="JSON", help="with resume: what the paused step gets")
    @argument("--step", metavar="STEP", help="with resume: the step whose pause ends, if several branches wait")
    @argument("--yes", action="store_true", help="with remove: confirm; with replay and filters: run the selected runs")
    @line_magic
    @show_errors_as_messages
    def pdruns(self, line: str) -> DataFrame | None:
        """List recorded runs, show a run, take over its event, and replay, fork, cancel, resume or remove runs."""
        chosen = parse_arguments(self.pdruns, line)
        session = get_session(self.shell)
        words = chosen.words
        if words and words[0] in _ACTS:
            getattr(self, f"_{words[0]}")(session, words[1:], chosen)
            return None
        if len(words) > 1:
            raise RequestError("More than one run is named.", fix="%pdruns ID")
        if chosen.event and not words:
            raise RequestError("The run whose event is taken over is not named.", fix="%pdruns ID --event")
        if words:
            self._show(session, words[0], takes_over=chosen.event)
            return None
        return self._list(session, chosen)

    def _list(self, session: Session, chosen: Any) -> DataFrame | None:
        from pdkernel.operations import run_history
        from pdkernel.render import runs

        filters = {name: getattr(chosen, name) for name in _FILTERS}
        query = run_history.build_query(session.project.clock, **filters, limit=chosen.limit, before=chosen.before)
        found = session.call_engine(lambda _: run_history.list_runs(session.project, query))
        if chosen.frame:
            return run_history.build_runs_frame(found)
        display(runs.render_output(found))
        if len(found) == chosen.limit:
            show_message(f"For older runs: %pdruns --before {found[-1].id}")
        return None

    def _show(self, session: Session, run_id: str, *, takes_over: bool) -> None:
        from pdkernel.kit.session.timeline import RESUME_LINE
        from pdkernel.operations.events import find_error_event
        from pdkernel.operations.run_history import get_run
        from pdkernel.render import timeline
        from pdkernel.render.runs import explain_status

        execution = session.call_engine(lambda _: get_run(session.project, run_id))
        if not takes_over:
            note = explain_status(execution, now=session.project.clock.now(), resume_command=RESUME_LINE)
            text = timeline.render_text(execution, timeline.TimelineContext(note=note, explain_lookup=True))
            display(RichOutput(text=text, html=timeline.render_html(execution, timeline.TimelineContext(note=note))))
            return
        error = find_error_event(session.workflow, execution)
        if error is not None:
            session.choose_event(error, f"error of run {run_id}")
            self.shell.user_ns["event"] = session.event
            show_message(f"The error of the run {run_id} is chosen as the event.")
            return
        names = session.take_over_run(execution)
        self.shell.user_ns["event"] = session.event
        who = f", as {execution.external_user}" if execution.external_user else ""
        exports = f" The cells have the exports of {', '.join(names)}." if names else ""
        show_message(
            f"The event of the run {run_id} is chosen{who} in {execution.environment}.{exports} "
            "Outbound calls are refused; to send them: %pdegress live"
        )

    def _replay(self, session: Session, run_ids: list[str], chosen: Any) -> None:
        from pdkernel.operations import run_history, run_replay
        from pdkernel.render import runs

        policy = run_replay.choose_replay_policy(chosen.egress, os.environ, sends=chosen.send)
        if run_ids:
            prepare = partial(
                run_replay.prepare_replay,
                source=session.source,
                external_user_id=chosen.external_user,
                sends=chosen.send,
                policy=policy,
            )
            _start(self.shell, session, [session.call_engine(partial(prepare, run_id=run_id)) for run_id in run_ids])
            return
        filters = {name: getattr(chosen, name) for name in _FILTERS}
        query = run_history.build_selection(session.project.clock, **filters)
        found = session.call_engine(lambda _: run_history.find_run_ids(session.project, query))
        replays, refused = session.call_engine(
            lambda engine: run_replay.prepare_replays(
                engine, [*reversed(found)], source=session.source, sends=chosen.send, policy=policy
            )
        )
        for run_id, error in refused:
            show_message(f"{run_id}: {error}")
        if chosen.yes:
            _start(self.shell, session, replays)
            return
        display(runs.render_output([replay.original for replay in replays]))
        show_message("\n".join([*map(run_replay.describe_replay, replays), "To run them again, add --yes."]))

    def _fork(self, session: Session, run_ids: list[str], chosen: Any) -> None:
        from pdkernel.operations.run_replay import choose_replay_policy, prepare_fork

        policy = choose_replay_policy(chosen.egress, os.environ, sends=chosen.send)
        run_id = _one(run_ids, "fork ID --from STEP")
        if chosen.first is None:
            raise RequestError("The first step is missing.", fix=f"%pdruns fork {run_id} --from STEP")
        source = session.source if chosen.draft else None
        fork = session.call_engine(
            lambda engine: prepare_fork(
                engine,
                run_id,
                chosen.first,
                source=source,
                pins={name: dict(pin) for name, pin in session.pins.items()} if chosen.draft else None,
                external_user_id=chosen.external_user,
                sends=chosen.send,
                policy=policy,
            )
        )
        _start(self.shell, session, [fork])

    def _cancel(self, session: Session, run_ids: list[str], _: Any) -> None:
        from pdkernel.operations.run_history import cancel_run, name_caller

        run_id = _one(run_ids, "cancel ID")
        session.call_engine(lambda engine: cancel_run(engine.journal, run_id, by=name_caller("notebook")))
        show_message(f"Cancelled {run_id}.")

    def _resume(self, session: Session, run_ids: list[str], chosen: Any) -> None:
        from pdkernel.event import parse_json
        from pdkernel.journal import NewDecision
        from pdkernel.operations.run_history import describe_resumed, name_caller, resume_run

        newest = session.paused_runs.newest
        run_id = _one(run_ids or ([] if newest is None else [newest]), "resume ID")
        body = None if chosen.body is None else parse_json(chosen.body, label="--body")
        if session.paused_runs.is_followed(run_id):
            session.paused_runs.end_pause(run_id, body, step=chosen.step)
            show_message(f"The run {run_id} goes on below the cell that started it.")
            stopped = session.paused_runs.wait(run_id)
            if stopped is not None:
                raise_on_failure(stopped)
            return
        decision = NewDecision("resumed", name_caller("notebook"))
        resumed = session.call_engine(
            lambda engine: resume_run(engine, run_id, body, step=chosen.step, decision=decision)
        )
        claimed = resumed.claimed
        if claimed is None:
            show_message(describe_resumed(resumed))
            return
        raise_on_failure(_run(self.shell, session, lambda engine, watcher: engine.continue_run(claimed, watcher)))

    def _remove(self, session: Session, run_ids: list[str], chosen: Any) -> None:
        from pdkernel.operations import run_history

        query = None
        if not run_ids:
            filters = {name: getattr(chosen, name) for name in _FILTERS}
            query = run_history.build_selection(session.project.clock, **filters)
            run_ids = [*session.call_engine(lambda _: run_history.find_run_ids(session.project, query))]
        if not chosen.yes:
            raise RequestError(f"{format_count(len(run_ids), 'run')} would be removed.", fix="To confirm, add --yes.")
        removed = session.call_engine(
            lambda engine: run_history.remove_runs(engine.journal, run_ids, keeps_executing=query is not None)
        )
        show_message(f"Removed {format_count(removed, 'run')}.")


def _one(run_ids: list[str], form: str) -> str:
    if len(run_ids) != 1:
        raise RequestError("Exactly one run must be named.", fix=f"%pdruns {form}")
    return run_ids[0]


def _start(shell: Any, session: Session, replays: Sequence[Replay]) -> None:
    """Start *replays* one after another and show their runs; a failure is raised after the last run."""
    from pdkernel.operations.run_replay import describe_replay, start_replay

    ended = []
    for replay in replays:
        show_message(describe_replay(replay))
        if replay.is_queued:
            queued = session.call_engine(partial(start_replay, replay=replay))
            show_message(f"Queued as {queued.id}. To look at its result: %pdruns {queued.id}")
            continue
        ended.append(_run(shell, session, partial(_start_watched, replay)))
        if ended[-1].status == "cancelled":  # an interrupt ends the cell, not only one of its runs
            break
    for execution in ended:
        raise_on_failure(execution)


async def _start_watched(replay: Replay, engine: WorkflowEngine, watcher: RunWatcher) -> Execution:
    from pdkernel.operations.run_replay import start_replay

    return await start_replay(engine, replay, watcher)


def _run(
    shell: Any, session: Session, operation: Callable[[WorkflowEngine, RunWatcher], Awaitable[Execution]]
) -> Execution:
    """Run *operation* with a live timeline, and return its record."""
    timeline = LiveTimeline(session, has_own_event=True)
    execution = session.run_recorded(operation, on_change=timeline.update, while_waiting=timeline.tick)
    return wait_for_pauses(shell, session, timeline, execution)


@magics_class
class StoreMagics(Magics):
    """Show data stores."""

    @no_var_expand
    @magic_arguments()
    @argument("name", nargs="?", help="the store to show; without it, list the stores")
    @argument(
        "--scratch",
        action="store_true",
        help="show the scratch copy, which the steps write unless the outbound policy is live",
    )
    @argument("--rows", type=int, default=MAX_ROWS, help=f"number of records to show (default: {MAX_ROWS})")
    @line_magic
    @show_errors_as_messages
    def pdstore(self, line: str) -> None:
        """List the project's data stores, or show the records of a store: key, value, expires."""
        from pdkernel.common.redaction import Redactor
        from pdkernel.engine.account_resolution import collect_secrets
        from pdkernel.operations.stores import list_stores, view_store
        from pdkernel.render import stores as stores_view

        chosen = parse_arguments(self.pdstore, line)
        session = get_session(self.shell)
        copy, stores = session.scratch_copy, session.project.data_stores
        is_missing = copy is not None and chosen.name in copy.changed_stores() and not stores.exists(chosen.name)
        if is_missing and not chosen.scratch:
            raise RequestError(
                f"There is no data store {chosen.name!r}: the steps have written a scratch copy.",
                fix=f"To show the copy: %pdstore {chosen.name} --scratch",
            )
        table = copy if chosen.scratch else stores
        if table is None or (chosen.scratch and chosen.name is None and not list_stores(table)):
            show_message("The steps have written no scratch copy of a data store.")
            return
        if chosen.name is None:
            found = list_stores(table)
            display(RichOutput(text=stores_view.render_stores_text(found), html=stores_view.render_stores_html(found)))
            return
        redactor = Redactor(collect_secrets(session.project, session.folder))
        shown = view_store(table, chosen.name, limit=max(chosen.rows, 0), redactor=redactor)
        display(
            RichOutput(
                text=stores_view.render_records_text(shown.name, shown.rows, total=shown.total),
                html=stores_view.render_records_html(shown.name, shown.rows, total=shown.total),
            )
        )

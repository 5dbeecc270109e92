"""An execution as the notebook shows it."""

from __future__ import annotations

from collections.abc import Collection

from msgspec.structs import replace

from pdkernel.execution import Execution
from pdkernel.kit.session.session import Session
from pdkernel.render import timeline
from pdkernel.render.markup import RichOutput
from pdkernel.render.runs import explain_status

RESUME_LINE = "%pdruns resume"
"""The line that ends the pause of a run in a notebook, without the id of the run."""


def render_timeline(
    session: Session,
    execution: Execution,
    *,
    only: Collection[str] | None = None,
    event_name: str | None = None,
    has_own_event: bool = False,
    can_stop: bool = False,
) -> RichOutput:
    """
    Return the timeline of *execution*.

    Args:
        session: The session of the notebook that ran.
        execution: The execution, finished or not.
        only: Names of the steps to show, without the response. None shows the whole run.
        event_name: The name of the event when the run began, if it has one.
        has_own_event: Whether the event of the run is not the chosen one: a request to the draft's endpoint started it, or
            it runs a recorded event. Its results are never stale.
        can_stop: Whether an interrupt of the kernel stops the run.
    """
    workflow = session.workflow
    finished = execution.finished_at is not None
    stale = session.find_stale_steps(execution) if finished and not has_own_event else ()
    responds = only is None and workflow.trigger.type == "http"
    now = session.project.clock.now()
    note = explain_status(execution, now=now, resume_command=RESUME_LINE) if execution.status == "paused" else None
    if only is not None:
        execution = replace(execution, steps=tuple(step for step in execution.steps if step.name in only))
    edited = session.find_edited_steps() if stale else ()
    notes = timeline.TimelineContext(
        stale=stale,
        edited=edited,
        workflow=workflow,
        event_name=event_name,
        has_response=responds,
        note=note,
        now=now,
        can_stop=can_stop,
    )
    return RichOutput(timeline.render_text(execution, notes), timeline.render_html(execution, notes))

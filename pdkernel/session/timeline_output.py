"""
An execution as this notebook shows it: with the event's name, the steps' languages and what is stale.

Knows the session and the renderer; magics and widgets both show this.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from pdkernel.execution import Execution
from pdkernel.render import timeline
from pdkernel.render.rich_output import RichOutput
from pdkernel.session.notebook_state import NotebookState


def render_timeline(
    state: NotebookState, execution: Execution, *, only: Collection[str] | None = None, is_http_request: bool = False
) -> RichOutput:
    """
    The timeline of *execution*.

    Args:
        state: The notebook that ran.
        execution: Finished or not.
        only: Steps to show; the response is then left out. None shows the whole run.
        is_http_request: Whether a request to the draft's endpoint began it: its event is not the chosen one, and what it
            did is no cell's last result, which could be stale.
    """
    workflow = state.workflow
    finished = execution.finished_at is not None
    stale = state.find_stale_steps(execution) if finished and not is_http_request else ()
    languages: dict[str, timeline.StepKind] = {
        step.name: "action" if step.uses else step.language for step in workflow.steps
    }
    name = None if is_http_request else state.event_name
    responds = only is None and workflow.trigger.type == "http"
    if only is not None:
        execution = replace(execution, steps=tuple(step for step in execution.steps if step.name in only))
    return RichOutput(
        timeline.render_text(execution, stale=stale, languages=languages, event_name=name, has_response=responds),
        timeline.render_html(execution, stale=stale, languages=languages, event_name=name, has_response=responds),
    )

"""Requests for the engine, built from a notebook's settings."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pdkernel.clock import Clock
from pdkernel.egress import parse_policy
from pdkernel.egress.recording import MemoryRecording
from pdkernel.engine.run_context import build_trigger_context
from pdkernel.engine.run_request import OnChange, RunRequest
from pdkernel.errors import RequestError
from pdkernel.event import Event
from pdkernel.model import JSON, Step
from pdkernel.source import sibling_workflow_finder
from pdkernel.variables import load_variables

if TYPE_CHECKING:
    from pdkernel.engine.event_sources import SourceRequest
    from pdkernel.session.notebook_state import NotebookState


def build_run_request(
    state: NotebookState,
    *,
    only: frozenset[str] | None,
    resend: bool,
    external_user_id: str | None,
    on_change: OnChange | None,
    install: bool,
) -> RunRequest:
    """
    A request for a run of the notebook's workflow.

    Args:
        state: The notebook's workflow, settings and project.
        only: Names of the steps to run, pinned or not; None runs all.
        resend: Whether to repeat outbound calls that this event has already sent.
        external_user_id: An external user in place of the chosen one, or None.
        on_change: Called with the execution after each change.
        install: Whether packages may be downloaded.

    Raises:
        DefinitionError: The workflow is invalid, or has no such step.
        RequestError: No event is chosen.
    """
    event = state.event
    if event is None:
        raise RequestError("No event is chosen.", fix="Choose or write an event: %pdevent")
    user = external_user_id or state.external_user_id
    workflow = state.workflow
    for name in only or ():
        workflow.step(name)
    return RunRequest(
        workflow=workflow,
        event=event.with_identity(user, state.environment),
        policy=parse_policy(state.egress),
        external_user_id=user,
        environment=state.environment,
        variables=load_variables(state.project, state.folder),
        folder=state.folder,
        pinned_exports={name: pinned for name, pinned in state.pins.items() if only is None or name not in only},
        only_steps=only,
        previous_exports=state.get_exports(),
        idempotency=state.project.idempotency,
        resend=resend,
        actions_source=state.action_source,
        recording=MemoryRecording(),
        install=install,
        source=shlex.quote(state.notebook.name) if state.notebook else "SOURCE",
        on_change=on_change,
        pause_mode="skip",
        find_workflow=sibling_workflow_finder(state.notebook or state.folder / "notebook.ipynb"),
    )


def is_install_allowed(environ: Mapping[str, str]) -> bool:
    """Whether *environ* allows package downloads (`PDKERNEL_NO_INSTALL`)."""
    return environ.get("PDKERNEL_NO_INSTALL", "").lower() in ("", "0", "false", "no")


def find_debug_steps(request: RunRequest) -> list[Step]:
    """The steps of *request* that run in the debugger."""
    return [
        step for step in request.workflow.steps if step.debug and not step.disabled and request.is_selected(step.name)
    ]


def build_source_request(state: NotebookState, *, on_event: bool = False) -> SourceRequest:
    """
    A request to run the event source that is the workflow's trigger, on a timer tick or on the chosen event.

    Raises:
        RequestError: The trigger is not a source.
    """
    from pdkernel.engine.event_sources import SourceRequest, require_source_trigger

    return SourceRequest(
        trigger=require_source_trigger(state.workflow.trigger),
        owner_key=str((state.notebook or state.folder).resolve()),
        policy=parse_policy(state.egress),
        event=dict(state.event.data) if on_event and state.event is not None else None,
        external_user_id=state.external_user_id,
        environment=state.environment,
        folder=state.folder,
    )


def build_example_context(state: NotebookState, event: Event, clock: Clock) -> Mapping[str, JSON]:
    """The value of `steps.trigger.context` for a run on *event*, without the ids of the run."""
    request = RunRequest(
        workflow=state.workflow,
        event=event,
        policy=parse_policy("deny"),
        external_user_id=state.external_user_id,
        environment=state.environment,
    )
    return build_trigger_context(request, project_id=state.project.project_id, trace_id="", run_id="", clock=clock)

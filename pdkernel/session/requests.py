"""
What a notebook asks the engine to do, made of what its person has chosen.

Knows which choice goes where. Nothing here runs or changes anything.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pdkernel.clock import Clock
from pdkernel.egress import parse_mode
from pdkernel.egress.tape import Tape
from pdkernel.engine.context import build_context
from pdkernel.engine.request import OnChange, RunRequest
from pdkernel.errors import RequestError
from pdkernel.event import Event
from pdkernel.model import JSON, Step
from pdkernel.source import workflows_beside
from pdkernel.variables import project_variables

if TYPE_CHECKING:
    from pdkernel.engine.sources import SourceRequest
    from pdkernel.session.session import Session


def run_request(
    session: Session,
    *,
    only: frozenset[str] | None,
    send: bool,
    external_user_id: str | None,
    on_change: OnChange | None,
    install: bool,
) -> RunRequest:
    """
    A run of the notebook's workflow.

    Args:
        session: Whose choices count.
        only: Steps to run, pinned or not; None runs all.
        send: Whether what was sent before is sent again.
        external_user_id: In the place of the chosen one, or None.
        on_change: Told the execution as it grows.
        install: Whether packages may be downloaded.

    Raises:
        DefinitionError: The workflow is wrong, or has no such step.
        RequestError: No event is chosen.
    """
    event = session.event
    if event is None:
        raise RequestError("No event is chosen.", fix="Choose or write one: %pdevent")
    user = external_user_id or session.external_user_id
    workflow = session.workflow
    for name in only or ():
        workflow.step(name)
    return RunRequest(
        workflow=workflow,
        event=event.with_identity(user, session.environment),
        policy=parse_mode(session.egress),
        external_user_id=user,
        environment=session.environment,
        variables=project_variables(session.project, session.folder),
        folder=session.folder,
        pins={name: pinned for name, pinned in session.pins.items() if only is None or name not in only},
        only=only,
        exports=session.exports(),
        sent=session.project.sent,
        send=send,
        actions=session.actions_from,
        tape=Tape(),
        install=install,
        source=shlex.quote(session.notebook.name) if session.notebook else "SOURCE",
        on_change=on_change,
        pauses="skip",
        find_workflow=workflows_beside(session.notebook or session.folder / "notebook.ipynb"),
    )


def may_install(environ: Mapping[str, str]) -> bool:
    """Whether *environ* lets packages be downloaded (`PDKERNEL_NO_INSTALL`)."""
    return environ.get("PDKERNEL_NO_INSTALL", "").lower() in ("", "0", "false", "no")


def debugged(request: RunRequest) -> list[Step]:
    """The steps of *request* that are to be run where a debugger can stop them."""
    return [step for step in request.workflow.steps if step.debug and not step.disabled and request.runs(step.name)]


def source_request(session: Session, *, on_event: bool = False) -> SourceRequest:
    """
    A run of the event source that is the workflow's trigger, on a tick or on the chosen event.

    Raises:
        RequestError: The trigger is no source.
    """
    from pdkernel.engine.sources import SourceRequest, source_of

    return SourceRequest(
        trigger=source_of(session.workflow.trigger),
        workflow=str((session.notebook or session.folder).resolve()),
        policy=parse_mode(session.egress),
        event=dict(session.event.data) if on_event and session.event is not None else None,
        external_user_id=session.external_user_id,
        environment=session.environment,
        folder=session.folder,
    )


def example_context(session: Session, event: Event, clock: Clock) -> Mapping[str, JSON]:
    """`steps.trigger.context` as a run on *event* would have it, but for the ids of the run."""
    request = RunRequest(
        workflow=session.workflow,
        event=event,
        policy=parse_mode("deny"),
        external_user_id=session.external_user_id,
        environment=session.environment,
    )
    return build_context(request, project_id=session.project.project_id, trace_id="", run_id="", clock=clock)

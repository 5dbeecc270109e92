"""Event sources that trigger workflows: the request for the engine, and the report of a run."""

from __future__ import annotations

from pdkernel.common.identity import Environment
from pdkernel.egress import OutboundPolicy
from pdkernel.engine.account_lookup import Interface
from pdkernel.engine.event_sources import SourceRequest, SourceResult, require_source_trigger
from pdkernel.errors import format_count
from pdkernel.files.source import WorkflowSource
from pdkernel.model import JSON


def build_source_request(
    source: WorkflowSource,
    *,
    policy: OutboundPolicy,
    external_user_id: str | None,
    environment: Environment,
    event: JSON = None,
    install: bool = True,
    interface: Interface = "terminal",
) -> SourceRequest:
    """
    The request to run the event source that is the trigger of a workflow.

    Args:
        source: The workflow with its files; their path identifies the state of the event source.
        policy: The policy for outbound calls.
        external_user_id: The external user whose account the event source uses, or None.
        environment: The external user's environment.
        event: The event for the event source, such as a webhook's request; None is a tick of its timer.
        install: Whether the event source and its packages may be installed.
        interface: The interface that starts the run, for messages.

    Raises:
        RequestError: The trigger is not an event source.
    """
    return SourceRequest(
        trigger=require_source_trigger(source.workflow.trigger),
        owner_key=str(source.path.resolve()),
        policy=policy,
        event=event,
        external_user_id=external_user_id,
        environment=environment,
        folder=source.folder.resolve(),
        install=install,
        interface=interface,
        action_sources=source.sidecar.actions if source.sidecar else (),
    )


def describe_events(result: SourceResult) -> list[str]:
    """The new events of a run, a line for each, and the number of new and of repeated events."""
    new = len(result.events)
    return [
        *(f"{number}. {found.summary or found.id or 'event'}" for number, found in enumerate(result.events, start=1)),
        f"{format_count(new, 'new event')}, {result.repeated_count} emitted before.",
    ]

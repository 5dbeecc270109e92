"""The state of a served application, which handlers read from their request."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.applications import Starlette

from pdkernel.server.answered_requests import AnsweredRequests
from pdkernel.server.app_context import AppContext, LinkContext
from pdkernel.server.batches import Batches
from pdkernel.server.console_sessions import ConsoleSessions
from pdkernel.server.database_probe import DatabaseProbe
from pdkernel.server.host_names import HostNames
from pdkernel.server.rate_limits import ApiRateLimiter, EndpointRateLimiter
from pdkernel.server.run_registry import RunRegistry
from pdkernel.server.trigger_events import TriggerEvents
from pdkernel.server.trigger_runner import DeployedTriggers
from pdkernel.server.uploads import UploadFolder
from pdkernel.server.workflow_triggers import WorkflowTriggers


@dataclass
class AppState:
    """
    The state of one application.

    Attributes:
        context: Context of the server.
        runs: Runs in progress.
        names: Host names of the server.
        uploads: Stored files of requests.
        rate_limiter: Limits requests to endpoints.
        api_rate_limiter: Limits requests to the API.
        console: Logins of the console.
        events: The events of triggers that wait.
        batches: Ticks of schedules that run a workflow for each external user.
        triggers: The triggers of the served workflows.
        deployed_triggers: The triggers that the Connect API has deployed.
        answered: Requests to sources that run again.
        database: Whether the database answers.
        is_stopping: Whether a shutdown has begun.
    """

    context: AppContext
    runs: RunRegistry
    names: HostNames
    uploads: UploadFolder
    rate_limiter: EndpointRateLimiter
    api_rate_limiter: ApiRateLimiter
    console: ConsoleSessions
    events: TriggerEvents
    batches: Batches
    triggers: WorkflowTriggers
    deployed_triggers: DeployedTriggers
    answered: AnsweredRequests
    database: DatabaseProbe
    is_stopping: bool = False


def set_state(app: Starlette, state: AppState) -> None:
    """Store the state of *app*."""
    app.state.served = state
    set_link_context(app, state.context)


def get_state(app: Starlette) -> AppState:
    """Return the state of *app*, which `create_app` made."""
    state = app.state.served
    assert isinstance(state, AppState)
    return state


def set_link_context(app: Starlette, context: LinkContext) -> None:
    """Store the context of the link pages of *app*."""
    app.state.link_context = context


def get_link_context(app: Starlette) -> LinkContext:
    """Return the context of the link pages of *app*, which `create_app` or `create_link_app` made."""
    context: LinkContext = app.state.link_context
    return context

"""
The app props of a run's steps, known before the first one runs.

Knows where each kind of step says which apps it uses. Whose account each gets is for `lookup` to know.
"""

from __future__ import annotations

from pdkernel.engine.actions import StepActions
from pdkernel.engine.request import RunRequest
from pdkernel.errors import StepError
from pdkernel.hosts import RunGuests
from pdkernel.inspection import apps_of, merge_apps
from pdkernel.model import AppBinding, Step


async def app_props(request: RunRequest, guests: RunGuests, actions: StepActions) -> dict[str, tuple[AppBinding, ...]]:
    """
    App props by step: the directive's, and those that code declares (the external user's).

    Raises:
        ActionPropsError: A step does not give its action what that needs.
        EndUserError: Pipedream has no account for an action that Pipedream runs.
    """
    bindings: dict[str, tuple[AppBinding, ...]] = {}
    for step in request.workflow.steps:
        if step.disabled or not request.runs(step.name) or step.name in request.pins:
            continue
        apps = step.apps
        if step.uses is not None:
            apps = await actions.fit(step, guests)
        elif step.language == "node" and "app" in step.source:
            apps = merge_apps(apps, await _declared(step, guests))
        elif step.language == "go":
            apps = apps_of(step)
        bindings[step.name] = apps
    return bindings


async def _declared(step: Step, guests: RunGuests) -> tuple[AppBinding, ...]:
    try:
        return (await guests.describe(step)).apps
    except StepError:
        return ()  # the step itself will fail with the same error, at its place in the record

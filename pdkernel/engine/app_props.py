"""
The app props of a run's steps, known before the first one runs.

Knows where each kind of step says which apps it uses. Whose account each gets is for `lookup` to know.
"""

from __future__ import annotations

from collections.abc import Iterator

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
    for step in _executed(request):
        apps = step.apps
        if step.uses is not None:
            apps = await actions.fit(step, guests)
        elif step.language == "node" and "app" in step.source:
            apps = merge_apps(apps, await _declared(step, guests))
        elif step.language == "go":
            apps = apps_of(step)
        bindings[step.name] = apps
    return bindings


def may_have_app_props(request: RunRequest) -> bool:
    """False if `app_props` will find none, as far as that can be told without a look into code."""
    return any(
        step.apps
        or step.uses is not None
        or step.language == "go"
        or (step.language == "node" and "app" in step.source)
        for step in _executed(request)
    )


def _executed(request: RunRequest) -> Iterator[Step]:
    return (
        step
        for step in request.workflow.steps
        if not step.disabled and request.runs(step.name) and step.name not in request.pins
    )


async def _declared(step: Step, guests: RunGuests) -> tuple[AppBinding, ...]:
    try:
        return (await guests.describe(step)).apps
    except StepError:
        return ()  # the step itself will fail with the same error, at its place in the record

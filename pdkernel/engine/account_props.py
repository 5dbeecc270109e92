"""
The app props of a run's steps, known before the first one runs.

Knows where each kind of step says which apps it uses. Whose account each gets is for `lookup` to know.
"""

from __future__ import annotations

from collections.abc import Iterator

from pdkernel.analysis import find_app_bindings, merge_app_bindings
from pdkernel.engine.run_request import RunRequest
from pdkernel.engine.step_actions import StepActions
from pdkernel.errors import StepError
from pdkernel.model import AppBinding, Step
from pdkernel.workers import RunWorkers


async def find_account_props(
    request: RunRequest, workers: RunWorkers, actions: StepActions
) -> dict[str, tuple[AppBinding, ...]]:
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
            apps = await actions.load_declaration(step, workers)
        elif step.language == "node" and "app" in step.source:
            apps = merge_app_bindings(apps, await _declared(step, workers))
        elif step.language == "go":
            apps = find_app_bindings(step)
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
        if not step.disabled and request.is_selected(step.name) and step.name not in request.pinned_exports
    )


async def _declared(step: Step, guests: RunWorkers) -> tuple[AppBinding, ...]:
    try:
        return (await guests.describe(step)).apps
    except StepError:
        return ()  # the step itself will fail with the same error, at its place in the record

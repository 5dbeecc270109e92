"""Finds the app props of a run's steps in directives, code and action declarations."""

from __future__ import annotations

from collections.abc import Iterator

from pdkernel.analysis import find_app_bindings, iter_sources, merge_app_bindings
from pdkernel.engine.run_request import RunRequest
from pdkernel.engine.step_actions import StepActions
from pdkernel.errors import StepError
from pdkernel.model import AppBinding, Step
from pdkernel.workers import PooledRun


async def find_account_props(
    request: RunRequest, workers: PooledRun, actions: StepActions
) -> dict[str, tuple[AppBinding, ...]]:
    """
    Return app props by step: those of the directive, and those that code declares (the external user's).

    Raises:
        ActionPropsError: A step does not set a required prop of its action.
        EndUserError: Pipedream has no account for an action that Pipedream runs.
    """
    bindings: dict[str, tuple[AppBinding, ...]] = {}
    for step in _executed(request):
        apps = step.apps
        if step.uses is not None:
            apps = await actions.load_declaration(step, workers)
        elif _may_declare_apps(step):
            apps = merge_app_bindings(apps, await _declared(step, workers))
        elif step.language == "go":
            apps = find_app_bindings(step)
        bindings[step.name] = apps
    return bindings


def may_have_app_props(request: RunRequest) -> bool:
    """
    Return False if `find_account_props` certainly finds none; a quick check that does not parse code.

    For a run that executes no step, all steps count: its event may have the credentials that they would have used.
    """
    is_started = request.refusal is None and request.only_steps != frozenset()
    steps = _executed(request) if is_started else (step for step in request.workflow.steps if not step.disabled)
    return any(step.apps or step.uses is not None or step.language == "go" or _may_declare_apps(step) for step in steps)


def _may_declare_apps(step: Step) -> bool:
    return step.language == "node" and any("app" in source for _, source in iter_sources(step))


def _executed(request: RunRequest) -> Iterator[Step]:
    return (step for step in request.workflow.steps if request.should_execute(step))


async def _declared(step: Step, workers: PooledRun) -> tuple[AppBinding, ...]:
    try:
        return (await workers.describe(step)).apps
    except StepError:
        return ()  # the step itself fails later with the same error

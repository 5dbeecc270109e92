"""
Pre-built actions as a notebook asks for them: searching, what one declares, what a prop may be.

Knows the session's choices that such questions depend on: the external user, the event, what steps have exported.
Waits for each answer; runs no step.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, TypeVar

from pdkernel.actions import ActionReference
from pdkernel.actions.action_reference import suggest_step_name
from pdkernel.connect.registered_apps import load_registered_apps
from pdkernel.egress import parse_policy
from pdkernel.engine.action_forms import FormRequest
from pdkernel.errors import RequestError
from pdkernel.model import JSON, Step
from pdkernel.variables import load_variables

if TYPE_CHECKING:
    from pdkernel.actions import Component
    from pdkernel.engine.workflow_engine import WorkflowEngine
    from pdkernel.session.notebook_state import NotebookState
    from pdkernel.workers import ComponentDescription, PropDeclaration, PropOptionsPage

T = TypeVar("T")
ProgressListener = Callable[[str], None]


class EngineCall(Protocol):
    """Runs an operation on the engine and waits for its result."""

    def __call__(self, operation: Callable[[WorkflowEngine], Awaitable[T]]) -> T:
        """Return the result of *operation*."""
        ...


def _silent(_: str) -> None:
    """Says nothing."""


class SessionActions:
    """
    The actions of one notebook.

    Args:
        state: The notebook's workflow, settings and project.
        call_engine: Runs an operation on the engine and waits for its result.
        find_needed_apps: Finds the apps that the workflow's steps need.
    """

    def __init__(
        self,
        state: NotebookState,
        *,
        call_engine: EngineCall,
        find_needed_apps: Callable[[], Mapping[str, Sequence[str]]],
    ) -> None:
        self._state = state
        self._call_engine = call_engine
        self._find_needed_apps = find_needed_apps

    def search(self, words: str, *, app: str | None = None, progress: ProgressListener = _silent) -> list[Component]:
        """Actions whose key, name or description holds every word. Raises `ActionSourceError`."""
        catalog = self._state.catalog
        return self._call_engine(lambda _: catalog.search(words, app=app, progress=progress))

    def describe(self, uses: str, *, progress: ProgressListener = _silent) -> tuple[Component, ComponentDescription]:
        """
        An action and what it declares; installed if need be.

        Raises:
            ActionNotFoundError: No source has it.
            ActionSourceError: Its source cannot be reached.
            StepError: Its module cannot be loaded.
        """
        wanted = ActionReference.parse(uses)
        catalog = self._state.catalog
        return self._call_engine(lambda runtime: runtime.forms.describe(wanted, catalog=catalog, progress=progress))

    def fetch_options(
        self,
        step: Step | str,
        prop: str,
        *,
        values: Mapping[str, JSON] | None = None,
        page: int = 0,
        context: JSON = None,
        query: str | None = None,
    ) -> PropOptionsPage:
        """
        A page of what *prop* of an action step may be, with the chosen external user's account.

        Args:
            step: The step, or its name.
            prop: The prop.
            values: Values in the place of the step's own.
            page: Counted from 0.
            context: What the page before gave.
            query: What a person searches for.

        Raises:
            UnknownStepError: There is no such step.
            RequestError: The step is not an action.
            ActionNotFoundError: No source has its action.
        """
        request = self._form(step, values)
        return self._call_engine(
            lambda runtime: runtime.forms.load_options(request, prop, page=page, context=context, query=query)
        )

    def fetch_additional_props(
        self, step: Step | str, *, values: Mapping[str, JSON] | None = None
    ) -> tuple[PropDeclaration, ...]:
        """The props that the step's action adds for its values. Raises as `options`, and `StepError`."""
        request = self._form(step, values)
        return self._call_engine(lambda runtime: runtime.forms.load_additional_props(request))

    def list_apps(self) -> tuple[str, ...]:
        """The apps that are known here: of accounts, steps and components, and those that were told of; sorted."""
        state = self._state
        known = {account.app for account in state.directory.accounts()} | set(self._find_needed_apps())
        return tuple(sorted(known | set(load_registered_apps(state.project)) | set(state.catalog.list_apps())))

    def suggest_step_name(self, key: str) -> str:
        """What a new step of that action is called: as the platform's builder would, numbered if that is taken."""
        taken = {step.name for step in self._state.workflow.steps}
        base = name = suggest_step_name(key)
        number = 1
        while name in taken:
            name = f"{base}_{number}"
            number += 1
        return name

    def _form(self, step: Step | str, values: Mapping[str, JSON] | None) -> FormRequest:
        state = self._state
        found = state.workflow.step(step) if isinstance(step, str) else step
        if found.uses is None:
            raise RequestError(f"Step {found.name} is code: it has no form.", fix="Name a step with --uses.")
        if values is not None:
            found = replace(found, props=dict(values))
        event = state.event
        return FormRequest(
            step=found,
            policy=parse_policy(state.egress),
            external_user_id=state.external_user_id,
            environment=state.environment,
            event=dict(event.data) if event else {},
            exports=state.get_exports(),
            variables=load_variables(state.project, state.folder),
            folder=state.folder,
            actions_source=state.action_source,
        )

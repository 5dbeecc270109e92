"""
Pre-built actions for a notebook: search, description and prop options.

Prop options depend on the chosen external user, the chosen event and the last exports. No step runs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, TypeVar

from pdkernel.accounts.registered_apps import load_registered_apps
from pdkernel.actions.action_reference import suggest_step_name
from pdkernel.engine.variables import load_variables
from pdkernel.errors import RequestError
from pdkernel.model import JSON, Step
from pdkernel.operations.action_forms import ActionForms, FormRequest
from pdkernel.operations.actions import ActionSearch, ProgressListener, describe_action, search_actions

if TYPE_CHECKING:
    from pdkernel.actions import Component
    from pdkernel.engine.workflow_engine import WorkflowEngine
    from pdkernel.kit.session.notebook_state import NotebookState
    from pdkernel.workers import ComponentDescription, PropDeclaration, PropOptionsPage

T = TypeVar("T")


class EngineCall(Protocol):
    """Runs an operation on the engine and waits for its result."""

    def __call__(self, operation: Callable[[WorkflowEngine], Awaitable[T]]) -> T:
        """Return the result of *operation*."""
        ...


def _silent(_: str) -> None:
    """Ignore the message."""


class SessionActions:
    """
    The actions of one notebook.

    Args:
        state: The notebook's workflow, settings and project.
        call_engine: Runs an operation on the engine and waits for its result.
    """

    def __init__(self, state: NotebookState, *, call_engine: EngineCall) -> None:
        self._state = state
        self._call_engine = call_engine

    def search(
        self,
        words: str,
        *,
        app: str | None = None,
        limit: int | None = None,
        install: bool = True,
        progress: ProgressListener = _silent,
    ) -> ActionSearch:
        """Actions whose key, name or description contains every word: arguments and errors of `search_actions`."""
        catalog = self._state.catalog
        return self._call_engine(
            lambda _: search_actions(catalog, words, app=app, limit=limit, install=install, progress=progress)
        )

    def describe(self, uses: str, *, progress: ProgressListener = _silent) -> tuple[Component, ComponentDescription]:
        """An action and its declared props. Raises the errors of `describe_action`."""
        catalog = self._state.catalog
        return self._call_engine(lambda engine: describe_action(engine, uses, catalog=catalog, progress=progress))

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
        A page of options for *prop* of an action step, loaded with the chosen external user's account.

        Args:
            step: The step, or its name.
            prop: The prop's name.
            values: Prop values that replace the step's own; None for the step's own.
            page: The page number, from 0.
            context: The context of the previous page.
            query: The search text.

        Raises:
            UnknownStepError: The workflow has no such step.
            RequestError: The step is not an action.
            ActionNotFoundError: No source has the step's action.
        """
        request = self._form(step, values)
        return self._call_engine(
            lambda runtime: ActionForms(runtime).load_options(request, prop, page=page, context=context, query=query)
        )

    def fetch_additional_props(
        self, step: Step | str, *, values: Mapping[str, JSON] | None = None
    ) -> tuple[PropDeclaration, ...]:
        """The props that the step's action adds for *values*. Raises the errors of `fetch_options`, and `StepError`."""
        request = self._form(step, values)
        return self._call_engine(lambda runtime: ActionForms(runtime).load_additional_props(request))

    def list_apps(self) -> tuple[str, ...]:
        """Slugs of the apps of accounts, steps and components, and of registered apps; sorted."""
        state = self._state
        known = {account.app for account in state.directory.accounts()} | set(state.find_needed_apps())
        return tuple(sorted(known | set(load_registered_apps(state.project)) | set(state.catalog.list_apps())))

    def suggest_step_name(self, key: str) -> str:
        """A free step name for the action *key*: the name of Pipedream's builder, numbered if taken."""
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
            raise RequestError(
                f"Step {found.name} is a code step, and code steps have no form.", fix="Name a step with --uses."
            )
        if values is not None:
            found = replace(found, props=dict(values))
        event = state.event
        return FormRequest(
            step=found,
            policy=state.outbound_policy,
            external_user_id=state.external_user_id,
            environment=state.environment,
            event=dict(event.data) if event else {},
            exports=state.get_exports(),
            variables=load_variables(state.project, state.folder),
            folder=state.folder,
            action_sources=state.action_sources,
        )

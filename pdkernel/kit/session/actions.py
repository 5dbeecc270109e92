"""
Pre-built actions for a notebook: search, description and prop options.

Prop options depend on the chosen external user, the chosen event and the last exports. No step runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from pdkernel.accounts.apps import load_registered_apps
from pdkernel.actions.component import suggest_step_name as suggest_builder_name
from pdkernel.engine.variables import load_variables
from pdkernel.errors import RequestError
from pdkernel.model import JSON, Step
from pdkernel.operations.actions import (
    ActionForms,
    ActionSearch,
    FormRequest,
    ProgressListener,
    describe_action,
    search_actions,
)
from pdkernel.workers import FIRST_PAGE, OptionsQuery

if TYPE_CHECKING:
    from pdkernel.actions import Component
    from pdkernel.kit.session.session import Session
    from pdkernel.workers import ComponentDescription, PropDeclaration, PropOptionsPage


def _silent(_: str) -> None:
    """Ignore the message."""


def search(
    session: Session,
    words: str,
    *,
    app: str | None = None,
    limit: int | None = None,
    install: bool = True,
    progress: ProgressListener = _silent,
) -> ActionSearch:
    """Return the actions whose key, name or description contains every word: arguments and errors of `search_actions`."""
    catalog = session.catalog
    return session.call_engine(
        lambda _: search_actions(catalog, words, app=app, limit=limit, install=install, progress=progress)
    )


def describe(
    session: Session, uses: str, *, progress: ProgressListener = _silent
) -> tuple[Component, ComponentDescription]:
    """Return an action and its declared props. Raises the errors of `describe_action`."""
    catalog = session.catalog
    return session.call_engine(lambda engine: describe_action(engine, uses, catalog=catalog, progress=progress))


def fetch_options(
    session: Session,
    step: Step | str,
    prop: str,
    *,
    values: Mapping[str, JSON] | None = None,
    query: OptionsQuery = FIRST_PAGE,
) -> PropOptionsPage:
    """
    Return a page of options for *prop* of an action step, loaded with the chosen external user's account.

    Args:
        session: The notebook's workflow, settings and project.
        step: The step, or its name.
        prop: The prop's name.
        values: Prop values that replace the step's own; None for the step's own.
        query: The page, and the search text.

    Raises:
        UnknownStepError: The workflow has no such step.
        RequestError: The step is not an action.
        ActionNotFoundError: No source has the step's action.
    """
    request = _build_form_request(session, step, values)
    return session.call_engine(lambda engine: ActionForms(engine).load_options(request, prop, query))


def fetch_additional_props(
    session: Session, step: Step | str, *, values: Mapping[str, JSON] | None = None
) -> tuple[PropDeclaration, ...]:
    """Return the props that the step's action adds for *values*. Raises the errors of `fetch_options`, and `StepError`."""
    request = _build_form_request(session, step, values)
    return session.call_engine(lambda engine: ActionForms(engine).load_additional_props(request))


def list_apps(session: Session) -> tuple[str, ...]:
    """Return the slugs of the apps of accounts, steps and components, and of registered apps; sorted."""
    known = {account.app for account in session.directory.accounts()} | set(session.find_needed_apps())
    return tuple(sorted(known | set(load_registered_apps(session.project)) | set(session.catalog.list_apps())))


def suggest_step_name(session: Session, key: str) -> str:
    """Return a free step name for the action *key*: the name of Pipedream's builder, numbered if taken."""
    taken = {entry.name for entry in session.workflow.all_entries}
    base = name = suggest_builder_name(key)
    number = 1
    while name in taken:
        name = f"{base}_{number}"
        number += 1
    return name


def _build_form_request(session: Session, step: Step | str, values: Mapping[str, JSON] | None) -> FormRequest:
    found = session.workflow.step(step) if isinstance(step, str) else step
    if found.uses is None:
        raise RequestError(
            f"Step {found.name} is a code step, and code steps have no form.", fix="Name a step with --uses."
        )
    if values is not None:
        found = replace(found, props=dict(values))
    event = session.event
    return FormRequest(
        step=found,
        policy=session.outbound_policy,
        external_user_id=session.external_user_id,
        environment=session.environment,
        event=dict(event.data) if event else {},
        exports=session.get_exports(),
        variables=load_variables(session.project, session.folder),
        folder=session.folder,
        action_sources=session.action_sources,
    )

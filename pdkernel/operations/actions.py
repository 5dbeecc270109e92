"""Pre-built actions: the search, and an action's description. `actions` finds the components, the engine reads their props."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pdkernel.actions import ActionReference, Catalog, Component
from pdkernel.actions.npm_source import APPS_ON_NPM
from pdkernel.actions.source_settings import ACCEPT_LICENCE_COMMAND
from pdkernel.common.blocking import run_blocking
from pdkernel.operations.action_forms import ActionForms

if TYPE_CHECKING:
    from pdkernel.engine.workflow_engine import WorkflowEngine
    from pdkernel.workers import ComponentDescription

ProgressListener = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ActionSearch:
    """
    The result of a search.

    Attributes:
        components: The actions, best match first.
        advice: Without a match, a sentence that reports it and how to find more; else empty.
    """

    components: tuple[Component, ...]
    advice: str = ""


async def search_actions(
    catalog: Catalog,
    words: str,
    *,
    app: str | None = None,
    limit: int | None = None,
    install: bool = True,
    progress: ProgressListener = lambda _: None,
) -> ActionSearch:
    """
    Actions of *catalog*, of *app* or of all apps, whose key, name or description contains every word; at most *limit*.

    With *install* False, no package of *app* is downloaded for the search.

    Raises:
        ActionSourceError: npm or Pipedream is unreachable.
        LicenceError: *app* comes from npm, whose licence is not accepted.
    """
    found = await catalog.search(words, app=app, limit=limit, install=install, progress=progress)
    return ActionSearch(tuple(found), "" if found else await run_blocking(_build_advice, catalog, app))


def _build_advice(catalog: Catalog, app: str | None) -> str:
    if not catalog.settings.sources or catalog.settings.is_licence_missing:
        more = f"npm has {app}" if app in APPS_ON_NPM else "For more"
        return f"No action matches: this project runs built-in actions only. {more}: {ACCEPT_LICENCE_COMMAND}"
    if catalog.settings.has_source("npm") and app is None:
        return "No action matches in the apps that were used before. To search another app: --app SLUG"
    return "No action matches."


async def describe_action(
    engine: WorkflowEngine, uses: str, *, catalog: Catalog | None = None, progress: ProgressListener = lambda _: None
) -> tuple[Component, ComponentDescription]:
    """
    The action `KEY[@VERSION]` and its declared props; the action is installed if necessary.

    Args:
        engine: The engine whose workers load the action's module.
        uses: The action's key, and its version or the newest.
        catalog: The actions of a notebook; None for the project's actions.
        progress: Called with lines about the installation.

    Raises:
        ActionNotFoundError: No source has the action.
        ActionSourceError: The action's source is unreachable.
        StepError: The action's module cannot be loaded.
    """
    return await ActionForms(engine).describe(ActionReference.parse(uses), catalog=catalog, progress=progress)

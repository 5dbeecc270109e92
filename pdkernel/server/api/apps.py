"""
Routes of apps, and of the project: a server has exactly one.

The list of apps has the apps of accounts and components, and those that a user of Connect Link can choose. pdkernel does not have a list
of all apps of Pipedream.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pdkernel.actions import Catalog
from pdkernel.actions.component import ComponentKind
from pdkernel.actions.source_lookup import load_builtin_actions
from pdkernel.common.blocking import run_blocking
from pdkernel.model import JSON, get_app_slug
from pdkernel.render.apps import format_app_name
from pdkernel.server.api.api_call import ApiCall, ApiError, Page
from pdkernel.server.app_context import AppContext
from pdkernel.server.app_serializers import derive_app_id, list_offered_apps, resolve_slug, serialize_app

_SORTS: dict[str, Callable[[str], Any]] = {"name": format_app_name, "name_slug": str, "featured_weight": str}


async def list_apps(call: ApiCall) -> JSON:
    """Answer `GET /v1/connect/apps`."""
    slugs = await run_blocking(_search_apps, call)
    key = call.query_param("sort_key") or "name_slug"
    if key not in _SORTS:
        raise ApiError(400, f"sort_key must be one of {', '.join(_SORTS)}.")
    slugs.sort(key=_SORTS[key], reverse=call.query_param("sort_direction") == "desc")
    page = Page(call, slugs, str)
    return page.to_json(await run_blocking(lambda: [serialize_app(call.context, slug) for slug in page.items]))


async def retrieve(call: ApiCall) -> JSON:
    """Answer `GET /v1/connect/apps/{app_id}`, by id or slug."""
    slug = await resolve_app_slug(call, call.path_param("app_id"))
    if slug not in await run_blocking(list_known_apps, call.context):
        raise ApiError(404, f"This project has no app {slug!r}.")
    return {"data": await run_blocking(serialize_app, call.context, slug)}


async def list_categories(_: ApiCall) -> JSON:
    """Answer `GET /v1/connect/app_categories`: always empty."""
    return []


async def retrieve_category(call: ApiCall) -> JSON:
    """Answer `GET /v1/connect/app_categories/{id}`."""
    raise ApiError(
        404, f"There is no category {call.path_param('category_id')[:80]!r}: pdkernel's apps have no categories."
    )


async def resolve_app_slug(call: ApiCall, text: str) -> str:
    """Return the slug for *text*, an app's id or slug; an unknown id is returned unchanged."""
    return await run_blocking(resolve_slug, text, lambda: list_known_apps(call.context))


def list_known_apps(context: AppContext) -> set[str]:
    """Return the slugs of the apps in the list."""
    offered = {*context.directory.connected_apps(), *list_offered_apps(context)}
    return offered | _apps_with_components(context.engine.catalog)


def _search_apps(call: ApiCall) -> list[str]:
    catalog = call.context.engine.catalog
    words = (call.query_param("q") or "").lower()
    kinds: Mapping[str, ComponentKind | None] = {
        "has_actions": "action",
        "has_triggers": "source",
        "has_components": None,
    }
    filters = [  # a checkout has thousands of apps, and each list of them takes many milliseconds
        (_apps_with_components(catalog, kind), flag)
        for name, kind in kinds.items()
        if (flag := call.query_flag(name)) is not None
    ]
    return [
        slug
        for slug in list_known_apps(call.context)
        if (words in slug or words in format_app_name(slug).lower())
        and all((slug in slugs) is flag for slugs, flag in filters)
        and call.query_param("category_ids") is None
    ]


def _apps_with_components(catalog: Catalog, kind: ComponentKind | None = None) -> set[str]:
    """Return the apps with components of *kind*, or of any kind; the built-in components are actions."""
    own = load_builtin_actions() if kind != "source" else ()
    return {*map(get_app_slug, own), *catalog.list_apps(kind)}


async def list_project_apps(call: ApiCall) -> JSON:
    """Answer `GET .../projects/info`: the project's apps."""
    slugs = sorted(await run_blocking(list_known_apps, call.context))
    return {"apps": [{"id": derive_app_id(slug), "name_slug": slug} for slug in slugs]}


async def list_projects(call: ApiCall) -> JSON:
    """Answer `GET /v1/connect/projects`."""
    page = Page(call, [_serialize_project(call)], lambda project: str(project["id"]))
    return page.to_json(page.items)


async def retrieve_project(call: ApiCall) -> JSON:
    """Answer `GET /v1/connect/projects/{id}`."""
    project = _serialize_project(call)
    if call.path_param("requested_id") != project["id"]:
        raise ApiError(
            404, f"This server has no project {call.path_param('requested_id')[:40]!r}, only {project['id']}."
        )
    return project


def _serialize_project(call: ApiCall) -> dict[str, Any]:
    return {
        "id": call.context.directory.project_id,
        "name": call.context.project.folder.parent.name or "pdkernel",
        "app_name": None,
        "support_email": None,
        "connect_require_key_auth_test": False,
    }

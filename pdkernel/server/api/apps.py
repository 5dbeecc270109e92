"""
Apps: those that this project knows of.

Knows that there is no list of all apps here: known are those of accounts and components, those that the project was told
of, and those whose credentials' names pdkernel knows. An app of any other slug can be read, not found in the list.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pdkernel.actions import Catalog
from pdkernel.actions.component import Kind
from pdkernel.actions.keys import app_of
from pdkernel.connect.apps import told_apps
from pdkernel.connect.fields import FIELDS
from pdkernel.model import JSON
from pdkernel.server.api.door import ApiError, Call
from pdkernel.server.api.pages import Page
from pdkernel.server.app_shapes import app_json, app_name, slug_among
from pdkernel.server.serving import Serving

_SORTS: dict[str, Callable[[str], Any]] = {"name": app_name, "name_slug": str, "featured_weight": str}


async def list_apps(call: Call) -> JSON:
    """`GET /v1/connect/apps`."""
    slugs = await call.ask(_found, call)
    key = call.query("sort_key") or "name_slug"
    if key not in _SORTS:
        raise ApiError(400, f"sort_key is one of {', '.join(_SORTS)}.")
    slugs.sort(key=_SORTS[key], reverse=call.query("sort_direction") == "desc")
    page = Page(call, slugs, str)
    return page.answer(await call.ask(lambda: [app_json(call.serving, slug) for slug in page.items]))


async def retrieve(call: Call) -> JSON:
    """`GET /v1/connect/apps/{app_id}`, by id or slug."""
    slug = await slug_of(call, call.path("app_id"))
    if slug not in await call.ask(known_apps, call.serving):
        raise ApiError(404, f"There is no app {slug!r} that this project knows of.")
    return {"data": await call.ask(app_json, call.serving, slug)}


async def list_categories(_: Call) -> JSON:
    """`GET /v1/connect/app_categories`: there are none here."""
    return []


async def retrieve_category(call: Call) -> JSON:
    """`GET /v1/connect/app_categories/{id}`."""
    raise ApiError(404, f"There is no category {call.path('category_id')[:80]!r}: apps have none here.")


async def slug_of(call: Call, text: str) -> str:
    """The slug of the app whose id or slug *text* is; an id that no app has stays what it is."""
    return await call.ask(slug_among, text, lambda: known_apps(call.serving))


def known_apps(serving: Serving) -> set[str]:
    """Slugs of the apps that the project knows of."""
    project = serving.project
    catalog = serving.runtime.catalog
    connected = set(serving.directory.account_apps())
    return connected | set(told_apps(project)) | set(FIELDS) | _having(catalog, "action") | _having(catalog, "source")


def _found(call: Call) -> list[str]:
    catalog = call.serving.runtime.catalog
    actions, sources = _having(catalog, "action"), _having(catalog, "source")
    words = (call.query("q") or "").lower()
    wanted = (("has_actions", actions), ("has_triggers", sources), ("has_components", actions | sources))
    return [
        slug
        for slug in known_apps(call.serving)
        if (words in slug or words in app_name(slug).lower())
        and all((slug in having) is flag for name, having in wanted if (flag := call.flag(name)) is not None)
        and call.query("category_ids") is None
    ]


def _having(catalog: Catalog, kind: Kind) -> set[str]:
    return {app_of(component.key) for component in catalog.known(kind=kind)}

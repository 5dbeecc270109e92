"""The project as the API knows it: one, which nobody makes or removes here."""

from __future__ import annotations

from typing import Any

from pdkernel.model import JSON
from pdkernel.server.api.apps import known_apps
from pdkernel.server.api.door import ApiError, Call
from pdkernel.server.api.pages import Page
from pdkernel.server.app_shapes import app_id


async def info(call: Call) -> JSON:
    """`GET .../projects/info`: the project's apps."""
    slugs = sorted(await call.ask(known_apps, call.serving))
    return {"apps": [{"id": app_id(slug), "name_slug": slug} for slug in slugs]}


async def list_projects(call: Call) -> JSON:
    """`GET /v1/connect/projects`."""
    page = Page(call, [_project(call)], lambda project: str(project["id"]))
    return page.answer(page.items)


async def retrieve(call: Call) -> JSON:
    """`GET /v1/connect/projects/{id}`."""
    project = _project(call)
    if call.path("wanted") != project["id"]:
        raise ApiError(404, f"There is no project {call.path('wanted')[:40]!r} here; it is {project['id']}.")
    return project


def _project(call: Call) -> dict[str, Any]:
    return {
        "id": call.serving.directory.project_id,
        "name": call.serving.project.folder.parent.name or "pdkernel",
        "app_name": None,
        "support_email": None,
        "connect_require_key_auth_test": False,
    }

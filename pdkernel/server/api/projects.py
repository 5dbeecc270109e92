"""Routes of projects: the server has exactly one project."""

from __future__ import annotations

from typing import Any

from pdkernel.blocking import run_blocking
from pdkernel.model import JSON
from pdkernel.server.api.api_call import ApiCall, ApiError
from pdkernel.server.api.apps import list_known_apps
from pdkernel.server.api.pagination import Page
from pdkernel.server.app_serializers import derive_app_id


async def info(call: ApiCall) -> JSON:
    """`GET .../projects/info`: the project's apps."""
    slugs = sorted(await run_blocking(list_known_apps, call.context))
    return {"apps": [{"id": derive_app_id(slug), "name_slug": slug} for slug in slugs]}


async def list_projects(call: ApiCall) -> JSON:
    """`GET /v1/connect/projects`."""
    page = Page(call, [_project(call)], lambda project: str(project["id"]))
    return page.to_json(page.items)


async def retrieve(call: ApiCall) -> JSON:
    """`GET /v1/connect/projects/{id}`."""
    project = _project(call)
    if call.path_param("requested_id") != project["id"]:
        raise ApiError(
            404, f"This server has no project {call.path_param('requested_id')[:40]!r}, only {project['id']}."
        )
    return project


def _project(call: ApiCall) -> dict[str, Any]:
    return {
        "id": call.context.directory.project_id,
        "name": call.context.project.folder.parent.name or "pdkernel",
        "app_name": None,
        "support_email": None,
        "connect_require_key_auth_test": False,
    }

"""Routes of projects."""

from __future__ import annotations

from tests.server.served import Served


async def test_the_project_and_its_apps(site: Served) -> None:
    """The server has exactly one project; `info` has its apps."""
    info = (await site.call("GET", "/projects/info")).json()
    listed = (await site.call("GET", "/v1/connect/projects")).json()["data"]
    one = (await site.call("GET", f"/v1/connect/projects/{site.project.project_id}")).json()

    assert {"slack", "github"} <= {app["name_slug"] for app in info["apps"]}
    assert [project["id"] for project in listed] == [one["id"]] == [site.project.project_id]
    assert (await site.call("GET", "/v1/connect/projects/proj_other")).status_code == 404

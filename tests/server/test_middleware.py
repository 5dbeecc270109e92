"""The Host check and the routing of endpoints."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders import a_workflow, python_step
from tests.server.endpoint.conftest import ECHO
from tests.server.site import site_of


async def test_an_unknown_host_is_rejected_at_every_path(tmp_path: Path) -> None:
    """A request with an unknown Host is answered 421, and starts no run."""
    async with site_of(tmp_path, a_workflow(python_step())) as site:
        paths = [site.path(), "/-/live", "/-/runs/x", "/v1/oauth/token"]
        answers = [await site.http.post(path, headers={"host": "evil.example"}) for path in paths]
        runs = await site.runs()

    assert [answer.status_code for answer in answers] == [421] * 4
    assert runs == []


async def test_a_line_break_in_a_path(tmp_path: Path) -> None:
    """A path with an encoded line break matches the same routes as any other path."""
    async with site_of(tmp_path, a_workflow(python_step("echo", ECHO), response="custom")) as site:
        event = (await site.http.post(f"{site.path()}/a%0Ab")).json()
        unserved = await site.http.get("/v1/a%0Ab")

    assert event["path"] == "/a\nb"
    assert unserved.status_code == 501


@pytest.mark.parametrize("left", ["/base", ""])
async def test_a_public_url_with_a_path(tmp_path: Path, left: str) -> None:
    """All routes are found, whether the proxy leaves the public URL's path in the request or removes it."""
    workflow = a_workflow(python_step("echo", ECHO), response="custom")
    host = {"host": "flows.example.com"}
    async with site_of(tmp_path, workflow, base_url="https://flows.example.com/base") as site:
        event = (await site.http.get(f"{left}{site.path()}/a?n=1", headers=host)).json()
        mangled = (await site.http.get(f"{left}/https:{site.path()}.m.pipedream.net/b", headers=host)).json()
        statuses = [
            (await site.http.request(method, left + path, headers=host)).status_code
            for method, path in (("GET", "/-/live"), ("GET", "/-/runs/x"), ("POST", "/v1/oauth/token"))
        ]
        foreign = await site.http.get(f"/based{site.path()}", headers=host)
        file = (await site.http.post(left + site.path(), files={"f": b"data"}, headers=host)).json()["body"]["f"]
        kept = await site.http.get(left + file["url"].removeprefix("https://flows.example.com/base"), headers=host)

    assert (event["path"], event["url"]) == ("/a", f"http://flows.example.com{left}{site.path()}/a?n=1")
    assert mangled["path"] == "/b"
    assert statuses == [200, 401, 401]
    assert foreign.json()["path"] == "/"
    assert kept.content == b"data"

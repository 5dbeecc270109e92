"""Endpoints by path, by host name, and by the URL that some SDKs send as the path."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pdkernel.engine.run_context import derive_id
from pdkernel.model import Trigger
from tests.builders import a_workflow, python_step
from tests.server.site import Site, site_of


async def event_of(site: Site, path: str, **request: Any) -> dict[str, Any]:
    """The event that a POST to *path* causes."""
    answer = await site.http.post(path, **request)
    assert answer.status_code == 200, answer.text
    event: dict[str, Any] = answer.json()
    return event


async def test_a_key_in_the_path(echo: Site) -> None:
    """The event's path is the rest after the key."""
    event = await event_of(echo, f"{echo.path()}/orders/a%20b?x=1&y=2&y=3")

    assert event["path"] == "/orders/a b"
    assert event["query"] == {"x": "1", "y": ["2", "3"]}
    assert event["url"] == f"{echo.url}{echo.path()}/orders/a%20b?x=1&y=2&y=3"


@pytest.mark.parametrize("before", ["", "/wf", "/a/b"])
async def test_a_key_below_other_segments(echo: Site, before: str) -> None:
    """The key may be below other segments of the path, in any case."""
    event = await event_of(echo, before + echo.path().upper())

    assert event["path"] == "/"


@pytest.mark.parametrize(("depth", "status"), [(7, 200), (8, 404)])
async def test_the_key_is_among_the_first_segments(echo: Site, depth: int, status: int) -> None:
    """The first eight segments of a path are searched for the key."""
    answer = await echo.http.post("/x" * depth + echo.path())

    assert answer.status_code == status


@pytest.mark.parametrize("domain", ["m.pipedream.net", "localhost", "M.PIPEDREAM.NET:443"])
async def test_a_key_in_the_host_name(echo: Site, domain: str) -> None:
    """With the key in the host name, the whole path is the event's path."""
    event = await event_of(echo, "/v1/orders", headers={"host": f"{echo.key()}.{domain}"})

    assert event["path"] == "/v1/orders"
    assert event["url"] == f"http://{echo.key()}.{domain}/v1/orders"


async def test_a_forwarded_host_without_a_key_is_not_that_of_the_event(echo: Site) -> None:
    """The URL of an event has the host of the request, and not one that a client has written into x-forwarded-host."""
    event = await event_of(echo, f"{echo.path()}/hook", headers={"x-forwarded-host": "evil.example"})

    assert "evil.example" not in event["url"]
    assert event["path"] == "/hook"


async def test_a_key_in_the_host_comes_before_the_forwarded_host(echo: Site) -> None:
    """If both headers name an endpoint, that of the host gets the request."""
    host = f"{echo.key()}.localhost"
    event = await event_of(
        echo, "/hook", headers={"host": host, "x-forwarded-host": "eoanother0000001.m.pipedream.net"}
    )

    assert event["path"] == "/hook"


async def test_a_key_in_the_forwarded_host(echo: Site) -> None:
    """A shim in front of an SDK sends the host in x-forwarded-host."""
    event = await event_of(echo, "/hook", headers={"x-forwarded-host": f"{echo.key()}.m.pipedream.net"})

    assert event["path"] == "/hook"


@pytest.mark.parametrize(
    ("mangled", "path", "query"),
    [
        ("/https:/{key}.m.pipedream.net", "/", {}),
        ("/https://{key}.m.pipedream.net/sub/path", "/sub/path", {}),
        ("/http:/127.0.0.1:1/wf/{key}", "/", {}),
        ("/http:/127.0.0.1:1/{key}/sub?q=1", "/sub", {"q": "1"}),
        ("/http:/127.0.0.1:1/{key}%3Fq=1&r=2", "/", {"q": "1", "r": "2"}),
        ("/https%3A//{key}.m.pipedream.net/x", "/x", {}),
    ],
)
async def test_a_url_as_the_path(echo: Site, mangled: str, path: str, query: dict[str, str]) -> None:
    """Python SDKs 1.1.12 to 2.3.0 append the whole URL to the base of the API."""
    event = await event_of(echo, mangled.format(key=echo.key()))

    assert (event["path"], event["query"]) == (path, query)


@pytest.mark.parametrize(
    "path",
    ["/{id}", "/a/{id}", "/http:/127.0.0.1:1/{id}", "/https:/{id}.m.pipedream.net/", "/https%3A//{id}.localhost"],
)
async def test_a_workflow_id_in_a_path_is_not_an_endpoint(echo: Site, path: str) -> None:
    """A workflow's id in a path is answered 404, and starts no run."""
    (served,) = echo.context.workflows.list_workflows()
    for known in (served.id, derive_id("p_", served.source.workflow.name)):
        answer = await echo.http.post(path.format(id=known))
        assert answer.status_code == 404

    assert await echo.runs() == []


async def test_a_workflow_id_in_a_host_name_is_not_an_endpoint(echo: Site) -> None:
    """A host name that begins with a workflow's id is answered 404."""
    (served,) = echo.context.workflows.list_workflows()
    for known in (served.id, derive_id("p_", served.source.workflow.name)):
        answer = await echo.http.post("/", headers={"host": f"{known}.m.pipedream.net"})
        assert answer.status_code == 404

    assert await echo.runs() == []


@pytest.mark.parametrize("path", ["/", "/eonothing", "/https:/eonothing.m.pipedream.net", "/http:/", "/https:/x/%ff"])
async def test_an_unknown_path_is_not_found(echo: Site, path: str) -> None:
    """A path without an endpoint is answered 404, and starts no run."""
    answer = await echo.http.post(path)

    assert answer.status_code == 404
    assert await echo.runs() == []


async def test_a_workflow_without_an_http_trigger_has_no_endpoint(tmp_path: Path) -> None:
    """A workflow with a schedule only is answered 404."""
    workflow = replace(a_workflow(python_step()), triggers=(Trigger("schedule"),))
    async with site_of(tmp_path, workflow) as site:
        answer = await site.http.post(site.path())

    assert answer.status_code == 404

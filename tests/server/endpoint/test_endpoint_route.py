"""An endpoint is reached by path, by host, and by the path that some SDKs make of its URL."""

from __future__ import annotations

from typing import Any

import pytest

from pdkernel.engine.run_context import derive_id
from tests.builders import a_workflow, python_step
from tests.server.site import Site


async def event_of(site: Site, path: str, **request: Any) -> dict[str, Any]:
    """The event that a POST to *path* starts the workflow with."""
    answer = await site.http.post(path, **request)
    assert answer.status_code == 200, answer.text
    event: dict[str, Any] = answer.json()
    return event


async def test_by_path(echo: Site) -> None:
    """The key in the path; what comes after it is the event's path."""
    event = await event_of(echo, f"{echo.path()}/orders/a%20b?x=1&y=2&y=3")

    assert event["path"] == "/orders/a b"
    assert event["query"] == {"x": "1", "y": ["2", "3"]}
    assert event["url"] == f"{echo.url}{echo.path()}/orders/a%20b?x=1&y=2&y=3"


@pytest.mark.parametrize("before", ["", "/wf", "/a/b"])
async def test_key_below_other_parts(echo: Site, before: str) -> None:
    """The key may stand below other parts of a path, in any case."""
    event = await event_of(echo, before + echo.path().upper())

    assert event["path"] == "/"


@pytest.mark.parametrize("domain", ["m.pipedream.net", "localhost", "M.PIPEDREAM.NET:443"])
async def test_by_host(echo: Site, domain: str) -> None:
    """The key in the host's name; then the whole path is the event's."""
    event = await event_of(echo, "/v1/orders", headers={"host": f"{echo.key()}.{domain}"})

    assert event["path"] == "/v1/orders"
    assert event["url"] == f"http://{echo.key()}.{domain}/v1/orders"


async def test_by_forwarded_host(echo: Site) -> None:
    """A shim in front of an SDK says the host in x-forwarded-host."""
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
async def test_by_mangled_path(echo: Site, mangled: str, path: str, query: dict[str, str]) -> None:
    """Python SDKs 1.1.12 to 2.3.0 append the whole URL to the base of the API."""
    event = await event_of(echo, mangled.format(key=echo.key()))

    assert (event["path"], event["query"]) == (path, query)


@pytest.mark.parametrize(
    "path",
    ["/{id}", "/a/{id}", "/http:/127.0.0.1:1/{id}", "/https:/{id}.m.pipedream.net/", "/https%3A//{id}.localhost"],
)
async def test_a_workflow_id_opens_nothing(echo: Site, path: str) -> None:
    """A workflow's id in a path is 404, and starts nothing: neither the one that it has nor one made from its name."""
    (served,) = echo.context.workflows.list_workflows()
    for known in (served.id, derive_id("p_", served.source.workflow.name)):
        answer = await echo.http.post(path.format(id=known))
        assert answer.status_code == 404

    assert await echo.runs() == []


async def test_a_workflow_id_as_a_host_opens_nothing(echo: Site) -> None:
    """A host that begins with a workflow's id is no endpoint."""
    (served,) = echo.context.workflows.list_workflows()
    for known in (served.id, derive_id("p_", served.source.workflow.name)):
        answer = await echo.http.post("/", headers={"host": f"{known}.m.pipedream.net"})
        assert answer.status_code == 404

    assert await echo.runs() == []


@pytest.mark.parametrize("path", ["/", "/eonothing", "/https:/eonothing.m.pipedream.net", "/http:/", "/https:/x/%ff"])
async def test_unknown(echo: Site, path: str) -> None:
    """What is no endpoint is 404, and starts nothing."""
    answer = await echo.http.post(path)

    assert answer.status_code == 404
    assert await echo.runs() == []


async def test_no_http_trigger(serve: Any, tmp_path: Any) -> None:
    """A workflow that no request starts has no endpoint."""
    from dataclasses import replace

    from pdkernel.model import Trigger
    from tests.server.site import site_of

    workflow = replace(a_workflow(python_step()), triggers=(Trigger("schedule"),))
    async with site_of(tmp_path, workflow) as site:
        answer = await site.http.post(site.path())

    assert answer.status_code == 404

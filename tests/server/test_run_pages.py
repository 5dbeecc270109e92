"""Run pages, cancel URLs and health checks."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from tests.builders import a_workflow, python_step
from tests.server.site import site_of

ADMIN = "a-token-of-the-admin"


async def test_run_page(tmp_path: Path) -> None:
    """The page shows the run with escaped output, and loads no resources; JSON is available too."""
    workflow = a_workflow(python_step("talk", "print('<script>alert(1)</script>')"))
    async with site_of(tmp_path, workflow) as site:
        run_id = (await site.http.post(site.path())).json()["event_id"]
        await site.runs()
        page = await site.http.get(f"/-/runs/{run_id}")
        as_json = await site.http.get(f"/-/runs/{run_id}", headers={"accept": "application/json"})
        none = await site.http.get("/-/runs/nothing")

    assert page.status_code == 200
    assert "talk" in page.text
    assert "<script>" not in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert (as_json.json()["id"], as_json.json()["status"]) == (run_id, "success")
    assert none.status_code == 404


async def test_a_run_page_behind_a_proxy_requires_the_admin_token(tmp_path: Path) -> None:
    """Behind a proxy the page requires the admin token, as a bearer token or as the password."""
    behind = {"x-forwarded-for": "1.1.1.1"}
    async with site_of(
        tmp_path, a_workflow(python_step()), admin_token_hash=hashlib.sha256(ADMIN.encode()).digest()
    ) as site:
        run_id = (await site.http.post(site.path())).json()["event_id"]
        await site.runs()

        async def status(**headers: str) -> int:
            return (await site.http.get(f"/-/runs/{run_id}", headers={**behind, **headers})).status_code

        refused = [await status(), await status(Authorization="Bearer wrong"), await status(Authorization=ADMIN)]
        shown = await status(Authorization=f"Bearer {ADMIN}")
        browser = await site.http.get(f"/-/runs/{run_id}", headers=behind, auth=("any-user", ADMIN))

    assert refused == [401, 401, 401]
    assert (shown, browser.status_code) == (200, 200)


@pytest.mark.parametrize("settings", [{"base_url": "https://flows.example.com"}, {"trusted_proxies": ("10.0.0.0/8",)}])
async def test_a_run_page_with_a_public_url_requires_the_admin_token(tmp_path: Path, settings: dict[str, Any]) -> None:
    """With a public URL or trusted proxies, a request from loopback does not count as local."""
    async with site_of(tmp_path, a_workflow(python_step()), **settings) as site:
        await site.http.post(site.path())
        (run,) = await site.runs()
        answer = await site.http.get(f"/-/runs/{run.id}")

    assert answer.status_code == 401


async def test_without_an_admin_token_run_pages_are_local(tmp_path: Path) -> None:
    """If no admin token is set, an empty token does not open run pages."""
    async with site_of(tmp_path, a_workflow(python_step())) as site:
        answer = await site.http.get("/-/runs/x", headers={"x-forwarded-for": "1.1.1.1", "authorization": "Bearer"})

    assert answer.status_code == 401


async def test_health_checks(tmp_path: Path) -> None:
    """The server is live and ready."""
    async with site_of(tmp_path) as site:
        live = await site.http.get("/-/live")
        ready = await site.http.get("/-/ready")

    assert (live.status_code, ready.status_code) == (200, 200)


async def test_the_cancel_url_ends_a_run(tmp_path: Path) -> None:
    """A suspended step's cancel_url cancels the run once; the resume_url is answered 501."""
    workflow = a_workflow(
        python_step("waits", "pd.respond(status=200, body=pd.flow.suspend(60000), immediate=True)"), response="custom"
    )
    async with site_of(tmp_path, workflow) as site:
        urls = (await site.http.post(site.path())).json()
        resumed = await site.http.post(urls["resume_url"])
        cancelled = [(await site.http.get(urls["cancel_url"])).status_code for _ in range(2)]
        (run,) = await site.runs()

    assert urls["cancel_url"].startswith(site.url)
    assert resumed.status_code == 501
    assert cancelled == [200, 404]
    assert run.status == "cancelled"

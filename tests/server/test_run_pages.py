"""The server's own pages, and its end."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import pytest

from tests.builders import a_workflow, python_step
from tests.server.site import site_of

ADMIN = "a-token-of-the-admin"


async def test_run_page(tmp_path: Path) -> None:
    """A run is shown to this machine, with what steps printed escaped and nothing to load."""
    workflow = a_workflow(python_step("talk", "print('<script>alert(1)</script>')"))
    async with site_of(tmp_path, workflow) as site:
        run_id = (await site.http.post(site.path())).json()["event_id"]
        await site.runs()
        page = await site.http.get(f"/-/runs/{run_id}")
        told = await site.http.get(f"/-/runs/{run_id}", headers={"accept": "application/json"})
        none = await site.http.get("/-/runs/nothing")

    assert page.status_code == 200
    assert "talk" in page.text
    assert "<script>" not in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert (told.json()["id"], told.json()["status"]) == (run_id, "success")
    assert none.status_code == 404


async def test_run_page_for_others(tmp_path: Path) -> None:
    """Behind a proxy a run is shown with the admin token only."""
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
        browser = await site.http.get(f"/-/runs/{run_id}", headers=behind, auth=("anybody", ADMIN))

    assert refused == [401, 401, 401]
    assert (shown, browser.status_code) == (200, 200)


@pytest.mark.parametrize("settings", [{"base_url": "https://flows.example.com"}, {"trusted_proxies": ("10.0.0.0/8",)}])
async def test_run_page_where_a_proxy_is_meant(tmp_path: Path, settings: dict[str, Any]) -> None:
    """A proxy on this machine that rewrites Host and adds nothing (nginx's default) shows no runs to the world."""
    async with site_of(tmp_path, a_workflow(python_step()), **settings) as site:
        await site.http.post(site.path())
        (run,) = await site.runs()
        answer = await site.http.get(f"/-/runs/{run.id}")

    assert answer.status_code == 401


async def test_without_an_admin_token_nobody_else_sees_runs(tmp_path: Path) -> None:
    """No token is not an empty token."""
    async with site_of(tmp_path, a_workflow(python_step())) as site:
        answer = await site.http.get("/-/runs/x", headers={"x-forwarded-for": "1.1.1.1", "authorization": "Bearer"})

    assert answer.status_code == 401


async def test_health(tmp_path: Path) -> None:
    """Alive and ready; not ready once told to stop."""
    async with site_of(tmp_path) as site:
        live = await site.http.get("/-/live")
        ready = await site.http.get("/-/ready")

    assert (live.status_code, ready.status_code) == (200, 200)


async def test_stop_lets_runs_end(tmp_path: Path) -> None:
    """A caller that waits gets its answer after the server was told to stop."""
    workflow = a_workflow(
        python_step("slow", "import time; time.sleep(1); pd.respond(status=200, body='made')"), response="custom"
    )
    async with site_of(tmp_path, workflow) as site:
        asked = asyncio.ensure_future(site.http.post(site.path()))
        await asyncio.sleep(0.5)
        site.server.stop()
        answer = await asked

    assert answer.text == "made"


async def test_stop_at_once_cancels_with_a_record(tmp_path: Path) -> None:
    """Told twice, what is under way is cancelled, and its record says so."""
    workflow = a_workflow(python_step("slow", "import time; time.sleep(60)"))
    async with site_of(tmp_path, workflow) as site:
        await site.http.post(site.path())
        site.server.force_exit = True
        site.server.stop()
        (run,) = await site.runs()

    assert run.status == "cancelled"


async def test_cancel_url(tmp_path: Path) -> None:
    """Whoever has a suspended step's cancel_url can end the run; resuming says that it is not there."""
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

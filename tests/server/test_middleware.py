"""The Host check, the routing of endpoints, and requests without a database."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from pdkernel.model import Workflow
from pdkernel.server.source_workflows import RELOAD_INTERVAL_S
from tests.builders import a_workflow, python_step
from tests.durability.database_proxy import DatabaseProxy, proxy_of
from tests.postgres import PostgresServer, stopping_postgres
from tests.server.endpoint.conftest import ECHO
from tests.server.site import Site, site_of


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


ROUTES = [
    ("POST", "{endpoint}", {}),
    ("GET", "{endpoint}", {"accept": "text/html"}),
    ("GET", "/en0123456789abcdef/x", {}),
    ("GET", "/-/", {"accept": "text/html"}),
    ("GET", "/-/runs", {"accept": "application/json"}),
    ("GET", "/-/runs/x/resume/1/x", {}),
    ("POST", "/-/login", {"accept": "text/html"}),
    ("POST", "/v1/oauth/token", {}),
    ("GET", "/v1/connect/{project}/accounts", {"authorization": "Bearer token"}),
    ("GET", "/v1/connect/{project}/accounts", {"authorization": "Bearer ctok_0123456789012345678901"}),
    ("POST", "/v1/connect/tokens/ctok_01234567890123456789/validate", {}),
]


async def answers_of(site: Site) -> list[httpx.Response]:
    """The response of each route."""
    names = {"endpoint": site.path(), "project": site.context.directory.project_id}
    return [
        await site.http.request(
            method, path.format(**names), headers=headers, content=b"a=1" if method == "POST" else b""
        )
        for method, path, headers in ROUTES
    ]


def assert_unavailable(answers: list[httpx.Response], caplog: pytest.LogCaptureFixture) -> None:
    """Every response is a 503 that names a time and no reason; the log has the reason, without a traceback."""
    assert [answer.status_code for answer in answers] == [503] * len(answers)
    assert {answer.headers["retry-after"] for answer in answers} == {"5"}
    assert not any(
        "postgres" in answer.text or ".db" in answer.text or "Traceback" in answer.text for answer in answers
    )
    assert answers[3].headers["content-type"].startswith("text/html")
    assert answers[8].json() == {"error": "The server cannot use the project's database. Send the request again."}
    reported = [record for record in caplog.records if "Requests are answered 503" in record.getMessage()]
    assert len(reported) == 1
    assert [record for record in caplog.records if record.exc_info] == []


async def test_requests_without_a_database_server(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """While PostgreSQL is stopped, every route answers 503; the health checks say so, and all work again after its start."""
    with stopping_postgres() as (postgres, stop, start):
        url, key = postgres.url("postgres"), tmp_path / "key"
        async with site_of(tmp_path, a_workflow(python_step()), database_url=url, key_file=key) as site:
            await asyncio.to_thread(stop, signal.SIGQUIT)
            first = await site.http.post(site.path())
            await asyncio.sleep(RELOAD_INTERVAL_S)
            answers = await answers_of(site)
            health = [await site.http.get(path) for path in ("/-/live", "/-/ready")]
            await asyncio.to_thread(start)
            await site.wait_for_answer("/-/ready", 200)
            again = [(await site.http.get(path)).status_code for path in ("/-/ready", "/-/")]

    assert_unavailable(answers, caplog)
    assert [answer.status_code for answer in health] == [200, 503]
    assert health[1].json() == {"status": "database unavailable"}
    assert (first.status_code, first.headers["retry-after"]) == (503, "5")
    assert again == [200, 401]


async def test_requests_without_a_database_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If the SQLite file cannot be opened any more, every route answers 503."""
    async with site_of(tmp_path, a_workflow(python_step())) as site:
        database = site.context.project.sqlite_path
        assert database is not None
        moved = database.rename(database.with_name("moved.db"))
        site.context.project.disconnect()
        database.mkdir()
        await asyncio.sleep(RELOAD_INTERVAL_S)
        answers = await answers_of(site)
        ready = await site.http.get("/-/ready")
        database.rmdir()
        moved.rename(database)

    assert_unavailable(answers, caplog)
    assert ready.status_code == 503


@pytest.mark.parametrize("fault", ["held", "cut"])
async def test_requests_while_the_database_does_not_answer(
    tmp_path: Path, postgres: PostgresServer, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A database that is silent, or gone, makes every route answer 503 at once; the server lives, and works again after that."""
    async with site_behind_proxy(tmp_path, postgres, a_workflow(python_step())) as (site, proxy):
        if fault == "held":
            proxy.is_held = True
            during = await site.http.post("/v1/oauth/token", data={"a": "1"})  # reads the database when it falls silent
        else:
            proxy.cut()
            during = None
        await site.wait_for_answer("/-/ready", 503)
        answers = await answers_of(site)
        live, ready = [await site.http.get(path) for path in ("/-/live", "/-/ready")]
        proxy.heal()
        await site.wait_for_answer("/-/ready", 200)
        again = await site.http.post(site.path())

    assert during is None or during.status_code == 503
    assert {(answer.status_code, answer.headers["retry-after"]) for answer in (*answers, ready)} == {(503, "5")}
    assert (live.status_code, again.status_code) == (200, 200)
    assert [record for record in caplog.records if record.exc_info] == []


@asynccontextmanager
async def site_behind_proxy(
    folder: Path, postgres: PostgresServer, workflow: Workflow
) -> AsyncIterator[tuple[Site, DatabaseProxy]]:
    """Serve *workflow* with a database behind a proxy."""
    with postgres.new_database() as url, proxy_of(postgres.sockets, url.partition("?")[0].rpartition("/")[2]) as proxy:
        async with site_of(folder, workflow, database_url=proxy.url, key_file=folder / "key") as site:
            yield site, proxy


@pytest.mark.parametrize(("response", "limits"), [("default", {}), ("custom", {"concurrency": 1})])
async def test_an_event_whose_write_the_database_does_not_confirm(
    tmp_path: Path, postgres: PostgresServer, response: str, limits: dict[str, Any]
) -> None:
    """A caller whose event is being written when the database falls silent is told to send again, and that it may be stored."""
    workflow = a_workflow(python_step("echo", ECHO), response=response, **limits)
    async with site_behind_proxy(tmp_path, postgres, workflow) as (site, proxy):
        warm = await site.http.post(site.path())
        proxy.is_held = True
        async with asyncio.timeout(30):
            answer = await site.http.post(site.path())
        proxy.heal()
        await site.wait_for_answer("/-/ready", 200)

    assert warm.status_code == 200
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "may have been stored" in answer.text


async def test_an_event_that_is_sent_again_after_a_silence_of_the_database(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    """An event whose two tries have the same `Idempotency-Key` starts one run, also if the first one was stored after its answer."""
    headers = {"idempotency-key": "a-key"}
    async with site_behind_proxy(tmp_path, postgres, a_workflow(python_step("echo", ECHO))) as (site, proxy):
        await site.http.post(site.path(), json={"n": 0})
        sending = asyncio.create_task(site.http.post(site.path(), json={"n": 1}, headers=headers))
        async with asyncio.timeout(30):
            while not site.registry.active_run_ids:
                await asyncio.sleep(0)
            proxy.is_held = True
            first = await sending
        proxy.heal()
        await site.wait_for_answer("/-/ready", 200)
        again = await site.http.post(site.path(), json={"n": 1}, headers=headers)
        runs = await site.runs()

    assert first.status_code in (200, 503)
    assert again.status_code == 200
    assert len(runs) == 2

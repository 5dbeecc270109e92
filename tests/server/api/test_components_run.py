"""Actions of a Connect token: the hosts and the data stores that they may use."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from pdkernel.egress import Gateway
from pdkernel.journal import mark_dead
from pdkernel.server.run_registry import LOST_MESSAGE
from tests.http_servers import Answer, AnsweringServer, SentRequest, serve
from tests.server.api.test_accounts import bearer, connect_token
from tests.server.served import Served, served

INSIDE, AWAY = "inside.test", "away.test"
PUBLIC = "203.0.114.7"


def respond(request: SentRequest) -> Answer:
    """A service on this machine, which an end user must not reach; `/away?URL` redirects."""
    path, _, url = request.path.partition("?")
    body = b"the service's own data"
    return (302, body, {"location": url}) if path == "/away" else (200, body)


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    """The URL of the service."""
    with serve(AnsweringServer(respond)) as server:
        yield server.url


async def lookup(host: str, port: int) -> Sequence[str]:
    """Resolves a name of this machine, a public name, and addresses."""
    return {INSIDE: ["127.0.0.1"], AWAY: [PUBLIC]}.get(host, [host])


@pytest.fixture(params=["deny", "live"])
async def site(request: pytest.FixtureRequest, tmp_path: Path, service: str) -> AsyncIterator[Served]:
    """Projects with denied and with live outbound calls; the public name AWAY leads to the service."""
    here = ("127.0.0.1", int(service.rpartition(":")[2]))
    gateway = await Gateway.start(tmp_path / "egress", environ={}, host_overrides={(PUBLIC, 80): here}, lookup=lookup)
    async with served(tmp_path, egress=request.param, gateway=gateway) as site:
        yield site


async def send(site: Served, url: str, headers: dict[str, str]) -> httpx.Response:
    """Run ada's HTTP action."""
    body = {
        "external_user_id": "ada",
        "id": "http-custom-request",
        "configured_props": {"httpRequest": {"method": "GET", "url": url}},
    }
    return await site.call("POST", "/actions/run", json=body, headers=headers)


async def run(site: Served, url: str, headers: dict[str, str]) -> Any:
    """Run ada's HTTP action; returns the response."""
    answer = await send(site, url, headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


def error_of(answer: Any) -> str:
    """The error that an action reported."""
    return next(str(each["err"]) for each in answer["os"] if each["k"] == "error")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "2130706433", INSIDE])
async def test_a_connect_token_does_not_reach_this_machine(site: Served, service: str, host: str) -> None:
    """An action of a Connect token gets no response of a service on this machine, by any name and in any mode."""
    url = service.replace("127.0.0.1", host)

    answer = await run(site, url, bearer(connect_token(site)))

    assert answer["ret"] is None
    assert "own data" not in str(answer)
    assert "was not sent" in error_of(answer)


async def test_a_redirect_to_this_machine_is_not_followed(site: Served, service: str) -> None:
    """A redirect of a public host to this machine is refused for a Connect token."""
    answer = await run(site, f"http://{AWAY}/away?{service}", bearer(connect_token(site)))

    assert "own data" not in str(answer)
    assert "was not sent" in error_of(answer)


async def test_an_oauth_client_reaches_this_machine(site: Served, service: str) -> None:
    """An action of the product's back end may call a service on this machine, in each mode."""
    answer = await run(site, service, site.headers())

    assert answer["ret"] == "the service's own data"
    assert answer["os"] == []


async def test_worker_processes_are_not_shared(site: Served, service: str) -> None:
    """A worker of an OAuth client's action is not reused for a Connect token."""
    await run(site, service, site.headers())
    answer = await run(site, service, bearer(connect_token(site)))

    assert "own data" not in str(answer)


async def test_a_connect_token_reaches_public_hosts(site: Served) -> None:
    """A public host is called if the mode is live."""
    answer = await run(site, f"http://{AWAY}/", bearer(connect_token(site)))

    assert (answer["ret"] is None) == (site.context.settings.policy.mode == "deny")


GET = {"id": "data_stores-get-record", "configured_props": {"dataStore": "orders", "key": "a"}}
"""The action that reads the record `a` of the store `orders`."""


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[Served]:
    """A project with records in two data stores, which are closed to Connect tokens."""
    async with served(tmp_path) as site:
        for store in ("orders", "default"):
            site.project.data_stores.set(store, "a", f"kept in {store}")
        yield site


async def run_action(site: Served, body: dict[str, Any], headers: dict[str, str]) -> Any:
    """Run an action of ada."""
    return await site.call("POST", "/actions/run", json={"external_user_id": "ada", **body}, headers=headers)


CLOSED: Sequence[object] = ("orders", {"storeId": "orders"}, "default", None, {}, "", "{{ 'orders' }}", "orders ")
"""Values of the prop that name a store, or the default store."""


@pytest.mark.parametrize("act", ["get-record", "delete-all-records", "add-update-record", "list-records"])
async def test_a_connect_token_uses_no_closed_data_store(stores: Served, act: str) -> None:
    """A closed store, also the default store, is answered 403; no record is read or changed."""
    token = bearer(connect_token(stores))
    for store in CLOSED:
        props = {"dataStore": store, "key": "a", "value": "mine"}
        answer = await run_action(stores, {"id": f"data_stores-{act}", "configured_props": props}, token)

        assert answer.status_code == 403, store
        assert "is not open to Connect tokens" in answer.json()["error"]
        assert "kept in" not in answer.text
        for name in ("orders", "default"):
            record = stores.project.data_stores.find(name, "a")
            assert record is not None, store
            assert record.value == f"kept in {name}", store


async def test_a_data_store_must_be_a_name(stores: Served) -> None:
    """A value that is not a name is answered 400."""
    body = {**GET, "configured_props": {"dataStore": 7, "key": "a"}}

    for headers in (bearer(connect_token(stores)), stores.headers()):
        assert (await run_action(stores, body, headers)).status_code == 400


async def test_a_connect_token_uses_opened_data_stores(stores: Served) -> None:
    """A store that the project's setting names can be read; other stores stay closed."""
    token = bearer(connect_token(stores))
    stores.project.set_connect_data_stores(["orders"])

    opened = await run_action(stores, GET, token)
    other = await run_action(stores, {**GET, "configured_props": {"key": "a"}}, token)
    stores.project.set_connect_data_stores([])
    closed = await run_action(stores, GET, token)

    assert opened.json()["ret"] == "kept in orders"
    assert (other.status_code, closed.status_code) == (403, 403)


async def test_an_oauth_client_uses_every_data_store(stores: Served) -> None:
    """The product's back end reads a closed store."""
    answer = await run_action(stores, GET, stores.headers())

    assert answer.json()["ret"] == "kept in orders"


@pytest.mark.parametrize("path", ["configure", "props"])
async def test_a_form_of_a_connect_token_names_no_closed_store(stores: Served, path: str) -> None:
    """A form may omit the data store, and must not name a closed one."""
    body = {"external_user_id": "ada", "id": "data_stores-get-record", "prop_name": "key"}
    token = bearer(connect_token(stores))
    statuses = [
        (
            await stores.call("POST", f"/actions/{path}", json={**body, "configured_props": props}, headers=token)
        ).status_code
        for props in ({}, {"dataStore": "orders"}, {"dataStore": "{{ process.exit() }}"})
    ]

    assert statuses == [200, 403, 403]


async def test_an_action_ends_here_when_another_server_continues_it(tmp_path: Path, postgres_url: str) -> None:
    """A server that was taken for dead ends the action, as it ends runs of workflows, and its caller learns where the run is."""
    asked, released = threading.Event(), threading.Event()

    def hang(_: SentRequest) -> Answer:
        asked.set()
        released.wait(30)
        return 200, b"", {}

    gateway = await Gateway.start(tmp_path / "egress", environ={})
    with serve(AnsweringServer(hang)) as service:
        try:
            async with served(tmp_path, egress="live", gateway=gateway, database_url=postgres_url) as site:
                calling = asyncio.ensure_future(send(site, service.url, {}))
                await asyncio.to_thread(asked.wait, 30)
                mark_dead(site.project, site.context.engine.journal.executor_id)
                while not site.context.engine.journal.is_lost:
                    await asyncio.sleep(0.05)
                await site.state.runs.abandon_runs()
                answer = await calling
                was_answered = released.is_set()
        finally:
            released.set()

    assert (answer.status_code, answer.json()) == (400, {"error": LOST_MESSAGE})
    assert not was_answered

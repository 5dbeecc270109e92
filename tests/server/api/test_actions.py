"""Actions that run once for a caller: what those that a Connect token starts may reach."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from pdkernel.egress import Gateway
from tests.server.api.test_accounts import bearer, connect_token
from tests.server.served import Served, served

INSIDE, AWAY = "inside.test", "away.test"
PUBLIC = "203.0.114.7"


class _Service(BaseHTTPRequestHandler):
    """A service of this machine, which no end user is meant to reach; `/away?URL` redirects."""

    def do_GET(self) -> None:
        """Answer."""
        path, _, url = self.path.partition("?")
        body = b"the service's own data"
        self.send_response(302 if path == "/away" else 200)
        if path == "/away":
            self.send_header("location", url)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    """The service's URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Service)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


async def lookup(host: str, port: int) -> Sequence[str]:
    """A name of this machine, a public one, and addresses."""
    return {INSIDE: ["127.0.0.1"], AWAY: [PUBLIC]}.get(host, [host])


@pytest.fixture(params=["deny", "live"])
async def site(request: pytest.FixtureRequest, tmp_path: Path, service: str) -> AsyncIterator[Served]:
    """A project whose outbound calls are denied, and one where they are not; AWAY is where the service is."""
    here = ("127.0.0.1", int(service.rpartition(":")[2]))
    gateway = await Gateway.start(tmp_path / "egress", environ={}, host_overrides={(PUBLIC, 80): here}, lookup=lookup)
    async with served(tmp_path, egress=request.param, gateway=gateway) as site:
        yield site


async def run(site: Served, url: str, headers: dict[str, str]) -> Any:
    """What Ada's HTTP action answers."""
    body = {
        "external_user_id": "ada",
        "id": "http-custom-request",
        "configured_props": {"httpRequest": {"method": "GET", "url": url}},
    }
    answer = await site.call("POST", "/actions/run", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


def error_of(answer: Any) -> str:
    """The error that an action told."""
    return next(str(each["err"]) for each in answer["os"] if each["k"] == "error")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "2130706433", INSIDE])
async def test_a_connect_token_does_not_reach_this_machine(site: Served, service: str, host: str) -> None:
    """An action that a Connect token runs gets no answer of a service here, by whatever name and in whatever mode."""
    url = service.replace("127.0.0.1", host)

    answer = await run(site, url, bearer(connect_token(site)))

    assert answer["ret"] is None
    assert "own data" not in str(answer)
    assert "was not sent" in error_of(answer)


async def test_a_redirect_leads_a_connect_token_nowhere(site: Served, service: str) -> None:
    """A public host that redirects to this machine is no way in."""
    answer = await run(site, f"http://{AWAY}/away?{service}", bearer(connect_token(site)))

    assert "own data" not in str(answer)
    assert "was not sent" in error_of(answer)


async def test_an_oauth_client_reaches_this_machine(site: Served, service: str) -> None:
    """The product's own back end may have an action call a service beside it, in each mode."""
    answer = await run(site, service, site.headers())

    assert answer["ret"] == "the service's own data"
    assert answer["os"] == []


async def test_processes_are_not_shared(site: Served, service: str) -> None:
    """A process that an OAuth client's action has used is not used for a Connect token's."""
    await run(site, service, site.headers())
    answer = await run(site, service, bearer(connect_token(site)))

    assert "own data" not in str(answer)


async def test_a_connect_token_reaches_public_hosts(site: Served) -> None:
    """A public host is reached where the mode lets calls out."""
    answer = await run(site, f"http://{AWAY}/", bearer(connect_token(site)))

    assert (answer["ret"] is None) == (site.context.settings.policy.mode == "deny")


GET = {"id": "data_stores-get-record", "configured_props": {"dataStore": "orders", "key": "a"}}
"""What reads the record `a` of the store `orders`."""


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[Served]:
    """A project with records in two stores, of which none is open to Connect tokens."""
    async with served(tmp_path) as site:
        for store in ("orders", "default"):
            site.project.data_stores.set(store, "a", f"kept in {store}")
        yield site


async def ask(site: Served, body: dict[str, Any], headers: dict[str, str]) -> Any:
    """The answer to Ada's run of an action."""
    return await site.call("POST", "/actions/run", json={"external_user_id": "ada", **body}, headers=headers)


@pytest.mark.parametrize(
    "store", ["orders", {"storeId": "orders"}, "default", None, {}, "", "{{ 'orders' }}", "orders "]
)
@pytest.mark.parametrize("act", ["get-record", "delete-all-records", "add-update-record", "list-records"])
async def test_a_connect_token_uses_no_data_store(stores: Served, act: str, store: object) -> None:
    """A store is refused, however it is named, and the default store without a name; no record is read or changed."""
    props = {"dataStore": store, "key": "a", "value": "mine"}
    answer = await ask(stores, {"id": f"data_stores-{act}", "configured_props": props}, bearer(connect_token(stores)))

    assert answer.status_code == 403
    assert "is not open to Connect tokens" in answer.json()["error"]
    assert "kept in" not in answer.text
    for name in ("orders", "default"):
        record = stores.project.data_stores.find(name, "a")
        assert record is not None
        assert record.value == f"kept in {name}"


async def test_a_store_is_not_a_number(stores: Served) -> None:
    """A value that is not a name is a 400, for every caller."""
    body = {**GET, "configured_props": {"dataStore": 7, "key": "a"}}

    for headers in (bearer(connect_token(stores)), stores.headers()):
        assert (await ask(stores, body, headers)).status_code == 400


async def test_a_connect_token_uses_stores_that_the_project_opens(stores: Served) -> None:
    """A store that the project names is read; the others stay closed, also once it is closed again."""
    token = bearer(connect_token(stores))
    stores.project.set_connect_data_stores(["orders"])

    opened = await ask(stores, GET, token)
    other = await ask(stores, {**GET, "configured_props": {"key": "a"}}, token)
    stores.project.set_connect_data_stores([])
    closed = await ask(stores, GET, token)

    assert opened.json()["ret"] == "kept in orders"
    assert (other.status_code, closed.status_code) == (403, 403)


async def test_an_oauth_client_uses_every_store(stores: Served) -> None:
    """The product's own back end reads any store."""
    answer = await ask(stores, GET, stores.headers())

    assert answer.json()["ret"] == "kept in orders"


@pytest.mark.parametrize("path", ["configure", "props"])
async def test_a_form_names_no_store(stores: Served, path: str) -> None:
    """A form of a Connect token may leave the store out, and may not name one that is closed."""
    body = {"external_user_id": "ada", "id": "data_stores-get-record", "prop_name": "key"}
    token = bearer(connect_token(stores))
    said = [
        (
            await stores.call("POST", f"/actions/{path}", json={**body, "configured_props": props}, headers=token)
        ).status_code
        for props in ({}, {"dataStore": "orders"}, {"dataStore": "{{ process.exit() }}"})
    ]

    assert said == [200, 403, 403]

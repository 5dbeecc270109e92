"""The proxy: requests to apps' APIs with a user's account, to an outside on this machine."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
from starlette.types import Message

from pdkernel.connect.oauth import OAuthTokens
from pdkernel.connect.oauth_providers import OAuthProvider, register_provider
from pdkernel.connect.token_refresh import store_grant
from pdkernel.egress import Gateway
from pdkernel.server import create_app
from tests.server.api.test_accounts import bearer, connect_token
from tests.server.served import Served, served

TOKEN = "xoxb-4e8d21b7c9"
HOST = "127.0.0.1:4000"
URL = "https://slack.com/api/chat.postMessage?q=a%20b"


class _Seen(BaseHTTPRequestHandler):
    """Answers with what it was sent."""

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.path == "/token":
            self._said(200, {"access_token": "renewed-token-1", "token_type": "Bearer", "expires_in": 3600})
            return
        if self.path.endswith("/guarded") and self.headers["authorization"] != "Bearer renewed-token-1":
            self._said(401, {"error": "expired"})
            return
        if self.path.endswith("/away"):
            self.send_response(302)
            self.send_header("location", "https://elsewhere.example/")
            self.end_headers()
            return
        if self.path.endswith("/unchanged"):
            self.send_response(304)
            self.send_header("content-length", "100")
            self.end_headers()
            return
        if self.path.endswith("/broken"):
            self.send_response(200)
            self.send_header("content-length", "100")
            self.end_headers()
            self.wfile.write(b"half")
            self.close_connection = True
            return
        told = {"method": self.command, "path": self.path, "headers": dict(self.headers), "body": body.decode()}
        self._said(201, told)

    def _said(self, status: int, told: dict[str, Any]) -> None:
        said = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("x-depot", "yes")
        self.send_header("set-cookie", "mine=1")
        self.send_header("content-length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def outside() -> Iterator[str]:
    """Stands in for every host."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Seen)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
async def site(tmp_path: Path, outside: str) -> AsyncIterator[Served]:
    """A project whose outside calls go to the stand-in; ada and grace have a Slack account each."""
    async with served(tmp_path, egress=f"stand-in={outside}") as site:
        add_accounts(site)
        yield site


def add_accounts(site: Served) -> None:
    """Connect the accounts."""
    for user in ("ada", "grace"):
        site.directory.add_account(
            app="slack",
            credentials={"oauth_access_token": f"{TOKEN}-{user}"},
            external_user_id=user,
            account_id=f"apn_{user}",
        )


def encoded(url: str = URL) -> str:
    """The URL as the Python SDK writes it."""
    return base64.urlsafe_b64encode(url.encode()).decode()


async def send(site: Served, url: str = URL, *, method: str = "POST", account: str = "apn_ada", **kwargs: Any) -> Any:
    """Send ada's request."""
    params = {"external_user_id": "ada", "account_id": account}
    return await site.call(method, f"/proxy/{encoded(url)}", params=params, **kwargs)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
async def test_a_request_carries_the_account(site: Served, method: str) -> None:
    """The app gets method, path, query, headers and body, with the user's token and not the caller's."""
    body = b"" if method in ("GET", "DELETE") else b'{"a": 1}'
    answer = await send(
        site,
        method=method,
        content=body,
        headers={"Content-Type": "application/json", "x-pd-proxy-X-Foo": "1", "x-pd-proxy-authorization": "mine"},
    )

    seen = answer.json()
    headers = httpx.Headers(seen["headers"])
    assert answer.status_code == 201
    assert (seen["method"], seen["path"], seen["body"]) == (method, "/api/chat.postMessage?q=a%20b", body.decode())
    assert headers["authorization"] == f"Bearer {TOKEN}-ada"
    assert headers["x-foo"] == "1"
    assert headers["x-forwarded-host"] == "slack.com"
    assert not any(name.startswith("x-pd") for name in headers)
    assert answer.headers["x-depot"] == "yes"
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "text",
    [
        base64.urlsafe_b64encode(URL.encode()).decode().rstrip("="),
        base64.b64encode(URL.encode()).decode().replace("/", "%2F").replace("=", "%3D").replace("+", "%2B"),
        base64.b64encode(b"https://slack.com/api/" + b"?>?>?>").decode(),
    ],
)
async def test_both_alphabets(site: Served, text: str) -> None:
    """JS and Python write base64 differently, padded or not, escaped or not."""
    answer = await site.call("GET", f"/proxy/{text}?external_user_id=ada&account_id=apn_ada")

    assert answer.status_code == 201


async def test_a_redirect_is_not_followed(site: Served) -> None:
    """Where an app sends the caller to is the caller's to follow, without the account."""
    answer = await send(site, "https://slack.com/api/away", method="GET")

    assert (answer.status_code, answer.headers["location"]) == (302, "https://elsewhere.example/")


async def test_length_of_what_has_not_changed(site: Served) -> None:
    """A 304 is passed on without the length of the body that it does not have."""
    answer = await send(site, "https://slack.com/api/unchanged", method="GET")

    assert answer.status_code == 304
    assert "content-length" not in answer.headers


@pytest.mark.parametrize(
    "url",
    [
        "https://slack.com.evil.example/",
        "https://evil.example/?https://slack.com/",
        "https://slack.com@evil.example/",
        "https://evilslack.com/",
        "http://slack.com/api",
        "https://slack.com:8443/api",
        "http://127.0.0.1:80/",
        "http://localhost/",
        "https://[::1]/",
        "https://10.0.0.7/",
        "https://169.254.169.254/latest/meta-data",
        "https://2130706433/",
        "https://0x7f.1/",
        "file:///etc/passwd",
        "/relative",
        "https://",
        "https://slack.com:99999/",
        "not a url",
    ],
)
async def test_the_account_goes_to_its_app_only(site: Served, url: str) -> None:
    """Another host, another port, plain HTTP and addresses of this or a private network are refused."""
    answer = await send(site, url, method="GET")

    assert answer.status_code in (400, 403)
    assert TOKEN not in answer.text
    assert "path" not in answer.json()


@pytest.mark.parametrize(
    "url",
    [
        "https://.slack.com/",
        "https://a..slack.com/",
        "https://slack.com../",
        "https://-a.slack.com/",
        f"https://{'a' * 64}.slack.com/",
        f"https://{'.'.join(['a' * 60] * 5)}.slack.com/",
        "https://xn--.slack.com/",
        "https://xn--a.slack.com/",
        "https://*.slack.com/",
        "https://sl%61ck.com/",
        "https://ü\0.slack.com/",
        "https://slack.com:99999/",
        "https://ada@slack.com/",
        "https://@slack.com/",
        "https://[slack.com]/",
    ],
)
async def test_a_host_that_cannot_be_looked_up(site: Served, url: str) -> None:
    """Empty, long and undecodable labels, ports that do not exist and user names are 400 with the reason; nothing is sent."""
    answer = await send(site, url, method="GET")

    assert answer.status_code == 400
    assert "is not an absolute http or https URL" in answer.json()["error"]


async def test_a_name_in_another_script(site: Served) -> None:
    """A name that IDNA can write is called, with or without the dot of the root."""
    answer = await send(site, "https://müller.slack.com./api", method="GET")

    assert httpx.Headers(answer.json()["headers"])["x-forwarded-host"] == "xn--mller-kva.slack.com."


async def test_whose_account(site: Served) -> None:
    """Another user's account, none, and one of the other environment are not there."""
    assert (await send(site, account="apn_grace")).status_code == 404
    assert (await send(site, account="apn_nobody")).status_code == 404
    assert (await send(site, environment="production")).status_code == 404
    assert (await site.call("GET", f"/proxy/{encoded()}", params={"external_user_id": "ada"})).status_code == 400
    assert (await site.call("GET", f"/proxy/{encoded()}", params={"account_id": "apn_ada"})).status_code == 400
    assert (await site.call("GET", "/proxy/%25%25?external_user_id=ada&account_id=apn_ada")).status_code == 400


async def test_the_mode_of_outside_calls_holds(tmp_path: Path) -> None:
    """Where outside calls are denied, the proxy sends nothing and says why."""
    async with served(tmp_path, egress="deny") as site:
        add_accounts(site)

        answer = await send(site)

        assert answer.status_code == 403
        assert "the mode for outbound calls is deny" in answer.json()["error"]
        assert TOKEN not in answer.text


async def test_a_host_that_does_not_answer(tmp_path: Path) -> None:
    """A call that gets no answer is 502 with the cause, and no text of ours that is taken for the app's."""
    async with served(tmp_path, egress="stand-in=http://127.0.0.1:9") as site:
        add_accounts(site)

        answer = await send(site)

        assert answer.status_code == 502
        assert "got no response: 127.0.0.1:9 refused the connection (ECONNREFUSED)." in answer.json()["error"]
        assert TOKEN not in answer.text


async def test_an_app_that_is_not_listed(site: Served, tmp_path: Path) -> None:
    """Its account goes where the mode leads every call to, and nowhere by itself."""
    async with served(tmp_path / "deny", egress="deny") as other:
        for each in (site, other):
            each.directory.add_account(
                app="depot", credentials={"api_key": "dk-123456"}, external_user_id="ada", account_id="apn_depot"
            )

        there = await send(site, "https://depot.example/x", account="apn_depot")
        refused = await send(other, "https://depot.example/x", account="apn_depot")

    assert httpx.Headers(there.json()["headers"])["authorization"] == "Bearer dk-123456"
    assert refused.status_code == 400


async def test_a_token_that_the_app_refuses_is_renewed(site: Served, outside: str) -> None:
    """An account that was connected by OAuth gets a new token, and the request is made once more; no other does."""
    register_provider(site.project, "slack", OAuthProvider(f"{outside}/authorize", f"{outside}/token", "client-1"))
    store_grant(site.project, "apn_ada", OAuthTokens("old", "refresh-token-1", 3600.0))

    renewed = await send(site, "https://slack.com/api/guarded")
    other = await site.call(
        "POST",
        f"/proxy/{encoded('https://slack.com/api/guarded')}",
        params={"external_user_id": "grace", "account_id": "apn_grace"},
    )

    assert renewed.status_code == 201
    assert httpx.Headers(renewed.json()["headers"])["authorization"] == "Bearer renewed-token-1"
    assert other.status_code == 401


async def test_an_answer_that_breaks_off(site: Served) -> None:
    """The caller gets what came, and no end of it; the server has no error of its own to tell of."""
    said: list[Message] = []

    async def receive() -> Message:
        await asyncio.sleep(0 if not said else 60)
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        said.append(message)

    path = f"/v1/connect/{site.project.project_id}/proxy/{encoded('https://slack.com/broken')}"
    headers = [(name.lower().encode(), value.encode()) for name, value in {**site.headers(), "host": HOST}.items()]
    scope = {"type": "http", "method": "GET", "path": path, "headers": headers}
    await create_app(site.context)({**scope, "query_string": b"external_user_id=ada&account_id=apn_ada"}, receive, send)

    assert [message.get("status") for message in said if message["type"] == "http.response.start"] == [200]
    assert b"".join(message.get("body", b"") for message in said) == b"half"
    assert all(message.get("more_body", True) for message in said)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "inside.test"])
async def test_a_connect_token_does_not_reach_this_machine(tmp_path: Path, outside: str, host: str) -> None:
    """A host that the mode allows by name is reached with a client's token; with a Connect token only if it is public."""

    async def lookup(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"]

    port = int(outside.rpartition(":")[2])
    resolve = {} if host != "inside.test" else {(host, port + 1): ("127.0.0.1", port)}
    gateway = await Gateway.start(tmp_path / "egress", environ={}, host_overrides=resolve, lookup=lookup)
    async with served(tmp_path, egress=f"allow={host}", gateway=gateway) as site:
        site.directory.add_account(
            app="depot", credentials={"api_key": TOKEN}, external_user_id="ada", account_id="apn_ada"
        )
        url = f"http://{host}:{port}/x"
        refused = await send(site, url, headers=bearer(connect_token(site)))
        answered = await send(site, url if not resolve else f"http://{host}:{port + 1}/x")

    assert refused.status_code == 403
    assert "public address" in refused.json()["error"]
    assert answered.status_code == 201
